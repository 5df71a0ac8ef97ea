"""The numbers behind the report's interactive pictures, as the page's script reads them.

One figure is a set of lines over a common axis, or the lanes of a loader's workers. Everything is
in SI units; the script adds prefixes. What is joined here keeps the longest step of what it joins.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec
from msgspec import Struct

from stepscope.advisor import charts
from stepscope.advisor.lanes import drawn_workers, lane_name
from stepscope.advisor.signals import Signal, signals
from stepscope.profiler.format import Batches, HeatMap, Profile

_ROWS = 4096
"""Rows of the step timeline; a profile holds no more in each of its two tables."""
_PHASE_ROWS = 512
_PHASES = 7
_DIGITS = 5
_PHASE_NAMES = {
    "data_wait": "waiting for data",
    "after_forward": "after the forward pass",
    "after_backward": "between backward and optimizer",
    "gc": "garbage collection",
    "sync": "reading values from tensors",
    "transfer": "copies to the device",
    "worker_startup": "starting workers",
    "python": "Python between phases",
}


class Line(Struct):
    """One curve."""

    name: str
    values: list[float | None]
    dashed: bool = False


class Lines(Struct, tag="lines", tag_field="kind"):
    """Curves over steps or over time; `stacked` ones add up."""

    x: list[float]
    x_unit: Literal["step", "s"]
    unit: str
    lines: list[Line]
    group: str
    """Figures of one group are zoomed together."""
    stacked: bool = False
    log: bool = False
    bands: list[tuple[float, float, str]] = []
    """From, to, and what happened there."""
    marks: list[tuple[float, str, str]] = []
    """Place, kind and description."""
    last: list[float] = []
    """Where each row ends: the last of its steps."""


class Lanes(Struct, tag="lanes", tag_field="kind"):
    """Batches by the worker that made them; times in seconds."""

    names: list[str]
    lane: list[int]
    start: list[float]
    wall: list[float]
    cpu: list[float]
    delay: list[float]
    stride: int
    """Of so many batches one is here: what lies between two need not be idle."""
    group: str = "time"


class Heat(Struct, tag="heat", tag_field="kind"):
    """Cells by rank and step, row by row; microseconds."""

    columns: int
    first_rank: int
    ranks_per_row: int
    first_step: int
    steps_per_column: int
    mean: list[int | None]
    longest: list[int | None]
    whose: list[int | None]
    """Rank of the longest; empty where a row is one rank."""
    group: str = "heat"


Figures = dict[str, Lines | Lanes | Heat]


def figures(profile: Profile) -> Figures:
    """Every picture that there are numbers for, by the id that the templates use."""
    found: Figures = {}
    if step_time := _step_time(profile):
        found["step-time"] = step_time
        found["phases"] = _phases(profile)
    for topic, members in topics(signals(profile.samples)).items():
        found[f"topic-{topic}"] = _over_time(profile, members)
    for number, loader in enumerate(profile.loaders):
        if loader.batches is not None and loader.batches.worker:
            found[f"lanes-{number}"] = _lanes(loader.batches)
    if profile.ranks is not None and profile.ranks.heat is not None:
        found["heat"] = _heat(profile.ranks.heat)
    return found


def encoded(found: Figures) -> str:
    """JSON that nothing can break out of, whatever the profile holds: no `<`, `>` or `&` in it."""
    text = msgspec.json.encode(found).decode()
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def topics(found: Iterable[Signal]) -> dict[str, list[Signal]]:
    """Signals that are drawn together, without those that never move from zero."""
    together: dict[str, list[Signal]] = {}
    for signal in found:
        if signal.topic and any(signal.values) and sum(v is not None for v in signal.values) > 1:
            together.setdefault(signal.topic, []).append(signal)
    return together


def _heat(map_: HeatMap) -> Heat:
    def microseconds(values: list[int | None]) -> list[int | None]:
        return [None if value is None else round(value / 1e3) for value in values]

    return Heat(
        columns=map_.columns,
        first_rank=map_.first_rank,
        ranks_per_row=map_.ranks_per_row,
        first_step=map_.first_step,
        steps_per_column=map_.steps_per_column,
        mean=microseconds(map_.mean_ns),
        longest=microseconds(map_.longest_ns),
        whose=map_.longest_rank if map_.ranks_per_row > 1 else [],
    )


def _step_time(profile: Profile) -> Lines | None:
    found = charts.rows(profile.warmup, _ROWS) + charts.rows(profile.steady, _ROWS)
    if not found:
        return None
    lines = [Line("each step", [_short(row.mean / 1e9) for row in found])]
    if any(row.peak > row.mean for row in found):
        lines[0].name = "mean"
        peaks: list[float | None] = [_short(row.peak / 1e9) for row in found]
        lines.append(Line("longest step", peaks, dashed=True))
    picture = Lines(
        x=[row.start for row in found],
        last=[row.stop - 1 for row in found],
        x_unit="step",
        unit="s",
        lines=lines,
        group="steps",
        log=charts.needs_log(found),
        bands=_bands(profile),
        marks=[(event.at, event.kind, event.title) for event in charts.events(profile)],
    )
    return _with_gaps(picture)


def _bands(profile: Profile) -> list[tuple[float, float, str]]:
    """Steps that are kept out of all figures."""
    bands: list[tuple[float, float, str]] = []
    if profile.warmup.total:
        end = profile.warmup.first[-1] + profile.warmup.count[-1]
        bands.append((profile.warmup.first[0], end, "warm-up"))
    if window := profile.window:
        what = "operator window, not in the timeline"
        bands += [(first, end, what) for first, end in window.recorded]
    return bands


def _with_gaps(picture: Lines) -> Lines:
    """The picture with an empty row wherever steps are missing."""
    gaps = [i + 1 for i, end in enumerate(picture.last[:-1]) if picture.x[i + 1] > end + 1]
    for i in reversed(gaps):
        picture.x.insert(i, picture.last[i - 1] + 1)
        picture.last.insert(i, picture.x[i + 1] - 1)
        for line in picture.lines:
            line.values.insert(i, None)
    # The last step ends where no other begins.
    picture.x.append(picture.last[-1] + 1)
    picture.last.append(picture.last[-1] + 1)
    for line in picture.lines:
        line.values.append(None)
    return picture


def _phases(profile: Profile) -> Lines:
    """Step time by phase of the training thread; what takes least is summed up."""
    parts = [
        (steps, part)
        for steps in (profile.warmup, profile.steady)
        for part in charts.groups(steps, _PHASE_ROWS)
    ]
    spent: dict[str, int] = {}
    for steps in (profile.warmup, profile.steady):
        for name, column in steps.phases.items():
            spent[name] = spent.get(name, 0) + sum(column)
    names = sorted((name for name in spent if spent[name]), key=lambda name: -spent[name])
    lines = [Line(_PHASE_NAMES.get(name, name), []) for name in names[:_PHASES]]
    rest = Line("everything else", [])
    for steps, part in parts:
        count = sum(steps.count[part])
        columns = [steps.phases.get(name, [])[part] for name in names]
        seconds = [sum(column) / count / 1e9 for column in columns]
        for line, value in zip(lines, seconds, strict=False):
            line.values.append(_short(value))
        rest.values.append(_short(sum(seconds[_PHASES:])))
    picture = Lines(
        x=[steps.first[part][0] for steps, part in parts],
        last=[steps.first[part][-1] + steps.count[part][-1] - 1 for steps, part in parts],
        x_unit="step",
        unit="s",
        lines=[*lines, rest] if names[_PHASES:] else lines,
        group="steps",
        stacked=True,
        bands=_bands(profile),
    )
    return _with_gaps(picture)


def _over_time(profile: Profile, members: Sequence[Signal]) -> Lines:
    return Lines(
        x=[round(time / 1e9, 3) for time in profile.samples.time_ns],
        x_unit="s",
        unit=members[0].unit,
        lines=[
            Line(signal.title, [None if v is None else _short(v) for v in signal.values])
            for signal in members
        ],
        group="time",
    )


def _lanes(batches: Batches) -> Lanes:
    workers = drawn_workers(batches)
    kept = [i for i, worker in enumerate(batches.worker) if worker in workers]

    def seconds(column: list[int]) -> list[float]:
        return [_short(column[i] / 1e9) for i in kept]

    return Lanes(
        names=[lane_name(worker) for worker in workers],
        lane=[workers.index(batches.worker[i]) for i in kept],
        start=[round(batches.start_ns[i] / 1e9, 6) for i in kept],
        wall=seconds(batches.wall_ns),
        cpu=seconds(batches.cpu_ns),
        delay=seconds(batches.run_delay_ns),
        stride=batches.stride,
    )


def _short(value: float) -> float:
    """`value` with the digits that a picture can show."""
    return float(f"{value:.{_DIGITS}g}")
