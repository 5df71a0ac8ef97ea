"""Profiles and advice as tables: what `--to csv` and `--to parquet` write.

Every table begins with the columns `source` (file name) and `rank`. Units are in the names, as in
the profile: `_ns` nanoseconds, `_bytes`, `_share` 0..1. What was not measured is empty. A table
without rows is written too, so that a program that reads it need not ask.

    python -m stepscope.advisor.export.tables > docs/tables.md
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from msgspec import Struct

from stepscope.advisor import advice as told
from stepscope.advisor.advice import Advice
from stepscope.advisor.export.struct_columns import Cell, Plain, cells_of, columns_of
from stepscope.advisor.fact_names import fact_name
from stepscope.profiler import format as seen
from stepscope.profiler.format import Profile, Steps

Row = tuple[Cell, ...]
KEYS: dict[str, Plain] = {"source": str, "rank": int}


class Judged(NamedTuple):
    """A profile and what follows from it; no advice where it has too few steps."""

    source: str
    profile: Profile
    advice: Advice | None


class Table(NamedTuple):
    """One table."""

    name: str
    title: str
    """What a row is."""
    columns: dict[str, Plain]
    rows_of: Callable[[Judged], Iterable[Row]]

    def rows(self, judged: Judged) -> Iterator[Row]:
        """The rows of one profile, keys first."""
        keys = (judged.source, judged.profile.run.rank)
        return (keys + row for row in self.rows_of(judged))


def _table(
    name: str, title: str, rows: Callable[[Judged], Iterable[Row]], /, **own: Plain
) -> Table:
    return Table(name, title, KEYS | own, rows)


def _records(
    name: str,
    title: str,
    struct: type[Struct],
    found: Callable[[Judged], Iterable[tuple[Row, Struct]]],
    /,
    **own: Plain,
) -> Table:
    """A table of records, each behind cells of its own; names that are taken get a prefix."""
    columns = KEYS | own
    for name_, kind, *_ in columns_of(struct):
        taken = name_ in KEYS or name_ in own
        columns[f"{struct.__name__.lower()}_{name_}" if taken else name_] = kind
    return Table(
        name, title, columns, lambda judged: (own + cells_of(each) for own, each in found(judged))
    )


def _seen(
    name: str,
    title: str,
    struct: type[Struct],
    found: Callable[[Profile], Iterable[Struct | None]],
) -> Table:
    """Records of the profile; those that are None are left out."""

    def rows(judged: Judged) -> Iterator[tuple[Row, Struct]]:
        return (((), each) for each in found(judged.profile) if each is not None)

    return _records(name, title, struct, rows)


def _told(
    name: str, title: str, struct: type[Struct], found: Callable[[Advice], Iterable[Struct]]
) -> Table:
    """Records of the advice."""

    def rows(judged: Judged) -> Iterator[tuple[Row, Struct]]:
        return (((), each) for each in (found(judged.advice) if judged.advice else ()))

    return _records(name, title, struct, rows)


# The profile ------------------------------------------------------------------------------------


def _parts(judged: Judged) -> Iterator[tuple[str, Steps]]:
    yield "warmup", judged.profile.warmup
    yield "steady", judged.profile.steady


_STEP_COLUMNS = ("first", "start_ns", *seen.STEP_COLUMNS)


def _steps(judged: Judged) -> Iterator[Row]:
    for part, steps in _parts(judged):
        empty = [None] * len(steps.first)
        columns = [getattr(steps, name) or empty for name in _STEP_COLUMNS]
        for row in zip(*columns, strict=True):
            yield (part, *row)


def _phases(judged: Judged) -> Iterator[Row]:
    for part, steps in _parts(judged):
        for phase, column in steps.phases.items():
            for first, count, wall in zip(steps.first, steps.count, column, strict=True):
                yield part, first, count, phase, wall


def _calls(judged: Judged) -> Iterator[Row]:
    for part, steps in _parts(judged):
        for name, column in steps.calls.items():
            for first, count, calls in zip(steps.first, steps.count, column, strict=True):
                yield part, first, count, name, calls


def _step_time(judged: Judged) -> Iterator[Row]:
    found = judged.profile.step_time
    for bin_, count in zip(found.bins, found.counts, strict=True):
        yield found.growth**bin_, found.growth ** (bin_ + 1), count


def _workers(judged: Judged) -> Iterator[tuple[Row, Struct]]:
    for number, loader in enumerate(judged.profile.loaders):
        for worker in loader.workers:
            yield (number,), worker


def _batches(judged: Judged) -> Iterator[Row]:
    for number, loader in enumerate(judged.profile.loaders):
        if found := loader.batches:
            columns = found.worker, found.start_ns, found.wall_ns, found.cpu_ns, found.run_delay_ns
            for row in zip(*columns, strict=True):
                yield (number, found.stride, *row)


def _sites(judged: Judged) -> Iterator[tuple[Row, Struct]]:
    for site in judged.profile.sites:
        yield (None,), site
    for number, loader in enumerate(judged.profile.loaders):
        for site in loader.sites:
            yield (number,), site


def _samples(judged: Judged) -> Iterator[Row]:
    found = judged.profile.samples
    for signal, column in found.columns.items():
        for time, value in zip(found.time_ns, column, strict=True):
            if value is not None:
                yield time, signal, value


def _metrics(judged: Judged) -> Iterator[Row]:
    for name, found in judged.profile.metrics.items():
        for step, time, value in zip(found.step, found.time_ns, found.value, strict=True):
            yield name, step, time, value


def _window_phases(judged: Judged) -> Iterator[tuple[Row, Struct]]:
    if window := judged.profile.window:
        for phase, found in window.phases.items():
            yield (phase,), found


# The advice -------------------------------------------------------------------------------------


def _plan(judged: Judged) -> Iterator[tuple[Row, Struct]]:
    if judged.advice:
        for number, step in enumerate(judged.advice.plan, 1):
            yield (number,), step


def _recommendations(judged: Judged) -> Iterator[tuple[Row, Struct]]:
    if judged.advice:
        for finding in judged.advice.findings:
            for each in finding.recommendations:
                yield (finding.rule,), each


def _facts(judged: Judged) -> Iterator[Row]:
    for name, value in (judged.advice.facts if judged.advice else {}).items():
        known = fact_name(name)
        number = None if isinstance(value, str) else float(value)
        text = value if isinstance(value, str) else None
        yield name, known.unit if known else None, number, text


_STEP: dict[str, Plain] = {"part": str, "first": int, "count": int}

TABLES: list[Table] = [
    _seen("runs", "A run.", seen.Run, lambda p: [p.run]),
    _seen("environments", "Its machine and software.", seen.Environment, lambda p: [p.environment]),
    _seen("gpus", "A device of that machine.", seen.Gpu, lambda p: p.environment.gpus),
    _seen(
        "configurations",
        "What the program has switched on.",
        seen.Configuration,
        lambda p: [p.configuration],
    ),
    _seen("models", "A model that was called.", seen.Model, lambda p: p.configuration.models),
    _seen(
        "optimizers",
        "An optimizer that took a step.",
        seen.Optimizer,
        lambda p: p.configuration.optimizers,
    ),
    _table(
        "steps",
        "`count` consecutive steps (`part`: warmup or steady); times are sums over them.",
        _steps,
        part=str,
        **dict.fromkeys(_STEP_COLUMNS, int),
    ),
    _table("phases", "A phase of those steps.", _phases, **_STEP, phase=str, wall_ns=int),
    _table("calls", "How often something was done in them.", _calls, **_STEP, name=str, calls=int),
    _table(
        "step_times",
        "Steady steps that took a time in [`low_ns`, `high_ns`).",
        _step_time,
        low_ns=float,
        high_ns=float,
        count=int,
    ),
    _seen("loaders", "A DataLoader.", seen.Loader, lambda p: p.loaders),
    _records(
        "workers",
        "A process that fetched batches for a loader (by position in `loaders`, from 0).",
        seen.Worker,
        _workers,
        loader=int,
    ),
    _table(
        "batches",
        "A batch as a worker made it; one of `stride` is kept.",
        _batches,
        loader=int,
        stride=int,
        worker=int,
        start_ns=int,
        wall_ns=int,
        cpu_ns=int,
        run_delay_ns=int,
    ),
    _records(
        "sites",
        "A place where the training thread, or else a worker of a loader, was seen.",
        seen.Site,
        _sites,
        loader=int,
    ),
    _table("samples", "A resource at a time.", _samples, time_ns=int, signal=str, value=float),
    _seen("marks", "An event.", seen.Mark, lambda p: p.marks),
    _table(
        "metrics",
        "A value that the program has logged.",
        _metrics,
        name=str,
        step=int,
        time_ns=int,
        value=float,
    ),
    _seen(
        "operators",
        "An operator, summed over the operator window, or over a trace.",
        seen.Operator,
        lambda p: p.window.operators if p.window else [],
    ),
    _records(
        "window_phases",
        "A phase, summed over the operator window.",
        seen.WindowPhase,
        _window_phases,
        phase=str,
    ),
    _seen(
        "traces", "What only a trace knows; sums over its steps.", seen.Trace, lambda p: [p.trace]
    ),
    _seen(
        "kernels", "A kernel of a trace.", seen.Kernel, lambda p: p.trace.kernels if p.trace else []
    ),
    _seen(
        "kernel_categories",
        "Kernels of one kind.",
        seen.KernelCategory,
        lambda p: p.trace.categories if p.trace else [],
    ),
    _seen(
        "copies",
        "Copies in one direction.",
        seen.Copies,
        lambda p: p.trace.copies if p.trace else [],
    ),
    _seen(
        "runtime_calls",
        "Calls of one function of the device's runtime.",
        seen.RuntimeCalls,
        lambda p: p.trace.runtime if p.trace else [],
    ),
    _seen(
        "annotations",
        "An annotation of the program.",
        seen.RuntimeCalls,
        lambda p: p.trace.annotations if p.trace else [],
    ),
    _seen("collectives", "Gradient exchange of a model.", seen.Collective, lambda p: p.collectives),
    _seen("jobs", "What several ranks tell together.", seen.Ranks, lambda p: [p.ranks]),
    _seen(
        "stragglers",
        "A rank that the others wait for.",
        seen.Straggler,
        lambda p: p.ranks.stragglers if p.ranks else [],
    ),
    _told("verdicts", "The answer.", told.Verdict, lambda a: [a.verdict]),
    _told(
        "breakdown", "A cause, and what it takes of a step.", told.CauseShare, lambda a: a.breakdown
    ),
    _records("plan", "A step of the plan.", told.PlanStep, _plan, number=int),
    _told("findings", "A rule that fired.", told.Finding, lambda a: a.findings),
    _records(
        "recommendations",
        "A method offered under a finding.",
        told.Recommendation,
        _recommendations,
        finding=str,
    ),
    _told("not_fired", "A rule that did not fire.", told.NotFired, lambda a: a.not_fired),
    _told("not_measured", "What could not be judged.", told.NotMeasured, lambda a: a.not_measured),
    _told("tempting", "A popular method that would not help.", told.Useless, lambda a: a.tempting),
    _table(
        "facts",
        "What rules are decided by; yes and no are 1 and 0.",
        _facts,
        name=str,
        unit=str,
        value=float,
        text=str,
    ),
]


def document() -> str:
    """The page that lists every table with its columns."""
    lines = [
        "# Tables of `advise export --to csv` and `--to parquet`",
        "",
        "Generated; [export.md](export.md) says what holds for all of them.",
        "",
    ]
    for table in TABLES:
        columns = ", ".join(f"`{name}` {kind.__name__}" for name, kind in table.columns.items())
        lines += [f"## {table.name}", "", table.title, "", columns, ""]
    return "\n".join(lines)


if __name__ == "__main__":
    print(document(), end="")
