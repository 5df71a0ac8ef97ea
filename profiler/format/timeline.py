"""What was observed over time: steps, samples of resources, events, logged values, places."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct

from stepscope.profiler.format.columns import Count, same_length


class Histogram(Struct, kw_only=True):
    """Counts in logarithmic bins: bin `b` holds values in [growth**b, growth**(b+1))."""

    growth: Annotated[float, Meta(gt=1, le=1.1)]
    bins: list[Annotated[int, Meta(ge=-5_000, le=5_000)]]
    counts: list[Count]


STEP_COLUMNS: Final = (
    "count",
    "wall_ns",
    "wall_max_ns",
    "cpu_ns",
    "process_cpu_ns",
    "run_delay_ns",
    "wait_cpu_ns",
    "wait_run_delay_ns",
)
"""Columns that every table of steps has after `first`."""


class Steps(Struct, kw_only=True):
    """A timeline of training steps in columns; one row is `count[i]` consecutive steps.

    Long runs are decimated by adding neighbouring rows, so that sums over rows stay exact and
    `wall_max_ns` keeps the spikes. Columns have equal length.
    """

    first: list[int]
    """Index of the row's first step, counted from the start of the run."""
    count: list[int]
    wall_ns: list[int]
    wall_max_ns: list[int]
    start_ns: list[int] | None = None
    """When the row's first step began, since the start of the run."""
    cpu_ns: list[int] | None = None
    """Processor time of the training thread."""
    process_cpu_ns: list[int] | None = None
    """Processor time of all threads of the training process."""
    run_delay_ns: list[int] | None = None
    """Time the training thread was runnable but waited for a core."""
    wait_cpu_ns: list[int] | None = None
    """Processor time of the training thread while it fetched the next batch."""
    wait_run_delay_ns: list[int] | None = None
    phases: dict[str, list[int]]
    """Wall time by phase, exclusive of nested phases; sums to `wall_ns`. Of the training thread; in
    a profile made from a trace with a device, of that, and where it was idle, of the host."""
    calls: dict[str, list[int]] = {}
    """How often a phase was entered, where that was counted."""

    def __post_init__(self) -> None:
        """Reject a table whose columns differ in length, naming the column."""
        rows = len(self.first)
        columns: dict[str, list[int] | None] = {name: getattr(self, name) for name in STEP_COLUMNS}
        columns["start_ns"] = self.start_ns
        columns |= {f"phases.{name}": column for name, column in self.phases.items()}
        columns |= {f"calls.{name}": column for name, column in self.calls.items()}
        same_length("first", rows, columns)

    @property
    def total(self) -> int:
        """Number of steps in all rows."""
        return sum(self.count)


class Samples(Struct, kw_only=True):
    """Resources over time, one column per signal; a value is None where it was not readable."""

    stride: int = 1
    time_ns: list[int]
    """Since the start of the run."""
    columns: dict[str, list[float | None]]

    def __post_init__(self) -> None:
        """Reject a table whose columns differ in length, naming the column."""
        same_length(
            "time_ns", len(self.time_ns), {f"columns.{k}": v for k, v in self.columns.items()}
        )


class Mark(Struct, kw_only=True, omit_defaults=True):
    """A single event worth naming."""

    kind: str
    step: int
    time_ns: int
    duration_ns: int = 0
    detail: str | None = None


class Metric(Struct, kw_only=True):
    """Values the user logged under one name."""

    stride: int = 1
    step: list[int]
    time_ns: list[int]
    value: list[float | None]
    """None where it was not a finite number: JSON knows no NaN."""


class Site(Struct, kw_only=True, omit_defaults=True):
    """A place in the program's own source, and what was seen there.

    `samples` come from a stack sampler that looks a few times a second; `calls` and `time_ns` are
    exact, where a probe has watched every call (`.item()`, logging, checkpoints). In a profile
    made from a trace with stacks, `calls` is how often the phase was in this function, and `line`
    is where the function begins (before torch 1.13, where it called).
    """

    phase: str
    """Phase of the training thread, or `thread` for another Python thread of its process; for a
    fetcher `fetch`, `collate` or `idle`."""
    file: str
    line: Count
    function: str
    transform: str | None = None
    """The transform, or the function called by the dataset, that this is part of."""
    state: str = "running"
    """What the thread was doing: `running`, `opening` (running inside a call that opens, stats or
    lists files), `held` (let go of the interpreter's lock there, for which the look had waited),
    `unlocked` (running while the look had that lock; told of `thread`), `receiving` (taking what
    another process has sent), `awaiting` (asleep until another process or thread has a result),
    `file`, `open`, `socket`, `lock`, `sleep`, `child`, `fault`, `pipe` or `blocked` (asleep, on
    what is not known)."""
    writes: bool = False
    """Whether the statement calls something that writes a file; told of the program's own code."""
    reads: bool = False
    """The same of reading one."""
    samples: Count = 0
    calls: Count = 0
    time_ns: int = 0
