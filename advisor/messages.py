"""What the program's own collectives cost: latency and bandwidth, and what could be left out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from stepscope.profiler.format import CollectiveCalls, Profile

_MIN_CALLS = 5
"""Of a size, so that a tenth of its calls means something."""
_MIN_SIZES, _MIN_SPAN = 3, 8.0
"""Different sizes, and the largest over the smallest, from which a line can be told."""


class Line(NamedTuple):
    """Time of one collective over the bytes that its slowest link carries."""

    latency: float
    """Seconds that a message of no size takes."""
    bytes_per_s: float
    """Bus bandwidth, of the slope."""


def bus_factor(kind: str, ranks: int) -> float:
    """Bytes that each link has to carry, over the size of the message.

    From nccl-tests, doc/PERFORMANCE.md (https://github.com/NVIDIA/nccl-tests): it makes bandwidths
    of different collectives and groups comparable with that of a link.
    """
    name = kind.lower().replace("_", "")
    if "allreduce" in name:
        return 2 * (ranks - 1) / ranks
    if any(part in name for part in ("gather", "scatter", "alltoall")):
        return (ranks - 1) / ranks
    return 1.0


def timed_messages(profile: Profile) -> list[CollectiveCalls]:
    """Calls whose own time is that of the exchange: they block, between processors."""
    return [
        row
        for row in profile.collective_calls
        if row.bytes and not row.asynchronous and row.device == "cpu" and row.ranks > 1
    ]


def algorithm_bandwidth(row: CollectiveCalls) -> float | None:
    """Bytes per second of one message, as nccl-tests defines it; None where it was not timed.

    From the tenth of the calls that was quickest, so that late ranks are hardly in it.
    """
    if not row.bytes or not row.quick_ns or row.asynchronous or row.device != "cpu":
        return None
    return row.bytes / row.calls / row.quick_ns * 1e9


def fitted(profile: Profile) -> Line | None:
    """Latency and bandwidth, of the kind of collective that moves most; None from too few sizes.

    The line `latency + bytes / bandwidth` (R. W. Hockney, The communication challenge for MPP,
    Parallel Computing 20(3), 1994) through the quick calls of each size, by least squares of the
    relative error. Waiting for a rank that is always late adds to each size alike, so that it is
    in the latency, and not in the bandwidth.
    """
    lines = [
        (sum(row.bytes or 0 for row in rows), line)
        for (kind, ranks), rows in quick_rows(profile).items()
        if (line := _line(rows, bus_factor(kind, ranks))) is not None
    ]
    return max(lines)[1] if lines else None


def quick_rows(profile: Profile) -> dict[tuple[str, int], list[CollectiveCalls]]:
    """By kind and ranks, the sizes of which enough calls were timed to tell the quick ones."""
    kinds: defaultdict[tuple[str, int], list[CollectiveCalls]] = defaultdict(list)
    for row in timed_messages(profile):
        if row.calls >= _MIN_CALLS and row.quick_ns:
            kinds[row.kind, row.ranks].append(row)
    return kinds


def _line(rows: list[CollectiveCalls], factor: float) -> Line | None:
    sizes = [factor * (row.bytes or 0) / row.calls for row in rows]
    if len(sizes) < _MIN_SIZES or max(sizes) < _MIN_SPAN * min(sizes):
        return None
    return line_through(sizes, [(row.quick_ns or 1) / 1e9 for row in rows])


def line_through(sizes: Sequence[float], times: Sequence[float]) -> Line | None:
    """Least squares of the relative error; None where larger messages take no longer.

    Args:
        sizes: bytes that the slowest link carries; not all alike.
        times: seconds.
    """
    points = [(x, y, y**-2) for x, y in zip(sizes, times, strict=True)]  # weights: relative error
    total = sum(w for _, _, w in points)
    x_mean = sum(w * x for x, _, w in points) / total
    y_mean = sum(w * y for _, y, w in points) / total
    spread = sum(w * (x - x_mean) ** 2 for x, _, w in points)
    slope = sum(w * (x - x_mean) * (y - y_mean) for x, y, w in points) / spread
    if slope <= 0:
        return None
    return Line(max(0.0, y_mean - slope * x_mean), 1 / slope)


class Saving(NamedTuple):
    """Seconds per step that go away: expected, at least and at most."""

    likely: float
    low: float
    high: float


def joined(profile: Profile) -> Saving | None:
    """What it saves to send in one message what now goes in many; None without such calls.

    One message of each size stays, and the bytes take as long as before. Every other meeting of the
    ranks saves what is left of a call without its bytes: of the usual one, at least of a quick one
    and at most of the mean one. In the mean there is waiting for late ranks, and where a rank is
    always late the message that stays waits for it as well.
    """
    steps = max(1, profile.steady.total)
    line = fitted(profile)
    sums = [0.0, 0.0, 0.0]
    found = False
    for row in timed_messages(profile):
        each = row.calls / steps
        if each <= 1 or row.time_ns is None:
            continue
        found = True
        wire = 0.0
        if line is not None:
            wire = bus_factor(row.kind, row.ranks) * (row.bytes or 0) / row.calls / line.bytes_per_s
        mean = row.time_ns / row.calls
        times = (row.usual_ns or row.median_ns or mean, row.quick_ns or 0, mean)
        for i, nanoseconds in enumerate(times):
            sums[i] += (each - 1) * max(0.0, nanoseconds / 1e9 - wire)
    likely, low, high = sums
    return Saving(likely, min(low, likely), max(high, likely)) if found else None


def seconds_in(profile: Profile, part: str) -> float:
    """Seconds per step in calls whose kind has `part` in its name."""
    rows = [row for row in profile.collective_calls if part in row.kind]
    return sum(row.time_ns or 0 for row in rows) / 1e9 / max(1, profile.steady.total)
