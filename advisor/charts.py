"""Geometry of the report's pictures: from columns of a profile to coordinates in a unit frame.

Everything is in percent of the picture, y downwards, so that the template can scale it to any
width. Nothing is judged here.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

from stepscope.advisor.wording import duration
from stepscope.profiler.format import Histogram, Mark, Profile, Steps

_COLUMNS = 400
"""Rows drawn at most; more could not be told apart."""
_LOG_RATIO = 8
"""A spike this many times the median flattens everything else on a linear scale."""
_BARS = 48


class Tick(NamedTuple):
    """A place on an axis and what to write there."""

    at: float
    label: str
    anchor: str = "middle"


class Event(NamedTuple):
    """A mark on the time axis."""

    at: float
    title: str


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
    steps_per_row: int


class Bar(NamedTuple):
    """One bar of a histogram."""

    x: float
    width: float
    height: float
    title: str


class Distribution(NamedTuple):
    """How often a step took how long."""

    bars: list[Bar]
    ticks: list[Tick]
    steps: int
    quantiles: list[tuple[str, str]]


class _Row(NamedTuple):
    start: int
    stop: int
    mean: float
    peak: float


def timeline(profile: Profile) -> Timeline | None:
    """Mean and longest step of every row, warm-up included; None without steps."""
    warmup, steady = _rows(profile.warmup), _rows(profile.steady)
    rows = warmup + steady
    if not rows:
        return None
    first, last = rows[0].start, max(row.stop for row in rows)
    low, high = min(row.mean for row in rows), max(row.peak for row in rows)
    log = high > _LOG_RATIO * statistics.median(row.mean for row in rows) and low > 0
    y_ticks = _log_ticks(low, high) if log else _linear_ticks(high)

    def x(step: float) -> float:
        return 100 * (step - first) / (last - first)

    def y(value: float) -> float:
        if log:
            bottom = math.log(low * 0.8)
            return 100 - 100 * (math.log(value) - bottom) / (math.log(high * 1.25) - bottom)
        return 100 - 100 * value / (high * 1.12)

    end = max((row.stop for row in warmup), default=None)
    return Timeline(
        mean=_path([(x(r.start), x(r.stop), y(r.mean)) for r in rows]),
        peak=""
        if all(r.peak == r.mean for r in rows)
        else _path([(x(r.start), x(r.stop), y(r.peak)) for r in rows]),
        log=log,
        warmup_end=None if end is None else x(end),
        x_ticks=[
            Tick(0, f"step {first:,}", "start"),
            *([Tick(50, f"{(first + last) // 2:,}")] if last - first > 4 else []),
            Tick(100, f"{last - 1:,}", "end"),
        ],
        y_ticks=[Tick(y(value), duration(value / 1e9)) for value in y_ticks],
        events=[_event(mark, x) for mark in profile.marks if first <= mark.step < last][:_COLUMNS],
        steps_per_row=max(row.stop - row.start for row in rows),
    )


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
        )
        for slot, count in sorted(heights.items())
    ]
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
    )


def sparkline(values: Sequence[float | None]) -> str:
    """A path through the values that exist, scaled to their range; empty without two of them."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if len(known) < 2:
        return ""
    low, span = min(known), (max(known) - min(known)) or 1.0
    stride = math.ceil(len(values) / _COLUMNS)
    path, pen_down = [], False
    for i in range(0, len(values), stride):
        value = values[i]
        if value is None or not math.isfinite(value):
            pen_down = False
            continue
        x, y = 100 * i / (len(values) - 1), 100 - 100 * (value - low) / span
        path.append(f"{'L' if pen_down else 'M'}{x:.2f},{y:.2f}")
        pen_down = True
    return " ".join(path)


def _rows(steps: Steps) -> list[_Row]:
    """The timeline, neighbouring rows joined until few enough are left to draw."""
    size = math.ceil(len(steps.first) / _COLUMNS) or 1
    rows = []
    for i in range(0, len(steps.first), size):
        part = slice(i, i + size)
        count = sum(steps.count[part])
        if count > 0:
            last = min(i + size, len(steps.first)) - 1
            stop = steps.first[last] + steps.count[last]
            mean = sum(steps.wall_ns[part]) / count
            peak = float(max(*steps.wall_max_ns[part], mean))
            rows.append(_Row(steps.first[i], max(stop, steps.first[i] + 1), mean, peak))
    return rows


def _path(lines: list[tuple[float, float, float]]) -> str:
    """A staircase, interrupted where steps are missing (the operator window)."""
    parts = [f"M{lines[0][0]:.2f},{lines[0][2]:.2f} H{lines[0][1]:.2f}"]
    for before, (start, stop, y) in pairwise(lines):
        joint = f"V{y:.2f}" if abs(start - before[1]) < 0.01 else f"M{start:.2f},{y:.2f}"
        parts.append(f"{joint} H{stop:.2f}")
    return " ".join(parts)


def _event(mark: Mark, x: Callable[[float], float]) -> Event:
    took = f", {duration(mark.duration_ns / 1e9)}" if mark.duration_ns else ""
    detail = f": {mark.detail}" if mark.detail else ""
    return Event(x(mark.step + 0.5), f"{mark.kind} in step {mark.step:,}{took}{detail}")


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
