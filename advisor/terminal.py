"""The verdict on a terminal: what is slow, what to do, and where the whole report lies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from stepscope.advisor import wording
from stepscope.advisor.advice import Advice, CauseShare, CriticalPath, PlanStep
from stepscope.advisor.critical_path import label as owner_label

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

_WIDTH = 100
_BAR = 20
_CAUSES = 6
_STEPS = 4
_OWNERS = 5
_TEMPTING = 3
_NOTES = 4
_MIN_SHARE = 0.01
_COLOURS = {
    "data_loading": "blue",
    "cpu_preprocessing": "yellow",
    "compute": "green",
    "memory": "magenta",
    "communication": "red",
    "host": "cyan",
}


def print_verdict(advice: Advice, console: Console, report_path: str | None) -> None:
    """Print at most 100 columns and about 40 lines; colour only where `console` has it.

    Args:
        advice: what to say.
        console: where to say it.
        report_path: the HTML report, or None where none was written.
    """
    writer = Writer(console)
    write_summary(writer, advice)
    if advice.critical_path is not None:
        _path(writer, advice.critical_path)
    if advice.tempting:
        writer.heading("Tempting but useless here")
        for method in advice.tempting[:_TEMPTING]:
            writer.line(f"  {method.title}: {method.reason}", cut=True)
    if advice.notes:
        writer.heading("Notes")
        for note in advice.notes[:_NOTES]:
            writer.item("-", writer.text(note))
        if len(advice.notes) > _NOTES:
            writer.line(f"  and {len(advice.notes) - _NOTES} more in the report", style="dim")
    if report_path is not None:
        writer.heading("Report")
        # Not wrapped: a path is copied whole.
        console.print(writer.text(f"  {report_path}"), soft_wrap=True)


def write_summary(writer: Writer, advice: Advice) -> None:
    """The verdict, where the step goes, and the plan."""
    _verdict(writer, advice)
    _breakdown(writer, advice.breakdown, advice.step_seconds)
    _plan(writer, advice)


class Writer:
    """Prints texts that nobody can trust: no markup, no control characters, no surprises."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.width = min(console.width, _WIDTH)
        self.ascii = console.options.ascii_only

    def print(self, part: RenderableType) -> None:
        """Print something within the width."""
        self.console.print(part, width=self.width)

    def text(self, text: str, style: str = "") -> Text:
        """`text` as it can be shown here, its leading spaces kept."""
        from rich.text import Text  # noqa: PLC0415  # rich costs start-up time others do not need

        shown = text[: len(text) - len(text.lstrip(" "))] + wording.one_line(text)
        if self.ascii:
            shown = shown.replace("µ", "u").encode("ascii", "replace").decode("ascii")
        return Text(shown, style=style)

    def line(self, text: str, style: str = "", cut: bool = False) -> None:
        """One paragraph, or exactly one line with `cut`."""
        shown = self.text(text, style)
        if cut:
            shown.truncate(self.width, overflow="crop" if self.ascii else "ellipsis")
        self.print(shown)

    def indented(self, text: str, style: str = "") -> None:
        """A paragraph two columns to the right."""
        from rich.padding import Padding  # noqa: PLC0415

        self.print(Padding(self.text(text, style), (0, 0, 0, 2)))

    def heading(self, text: str) -> None:
        """An empty line and a title."""
        self.line("")
        self.line(text, "bold")

    def item(self, label: str, *parts: Text) -> None:
        """A list item whose lines stay to the right of its label."""
        grid = self.grid()
        grid.add_column(width=len(label) + 3, no_wrap=True)
        grid.add_column()
        for i, part in enumerate(parts):
            grid.add_row(self.text("  " + label if i == 0 else ""), part)
        self.print(grid)

    def grid(self) -> Table:
        """A table without lines."""
        from rich.table import Table  # noqa: PLC0415

        return Table.grid(padding=(0, 1, 0, 0))


class Sheet(Writer):
    """Keeps what is written, to be shown as a whole: `parts`."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.parts: list[RenderableType] = []

    def print(self, part: RenderableType) -> None:
        """Add something, as wide as it would be printed."""
        from rich.constrain import Constrain  # noqa: PLC0415

        self.parts.append(Constrain(part, self.width))


def _verdict(writer: Writer, advice: Advice) -> None:
    verdict = advice.verdict
    tag, colour = ("HEALTHY", "green") if verdict.healthy else ("BOTTLENECK", "red")
    line = writer.text(f"{tag}: {wording.category_label(verdict.category)}", f"bold {colour}")
    writer.print(line.append(f"  {wording.one_line(advice.source)}", "dim"))
    writer.line(verdict.sentence, "bold")
    if verdict.places:
        writer.line("Where: " + "; ".join(map(wording.place, verdict.places)))


def _breakdown(writer: Writer, lines: list[CauseShare], step_seconds: float) -> None:
    if not lines:
        return
    writer.heading(f"Where the step goes ({wording.duration(step_seconds)})")
    ordered = wording.by_share(lines)
    shown = [line for line in ordered[:_CAUSES] if line.share >= _MIN_SHARE] or ordered[:1]
    grid = writer.grid()
    grid.add_column(no_wrap=True, max_width=max(8, writer.width - _BAR - 22))
    grid.add_column(width=_BAR, no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    for line in shown:
        grid.add_row(
            writer.text(f"  {wording.cause_label(line.cause)}"),
            _bar(writer, line),
            writer.text(wording.duration(line.seconds_per_step)),
            writer.text(wording.share(line.share)),
        )
    writer.print(grid)
    rest = [line for line in ordered[len(shown) :] if line.share > 0]
    if rest:
        part = wording.share(sum(line.share for line in rest))
        writer.indented(f"{wording.plural(len(rest), 'smaller cause')}: {part}", "dim")


def _bar(writer: Writer, line: CauseShare) -> Text:
    colour = _COLOURS.get(wording.category_of(line.cause), "white")
    length = _BAR * min(max(line.share, 0.0), 1.0)
    bar = "#" * max(1, round(length))
    if not writer.ascii:
        eighths = max(1, round(8 * length))
        bar = "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
    return writer.text("").append(bar, colour)


def _path(writer: Writer, path: CriticalPath) -> None:
    writer.heading("Critical path: what the step was waiting for")
    owners = ", ".join(
        f"{owner_label(line.owner)} {wording.share(line.share)}"
        for line in path.owners[:_OWNERS]
        if line.share >= _MIN_SHARE
    )
    writer.indented(owners)
    if path.ranks:
        writer.indented("It runs through " + ", ".join(map(wording.path_item, path.ranks)))
    for found in path.what_if:
        writer.item("if", writer.text(wording.what_if(found, owner_label(found.next_owner))))


def _plan(writer: Writer, advice: Advice) -> None:
    if advice.plan:
        writer.heading("Plan")
    for number, step in enumerate(advice.plan[:_STEPS], 1):
        writer.item(f"{number}.", *_step(writer, step))
    if len(advice.plan) > _STEPS:
        writer.line(f"  and {len(advice.plan) - _STEPS} more in the report", "dim")
    if advice.left:
        if not advice.plan:
            writer.line("")
        writer.indented(advice.left)


def _step(writer: Writer, step: PlanStep) -> Iterable[Text]:
    measured = f", measured {wording.speedup(step.measured.speedup)}" if step.measured else ""
    yield writer.text(f"{step.title} [{step.kind}, {step.effort}]", "bold")
    yield writer.text(
        f"predicted {wording.prediction(step.predicted)}{measured}; "
        f"{wording.speedup(step.cumulative)} in all; "
        f"next bottleneck: {wording.cause_label(step.next_cause)}"
    )
