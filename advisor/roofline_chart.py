"""Geometry and words of the roofline's picture: both axes logarithmic, places in percent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from stepscope.advisor import wording
from stepscope.advisor.charts import Tick
from stepscope.advisor.roofline import BOUNDS, Point, Roofline, roofline
from stepscope.profiler.format import Profile

_LABELLED, _ROWS = 6, 15
_DRAWN_SHARE, _LABELLED_SHARE = 0.002, 0.02
"""Part of the operators' time below which one is not drawn, or not labelled."""
_SMALLEST, _LARGEST = 3.0, 17.0
"""Radius of a point in pixels: its area is its time."""
_APART = 7.0
"""Percent of the height between two labels."""
_MIDDLE, _LABEL = 60.0, 25.0
"""Percent of the width from which labels stand to the left, and that one takes at most."""
_ROOM = 2.5
"""Factor by which the axes go on beyond what is drawn."""
_MAX_TICKS = 7
BOUND_WORDS = {
    "arithmetic": "arithmetic",
    "bandwidth": "memory traffic",
    "launch": "dispatch",
}


class Dot(NamedTuple):
    """An operator in the picture."""

    x: float
    y: float
    radius: float
    bound: str
    title: str
    label: str
    """Empty where there is no room, or the operator takes little time."""
    anchor: str
    above: bool
    """Whether the label is above it, for there is another point beside it."""


class Roof(NamedTuple):
    """A line that nothing exceeds: from where to where, and what it is."""

    x1: float
    y1: float
    x2: float
    y2: float
    label: str
    sloped: bool


class Row(NamedTuple):
    """A line of the table behind the picture."""

    name: str
    dtype: str
    calls: str
    time: str
    intensity: str
    rate: str
    traffic: str
    reached: str
    bound: str


class Picture(NamedTuple):
    """What the template draws."""

    dots: list[Dot]
    """The longest first, so that short ones lie above them."""
    roofs: list[Roof]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    rows: list[Row]
    bounds: list[tuple[str, str, float]]
    """A limit, its name in words, and the share of the operators' time in those that it holds."""
    uncounted: float | None
    """Share of the operators' time in those of which nobody knows what they compute; None where
    nobody knows the limits."""
    undrawn: int
    """Operators of the table without known arithmetic, which have no place in the picture."""
    source: str
    flops: str
    """Operations per step of what counts for MFU."""
    rate: str
    mfu: float | None
    hfu: float | None
    """None where it is the same."""
    compiled: bool
    on_device: bool


def picture(profile: Profile, step_seconds: float) -> Picture | None:
    """The roofline of a profile; None where no operator's work was counted.

    Args:
        profile: with a counted step.
        step_seconds: mean wall time of a steady step.
    """
    found = roofline(profile)
    if found is None or not found.points:
        return None
    placed = [p for p in found.points if p.intensity and p.flops_per_s]
    drawn = [p for p in placed if p.seconds >= _DRAWN_SHARE * found.seconds]
    dots, roofs, x_ticks, y_ticks = _frame(drawn, found)
    limits = BOUNDS if found.peaks is not None else ()
    bounds = [(bound, BOUND_WORDS[bound], found.share(bound)) for bound in limits]
    shown = found.points[:_ROWS]
    again = found.hardware_flops != found.model_flops
    return Picture(
        dots=dots,
        roofs=roofs,
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        rows=[_row(point) for point in shown],
        bounds=[each for each in bounds if each[2] > 0],
        uncounted=max(0.0, 1 - sum(share for _, _, share in bounds)) if limits else None,
        undrawn=sum(1 for point in shown if not point.intensity),
        source=found.peaks.source if found.peaks is not None else "",
        flops=wording.scaled(found.model_flops, "FLOP") if found.model_flops else "",
        rate=wording.scaled((found.model_flops or 0.0) / step_seconds, "FLOP/s"),
        mfu=_over(found.model_peak_seconds, step_seconds),
        hfu=_over(found.hardware_peak_seconds, step_seconds) if again else None,
        compiled=any(model.compiled for model in profile.configuration.models),
        on_device=found.on_device,
    )


def _over(seconds: float | None, step_seconds: float) -> float | None:
    return None if seconds is None else seconds / step_seconds


class _Axis:
    """A logarithmic axis over what is on it.

    Args:
        values: all that has to have a place.
        down: whether larger values are nearer to zero percent.
    """

    def __init__(self, values: Sequence[float], *, down: bool = False) -> None:
        self._low, self.high = min(values) / _ROOM, max(values) * _ROOM
        self.low = self._low
        self._down = down

    def __call__(self, value: float) -> float:
        at = 100 * math.log(value / self._low) / math.log(self.high / self._low)
        return 100 - at if self._down else at

    def powers(self) -> list[float]:
        """Powers of ten on the axis, so many that their labels have room."""
        first = math.ceil(math.log10(self._low))
        last = math.floor(math.log10(self.high))
        stride = math.ceil((last - first + 1) / _MAX_TICKS) or 1
        return [10.0**power for power in range(first, last + 1, stride)]


def _frame(
    drawn: list[Point], found: Roofline
) -> tuple[list[Dot], list[Roof], list[Tick], list[Tick]]:
    """Points, roofs and ticks; empty without points."""
    if not drawn:
        return [], [], [], []
    peaks = found.peaks
    used = {point.dtype for point in found.points if point.bound == "arithmetic"}
    tops = {t: rate for t, rate in (peaks.flops if peaks else {}).items() if t in used}
    if peaks is not None and not tops:
        tops = {"float32": peaks.flops["float32"]}
    bandwidth = peaks.bytes_per_s if peaks is not None else None
    ridges = [top / bandwidth for top in tops.values()] if bandwidth else []
    x = _Axis([p.intensity or 1.0 for p in drawn] + ridges)
    y = _Axis([p.flops_per_s or 1.0 for p in drawn] + list(tops.values()), down=True)
    roofs = []
    if bandwidth is not None:
        ceiling = max(tops.values())
        low, high = max(x.low, y.low / bandwidth), ceiling / bandwidth
        label = f"memory: {wording.size(bandwidth)}/s"
        roofs.append(
            Roof(x(low), y(low * bandwidth), x(high), y(high * bandwidth), label, sloped=True)
        )
        for dtype, top in tops.items():
            label = f"{dtype}: {wording.scaled(top, 'FLOP/s')}"
            roofs.append(Roof(x(top / bandwidth), y(top), 100, y(top), label, sloped=False))
    x_ticks = [Tick(x(value), f"{value:g}") for value in x.powers()]
    y_ticks = [Tick(y(value), wording.scaled(value, "FLOP/s")) for value in y.powers()]
    return _dots(drawn, x, y), roofs, x_ticks, y_ticks


def _dots(drawn: list[Point], x: _Axis, y: _Axis) -> list[Dot]:
    longest, total = drawn[0].seconds, sum(point.seconds for point in drawn)
    labels: list[float] = []
    dots = []
    for point in drawn:
        across, down = x(point.intensity or 1.0), y(point.flops_per_s or 1.0)
        free = all(abs(down - other) > _APART for other in labels)
        large = point.seconds >= _LABELLED_SHARE * total
        named = free and large and len(labels) < _LABELLED
        if named:
            labels.append(down)
        beside = [
            x(p.intensity or 1.0) - across for p in drawn if p is not point and _level(p, y, down)
        ]
        left = across >= _MIDDLE
        dots.append(
            Dot(
                x=across,
                y=down,
                radius=max(_SMALLEST, _LARGEST * math.sqrt(point.seconds / longest)),
                bound=point.bound or "other",
                title=_title(point),
                label=short_name(point.name) if named else "",
                anchor="end" if left else "start",
                above=any(-_LABEL < to < 0 if left else 0 < to < _LABEL for to in beside),
            )
        )
    return dots


def _level(point: Point, y: _Axis, down: float) -> bool:
    return abs(y(point.flops_per_s or 1.0) - down) < _APART / 2


def _title(point: Point) -> str:
    row = _row(point)
    reached = f", {row.reached} of the machine's best" if point.reached is not None else ""
    limit = f"; limit: {row.bound}" if point.bound else ""
    return (
        f"{row.name}, {row.dtype}: {row.time} in {row.calls} calls per step, {row.rate}, "
        f"{row.traffic}, {row.intensity} FLOP per byte{reached}{limit}"
    )


def _row(point: Point) -> Row:
    return Row(
        name=short_name(point.name),
        dtype=point.dtype or "",
        calls=wording.number(point.calls),
        time=wording.duration(point.seconds),
        intensity=_or_dash(point.intensity, wording.number),
        rate=_or_dash(point.flops_per_s, lambda rate: wording.scaled(rate, "FLOP/s")),
        traffic=_or_dash(point.bytes_per_s, lambda rate: f"{wording.size(rate)}/s"),
        reached=_or_dash(point.reached, wording.share),
        bound=BOUND_WORDS[point.bound] if point.bound else "not known",
    )


def _or_dash(value: float | None, words: object) -> str:
    assert callable(words)
    return "\N{EN DASH}" if value is None else str(words(value))


def short_name(name: str) -> str:
    """An operator's name without its name space and leading underscores."""
    return name.rpartition("::")[2].lstrip("_")
