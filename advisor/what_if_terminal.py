"""Several methods at once, on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepscope.advisor import wording
from stepscope.advisor.advice import WhatIf
from stepscope.advisor.critical_path import label
from stepscope.advisor.scaling.answer import Forecast
from stepscope.advisor.scaling.terminal import print_forecast
from stepscope.advisor.terminal import Writer

if TYPE_CHECKING:
    from rich.console import Console

    from stepscope.advisor.what_if import Part, Together


def print_result(result: Together | WhatIf | Forecast, console: Console) -> None:
    """Methods, a replay, or a job under other conditions."""
    if isinstance(result, WhatIf):
        print_replay(result, console)
    elif isinstance(result, Forecast):
        print_forecast(result, console)
    else:
        print_together(result, console)


def print_replay(found: WhatIf, console: Console) -> None:
    """A step as it was recorded and as it would be."""
    writer = Writer(console)
    writer.line(f"If {found.scenario}:", "bold")
    writer.indented(
        f"a step takes {wording.duration(found.predicted_seconds)} instead of "
        f"{wording.duration(found.step_seconds)}: {wording.speedup(found.speedup)} "
        f"({wording.plural(found.steps, 'step')} replayed)"
    )
    writer.indented(
        f"then {wording.share(found.next_share)} of it waits for {label(found.next_owner)}"
    )
    writer.indented(
        "An estimate, more often too high than too low: dependencies that held nothing back in "
        "the recording are not known.",
        "dim",
    )


def print_together(together: Together, console: Console) -> None:
    """Each method, then all of them, then what is known of them beside each other."""
    writer = Writer(console)
    for number, part in enumerate(together.parts, 1):
        writer.item(
            f"{number}.",
            writer.text(f"{part.title} [{part.kind}]", "bold"),
            *(writer.text(line) for line in _lines(part)),
        )
    interval = wording.speedup_interval(together.low, together.high)
    writer.heading(f"Together {wording.speedup(together.speedup)} ({interval})")
    writer.indented(
        f"{together.kappa:.2f} of the product of the single gains (kappa); then the step is held "
        f"by {wording.cause_label(together.next_cause)}, and what is left is at most "
        f"{wording.share(together.left_share)} of it."
    )
    for each in together.interplay:
        names = ", ".join(each.methods)
        beside = f" with {', '.join(each.partners)}" if each.partners else ""
        writer.item(
            "-",
            writer.text(f"{names}{beside}: {wording.RELATIONS[each.relation]}", "bold"),
            writer.text(f"{each.why} ({each.source})"),
        )


def _lines(part: Part) -> list[str]:
    lines = [f"{part.method}: {part.remark}" if part.remark else part.method]
    if part.alone is not None and part.on_top is not None:
        lines.append(f"alone {wording.prediction(part.alone)}")
        lines.append(f"here {wording.prediction(part.on_top)}, if {part.on_top.assumes}")
        return lines
    if part.factors is not None:
        lines.append(wording.factors(part.factors))
    return [*lines, f"not predicted; reported: {part.reported}"]
