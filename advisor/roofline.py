"""The roofline: how much operators compute and move, against what the machine does at its best.

An operator takes at least flops / peak, and at least bytes / bandwidth (Williams, Waterman,
Patterson: *Roofline*, CACM 52(4), 2009), and on a processor at least its own dispatch; the longest
of them is its limit, however near it comes to it. Bytes are the least there is to move; what stays
in caches is moved faster than memory could, so that points may lie above its line.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

from stepscope.advisor.operators import MODEL_PHASES, SMALL
from stepscope.advisor.peaks import Peaks, peaks_of
from stepscope.profiler.format import OperatorWork, Profile, Window

Bound = Literal["arithmetic", "bandwidth", "launch"]
BOUNDS: Final[tuple[Bound, ...]] = ("arithmetic", "bandwidth", "launch")


class Point(NamedTuple):
    """One operator in one type (on a device, mainly in this type), over all phases; per step."""

    name: str
    dtype: str | None
    calls: float
    seconds: float
    flops: float | None
    bytes: float | None
    least_seconds: float | None
    """What its arithmetic and its traffic need at the machine's best; None where that, or the
    work, is not known."""
    bound: Bound | None
    """The limit that it meets first."""

    @property
    def intensity(self) -> float | None:
        """Operations per byte."""
        return self.flops / self.bytes if self.flops and self.bytes else None

    @property
    def flops_per_s(self) -> float | None:
        """Rate that was reached."""
        return self.flops / self.seconds if self.flops and self.seconds else None

    @property
    def bytes_per_s(self) -> float | None:
        """Traffic that was reached, of what has to be moved at least."""
        return self.bytes / self.seconds if self.bytes and self.seconds else None

    @property
    def reached(self) -> float | None:
        """Part of what the machine does at its best."""
        if self.least_seconds is None or not self.seconds:
            return None
        return self.least_seconds / self.seconds


class Roofline(NamedTuple):
    """The operators of the model, the longest first."""

    points: list[Point]
    peaks: Peaks | None
    dispatch_seconds: float
    """In operators that compute nothing, and are called and left, per step; zero on a device."""
    unknown_seconds: float
    """In operators of which nobody knows what they compute."""
    model_flops: float | None
    """Of products per step, what backward computed again left out; None where one is not known."""
    hardware_flops: float | None
    """The same with it."""
    model_peak_seconds: float | None
    """What the model's products would take at the peak of their types; None without products, or
    without the peak of a type of theirs."""
    hardware_peak_seconds: float | None
    misaligned_share: float | None
    """Part of the products' operations with a dimension that tensor cores do not like."""
    on_device: bool
    """Whether the time is that on a device."""

    @property
    def seconds(self) -> float:
        """In all operators of the model, per step."""
        return sum(p.seconds for p in self.points) + self.dispatch_seconds + self.unknown_seconds

    def share(self, bound: Bound) -> float:
        """Part of that time in operators that this limit holds."""
        held = sum(point.seconds for point in self.points if point.bound == bound)
        held += self.dispatch_seconds if bound == "launch" else 0.0
        return held / self.seconds if self.seconds else 0.0


def roofline(profile: Profile) -> Roofline | None:
    """The roofline of a profile whose operators' work was counted; None of another."""
    window = profile.window
    counted = window.counted if window is not None else None
    if window is None or counted is None:
        return None
    rows = [row for row in counted.operators if row.phase in MODEL_PHASES]
    work = [row for row in rows if row.kind != "other"]
    steps = counted.steps
    calibration = profile.environment.calibration
    on_device = any(operator.self_device_ns for operator in window.operators)
    machine = _Machine(
        peaks=_with_seen(peaks_of(profile), [] if on_device else work),
        dispatch_seconds=calibration.eager_op_ns / 1e9 if calibration is not None else None,
        device_seconds=_device_seconds(window) if on_device else None,
    )
    points = [_point(group, steps, machine) for group in _grouped(work, machine)]
    quick, slow = _others([row for row in rows if row.kind == "other"], steps, machine)
    products = [row for row in work if row.kind == "product"]
    total = _sum(row.flops for row in products)
    again = sum(row.recomputed_flops for row in products)
    misaligned = sum(row.misaligned_flops for row in products)
    peak = _at_peak(products, machine.peaks) if total else None
    return Roofline(
        points=sorted(points, key=lambda point: -point.seconds),
        peaks=machine.peaks,
        dispatch_seconds=quick,
        unknown_seconds=slow,
        model_flops=(total - again) / steps if total else None,
        hardware_flops=total / steps if total else None,
        model_peak_seconds=peak.model / steps if peak else None,
        hardware_peak_seconds=peak.hardware / steps if peak else None,
        misaligned_share=misaligned / total if total else None,
        on_device=on_device,
    )


class _Machine(NamedTuple):
    """What operators are held against."""

    peaks: Peaks | None
    dispatch_seconds: float | None
    device_seconds: dict[str, float] | None
    """Time of each operator per step, where there is a device."""


def _with_seen(peaks: Peaks | None, work: Iterable[OperatorWork]) -> Peaks | None:
    """Peaks not below what was reached: others may have had the cores as they were timed."""
    if peaks is None:
        return None
    flops = dict(peaks.flops)
    for row in work:
        if row.kind == "product" and row.flops and row.time_ns and row.dtype in flops:
            flops[row.dtype] = max(flops[row.dtype], row.flops / row.time_ns * 1e9)
    return peaks._replace(flops=flops)


def _grouped(work: Iterable[OperatorWork], machine: _Machine) -> Iterable[list[OperatorWork]]:
    """Rows of one operator in one type, the largest first; on a device of all its types."""
    groups: dict[tuple[str, str | None], list[OperatorWork]] = {}
    for row in sorted(work, key=lambda row: -(row.bytes or 0)):
        dtype = row.dtype if machine.device_seconds is None else None
        groups.setdefault((row.name, dtype), []).append(row)
    return groups.values()


def _others(rows: list[OperatorWork], steps: int, machine: _Machine) -> tuple[float, float]:
    """Seconds per step in operators without work that are as short as dispatch, and in others."""
    if machine.device_seconds is not None:
        return 0.0, sum(machine.device_seconds.get(name, 0.0) for name in {r.name for r in rows})
    limit_ns = SMALL * (machine.dispatch_seconds or 0.0) * 1e9
    quick = sum(row.time_ns or 0 for row in rows if (row.time_ns or 0) < limit_ns * row.calls)
    whole = sum(row.time_ns or 0 for row in rows)
    return quick / 1e9 / steps, (whole - quick) / 1e9 / steps


def _device_seconds(window: Window) -> dict[str, float]:
    """Time of each operator on the device, per step."""
    seconds: dict[str, float] = {}
    for row in window.operators:
        if row.phase in MODEL_PHASES:
            spent = row.self_device_ns / 1e9 / window.steps
            seconds[row.name] = seconds.get(row.name, 0.0) + spent
    return seconds


def _point(rows: list[OperatorWork], steps: int, machine: _Machine) -> Point:
    name, dtype, kind = rows[0].name, rows[0].dtype, rows[0].kind
    calls = sum(row.calls for row in rows) / steps
    device = machine.device_seconds
    host = sum(row.time_ns or 0 for row in rows) / 1e9 / steps
    seconds = host if device is None else device.get(name, 0.0)
    flops, moved = (
        None if total is None else total / steps
        for total in (_sum(row.flops for row in rows), _sum(row.bytes for row in rows))
    )
    computing = moving = None
    if machine.peaks is not None:
        # Only products reach the peak of products; of the rest the traffic is what counts.
        peak = machine.peaks.flops.get(dtype or "") if kind == "product" else None
        computing = flops / peak if peak and flops is not None else None
        moving = moved / machine.peaks.bytes_per_s if moved is not None else None
    dispatch = machine.dispatch_seconds if device is None else None
    times: dict[Bound, float] = {
        "arithmetic": computing or 0.0,
        "bandwidth": moving or 0.0,
        "launch": calls * (dispatch or 0.0),
    }
    # Random numbers are not held up by where they are written.
    limited = flops is not None and not (computing is None and moving is None)
    first: Bound = max(times, key=lambda limit: times[limit])
    return Point(
        name=name,
        dtype=dtype,
        calls=calls,
        seconds=seconds,
        flops=flops,
        bytes=moved,
        least_seconds=max(computing or 0.0, moving or 0.0) if limited else None,
        bound=first if limited else None,
    )


def _sum(values: Iterable[int | None]) -> int | None:
    """None as soon as one is not known."""
    total = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total


class _PeakSeconds(NamedTuple):
    model: float
    hardware: float


def _at_peak(products: list[OperatorWork], peaks: Peaks | None) -> _PeakSeconds | None:
    """Seconds of all steps without and with what was computed again."""
    model = hardware = 0.0
    for row in products:
        peak = peaks.flops.get(row.dtype or "") if peaks is not None else None
        if peak is None or row.flops is None:
            return None
        hardware += row.flops / peak
        model += (row.flops - row.recomputed_flops) / peak
    return _PeakSeconds(model, hardware)
