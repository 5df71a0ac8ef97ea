"""How long a collective takes: hops of its algorithm times latency, plus bytes over bandwidth.

What is told of a link is its latency. The rest of the measured time of a message goes as its bytes,
so that the model is exact where it was measured.
"""

from __future__ import annotations

import random
from math import ceil, log2, sqrt
from typing import NamedTuple

from stepscope.advisor import messages
from stepscope.profiler.format import CollectiveCalls, Profile

_DRAWS = 200
_MIN_SPAN = 8.0
"""Of sizes, the largest over the smallest, from which a line can be told."""
_APART = 0.05
"""Relative; so much the quick times of the same messages differed between the ranks of one run."""
_USUAL = {"gloo": 100e-6, "nccl": 10e-6}
"""Seconds a hop between processes: TCP of one host or data centre; NVLink and InfiniBand."""
_MOST = 1e-3
"""Seconds a hop within a data centre, at most."""


class Latency(NamedTuple):
    """Seconds a hop, with a 90 % interval."""

    likely: float
    low: float
    high: float
    told: bool
    """Whether messages of several sizes tell it from bandwidth; else these are bounds."""


def hops(kind: str, ranks: int, backend: str) -> float:
    """Messages that a collective sends one after another, each of which waits for the one before.

    Gloo adds up in a ring, whatever the size (`gloo/allreduce.cc`), and so does NCCL with large
    messages; where latency counts it takes trees (`NCCL_ALGO`; S. Jeaugey, Massively Scale Your
    Deep Learning Training with NCCL 2.4, 2019).
    """
    name, tree = kind.lower().replace("_", ""), ceil(log2(max(2, ranks)))
    if "allreduce" in name:
        ring = 2 * (ranks - 1)
        return min(ring, 2 * tree) if backend == "nccl" else ring
    if any(part in name for part in ("gather", "scatter", "alltoall")):
        return ranks - 1
    return tree


def latency(profile: Profile, backend: str) -> Latency:
    """Latency of the link between the ranks of a profile.

    From the line through the quick calls of each size (:func:`messages.fitted`), with an interval
    from a parametric bootstrap: times vary by their standard errors, and by what the line misses.
    Where only one size was seen, latency and bandwidth cannot be told apart: then the usual latency
    of such links is taken, and the bounds are none, and the time of the smallest message.
    """
    groups = messages.quick_rows(profile)
    lines = [
        (sum(row.bytes or 0 for row in rows), kind, ranks, rows)
        for (kind, ranks), rows in groups.items()
        if _span(rows) >= _MIN_SPAN
    ]
    if lines:
        _, kind, ranks, rows = max(lines, key=lambda line: line[0])
        seconds = _bootstrap(rows, messages.bus_factor(kind, ranks))
        if seconds:
            each = hops(kind, ranks, backend)
            middle, low, high = (seconds[round(q * (len(seconds) - 1))] for q in (0.5, 0.05, 0.95))
            return Latency(middle / each, low / each, high / each, told=True)
    smallest = [
        (row.quick_ns or 0) / 1e9 / hops(kind, ranks, backend)
        for (kind, ranks), rows in groups.items()
        for row in rows
    ]
    high = min([*smallest, _MOST])
    return Latency(min(_USUAL.get(backend, _USUAL["gloo"]), high), 0.0, high, told=False)


def _span(rows: list[CollectiveCalls]) -> float:
    sizes = [(row.bytes or 0) / row.calls for row in rows]
    return max(sizes) / max(1.0, min(sizes))


def _bootstrap(rows: list[CollectiveCalls], factor: float) -> list[float]:
    """Seconds that a message of no size takes, in order, of refitted lines."""
    sizes = [factor * (row.bytes or 0) / row.calls for row in rows]
    times = [(row.quick_ns or 1) / 1e9 for row in rows]
    errors = [(row.quick_error_ns or 0) / 1e9 for row in rows]
    line = messages.line_through(sizes, times)
    if line is None:
        return []
    missed = [
        (y - line.latency - x / line.bytes_per_s) / y for x, y in zip(sizes, times, strict=True)
    ]
    scatter = sqrt(sum(m * m for m in missed) / max(1, len(rows) - 2))
    random_ = random.Random(0)  # the same profile gives the same forecast
    found = []
    for _ in range(_DRAWS):
        drawn = [
            y * max(0.1, random_.gauss(1, sqrt(scatter**2 + _APART**2 + (error / y) ** 2)))
            for y, error in zip(times, errors, strict=True)
        ]
        again = messages.line_through(sizes, drawn)
        if again is not None:
            found.append(again.latency)
    return sorted(found)
