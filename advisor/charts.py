"""Geometry of the report's pictures: from columns of a profile to coordinates in a unit frame.

Everything is in percent of the picture, y downwards, so that the template can scale it to any
width. Nothing is judged here.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from stepscope.advisor.wording import duration
from stepscope.profiler.format import Histogram, Profile, Steps

_COLUMNS = 400
"""Rows drawn at most; more could not be told apart."""
_EVENTS = 400
_TABLE_ROWS = 24
_LOG_RATIO = 8
"""A spike this many times the median flattens everything else on a linear scale."""
_BARS = 48


class Tick(NamedTuple):
    """A place on an axis and what to write there."""

    at: float
    label: str
    anchor: str = "middle"


class Event(NamedTuple):
    """A mark on the axis of steps."""

    at: float
    kind: str
    title: str
    duration_ns: int = 0


class Row(NamedTuple):
    """Neighbouring steps; times in nanoseconds."""

    start: int
    stop: int
    """One past the last step."""
    mean: float
    peak: float
    """The longest of the steps."""


class TimelineRow(NamedTuple):
    """A line of the table behind the timeline."""

    steps: str
    mean: str
    peak: str
    warmup: bool


class Timeline(NamedTuple):
    """Step time over the run."""

    mean: str
    peak: str
    """Empty where every row holds one step: the maximum is the mean then."""
    log: bool
    warmup_end: float | None
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    events: list[Event]
    left_out: int
    """Events, the shortest ones, that are not drawn."""
    steps_per_row: int
    table: list[TimelineRow]


class Bar(NamedTuple):
    """One bar of a histogram."""

    x: float
    width: float
    height: float
    title: str
    range: str
    steps: int


class Distribution(NamedTuple):
    """How often a step took how long."""

    bars: list[Bar]
    ticks: list[Tick]
    steps: int
    quantiles: list[tuple[str, str]]
    median: float
    """Where the median lies, in percent of the width."""


def timeline(profile: Profile) -> Timeline | None:
    """Mean and longest step of every row, warm-up included; None without steps."""
    warmup, steady = rows(profile.warmup, _COLUMNS), rows(profile.steady, _COLUMNS)
    drawn = warmup + steady
    if not drawn:
        return None
    first, last = drawn[0].start, max(row.stop for row in drawn)
    low, high = min(row.mean for row in drawn), max(row.peak for row in drawn)
    log = needs_log(drawn)
    y_ticks = _log_ticks(low, high) if log else _linear_ticks(high)

    def x(step: float) -> float:
        return 100 * (step - first) / (last - first)

    def y(value: float) -> float:
        if log:
            bottom = math.log(low * 0.8)
            return 100 - 100 * (math.log(value) - bottom) / (math.log(high * 1.25) - bottom)
        return 100 - 100 * value / (high * 1.12)

    end = max((row.stop for row in warmup), default=None)
    found = [event for event in events(profile) if first <= event.at < last]
    return Timeline(
        mean=_path([(x(r.start), x(r.stop), y(r.mean)) for r in drawn]),
        peak=""
        if all(r.peak == r.mean for r in drawn)
        else _path([(x(r.start), x(r.stop), y(r.peak)) for r in drawn]),
        log=log,
        warmup_end=None if end is None else x(end),
        x_ticks=[
            Tick(0, f"step {first:,}", "start"),
            *([Tick(50, f"{(first + last) // 2:,}")] if last - first > 4 else []),
            Tick(100, f"{last - 1:,}", "end"),
        ],
        y_ticks=[Tick(y(value), duration(value / 1e9)) for value in y_ticks],
        events=[event._replace(at=x(event.at)) for event in found],
        left_out=max(0, len(profile.marks) - _EVENTS),
        steps_per_row=max(row.stop - row.start for row in drawn),
        table=_timeline_table(profile),
    )


def needs_log(drawn: Sequence[Row]) -> bool:
    """Whether spikes would flatten everything else on a linear scale."""
    median = statistics.median(row.mean for row in drawn)
    return max(row.peak for row in drawn) > _LOG_RATIO * median and min(r.mean for r in drawn) > 0


def rows(steps: Steps, limit: int) -> list[Row]:
    """The timeline, neighbouring rows joined until at most `limit` are left; peaks stay."""
    found = []
    for part in groups(steps, limit):
        count = sum(steps.count[part])
        start, stop = steps.first[part][0], steps.first[part][-1] + steps.count[part][-1]
        mean = sum(steps.wall_ns[part]) / count
        peak = float(max(*steps.wall_max_ns[part], mean))
        found.append(Row(start, max(stop, start + 1), mean, peak))
    return found


def groups(steps: Steps, limit: int) -> list[slice]:
    """At most `limit` slices of neighbouring rows that hold steps."""
    size = math.ceil(len(steps.first) / limit) or 1
    parts = (slice(i, i + size) for i in range(0, len(steps.first), size))
    return [part for part in parts if any(steps.count[part])]


def events(profile: Profile) -> list[Event]:
    """Marks, validation and beginnings of epochs by step; of marks the longest ones."""
    longest = sorted(profile.marks, key=lambda mark: -mark.duration_ns)[:_EVENTS]
    found = [_event(mark.kind, mark.step, mark.duration_ns, mark.detail) for mark in longest]
    validation = profile.steady.phases.get("validation", [])
    took = [(spent, profile.steady.first[i]) for i, spent in enumerate(validation) if spent]
    if len(took) < len(validation):  # validation in all rows marks nothing
        found += [_event("validation", step, spent) for spent, step in sorted(took)[-_EVENTS:]]
    found += [Event(step, "epoch", f"epoch {n} begins") for n, step in _epochs(profile)]
    return sorted(found)


def _epochs(profile: Profile) -> list[tuple[int, int]]:
    """Number and first step of each epoch after the first, where a batch is a step."""
    training = [loader for loader in profile.loaders if loader.training]
    if len(training) != 1 or profile.run.steps_by not in {"steps", "batch"}:
        return []
    length, epochs = training[0].length or 0, training[0].epochs
    window = profile.window.recorded_steps if profile.window else 0
    total = profile.warmup.total + profile.steady.total + window
    # Epochs that were left early do not begin at multiples of the loader's length.
    if not (epochs - 1) * length < total <= epochs * length or epochs > _EVENTS:
        return []
    return [(number + 1, number * length) for number in range(1, epochs)]


def _timeline_table(profile: Profile) -> list[TimelineRow]:
    tables = [(True, profile.warmup, 1), (False, profile.steady, _TABLE_ROWS)]
    return [
        TimelineRow(
            f"{row.start:,} to {row.stop - 1:,}" if row.stop - row.start > 1 else f"{row.start:,}",
            duration(row.mean / 1e9),
            duration(row.peak / 1e9),
            warmup,
        )
        for warmup, steps, limit in tables
        for row in rows(steps, limit)
    ]


def distribution(histogram: Histogram) -> Distribution | None:
    """A histogram of step times with neighbouring bins joined; None without steps."""
    pairs = sorted((b, c) for b, c in zip(histogram.bins, histogram.counts, strict=True) if c > 0)
    if not pairs:
        return None
    low, high = pairs[0][0], pairs[-1][0] + 1
    # Few bins drawn over the whole width would look like a wide distribution.
    missing = max(0, _BARS // 2 - (high - low))
    low, high = low - missing // 2, high + (missing + 1) // 2
    joined = math.ceil((high - low) / _BARS)
    high = low + joined * math.ceil((high - low) / joined)
    heights: dict[int, int] = {}
    for bin_, count in pairs:
        slot = (bin_ - low) // joined
        heights[slot] = heights.get(slot, 0) + count
    width, top = 100 * joined / (high - low), max(heights.values())

    def edge(bin_: float) -> str:
        return duration(histogram.growth**bin_ / 1e9)

    total = sum(count for _, count in pairs)
    bars = [
        Bar(
            slot * width,
            width,
            100 * count / top,
            f"{edge(low + slot * joined)} to {edge(low + (slot + 1) * joined)}: {count:,} steps",
            f"{edge(low + slot * joined)} to {edge(low + (slot + 1) * joined)}",
            count,
        )
        for slot, count in sorted(heights.items())
    ]
    median = 100 * (_quantile(pairs, total, 0.5) + 0.5 - low) / (high - low)
    return Distribution(
        bars=bars,
        ticks=[
            Tick(0, edge(low), "start"),
            Tick(50, edge((low + high) / 2)),
            Tick(100, edge(high), "end"),
        ],
        steps=total,
        quantiles=[
            (name, edge(_quantile(pairs, total, q) + 0.5))
            for name, q in (("10 %", 0.1), ("50 % (median)", 0.5), ("90 %", 0.9), ("99 %", 0.99))
        ],
        median=median,
    )


def sparkline(values: Sequence[float | None]) -> str:
    """A path through the values that exist, scaled to their range; empty without two of them.

    Where several values fall on one place, the lowest and the highest of them are drawn.
    """
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return ""
    low, span = min(known), (max(known) - min(known)) or 1.0
    stride = math.ceil(len(values) / _COLUMNS)
    path, pen_down = [], False
    for i in range(0, len(values), stride):
        here = [value for value in values[i : i + stride] if value is not None]
        for value in dict.fromkeys((min(here), max(here)) if here else ()):
            x, y = 100 * i / (len(values) - 1), 100 - 100 * (value - low) / span
            path.append(f"{'L' if pen_down else 'M'}{x:.2f},{y:.2f}")
            pen_down = True
        pen_down = bool(here)
    return " ".join(path)


def _path(lines: list[tuple[float, float, float]]) -> str:
    """A staircase, interrupted where steps are missing (the operator window)."""
    parts = [f"M{lines[0][0]:.2f},{lines[0][2]:.2f} H{lines[0][1]:.2f}"]
    for before, (start, stop, y) in pairwise(lines):
        joint = f"V{y:.2f}" if abs(start - before[1]) < 0.01 else f"M{start:.2f},{y:.2f}"
        parts.append(f"{joint} H{stop:.2f}")
    return " ".join(parts)


def _event(kind: str, step: int, duration_ns: int, detail: str | None = None) -> Event:
    took = f", {duration(duration_ns / 1e9)}" if duration_ns else ""
    more = f": {detail}" if detail else ""
    return Event(step + 0.5, kind, f"{kind} in step {step:,}{took}{more}", duration_ns)


def _linear_ticks(high: float) -> list[float]:
    raw = high / 3 or 1.0
    unit = 10 ** math.floor(math.log10(raw))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= raw * 0.999)
    return [step * i for i in range(1, 5) if step * i <= high * 1.02]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    mantissas = (1, 3) if len(decades) <= 4 else (1,)
    inside = [
        m * 10.0**d for d in decades for m in mantissas if low * 0.9 <= m * 10.0**d <= high * 1.1
    ]
    return inside[:: math.ceil(len(inside) / 5)] if inside else [low]


def _quantile(pairs: list[tuple[int, int]], total: int, q: float) -> int:
    seen = 0
    for bin_, count in pairs:
        seen += count
        if seen >= q * total:
            return bin_
    return pairs[-1][0]
