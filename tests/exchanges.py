"""Programs that send messages of their own: times by latency and bandwidth of a planted link."""

from __future__ import annotations

from typing import Any

from builders import MS, a_run, even_steps
from msgspec.structs import replace

from stepscope.profiler.format import CollectiveCalls, Profile

LATENCY, BANDWIDTH = 0.5 * MS, 1e9
"""Nanoseconds, and bytes per second of the bus."""


def sent(size: int, per_step: int = 1, *, late: float = 0.0, **changes: Any) -> CollectiveCalls:
    """An all-reduce of two ranks in each of 100 steps; the link's time and `late` nanoseconds."""
    each = round(LATENCY + size / BANDWIDTH * 1e9 + late)
    calls = 100 * per_step
    row = CollectiveCalls(
        kind="all_reduce",
        ranks=2,
        device="cpu",
        calls=calls,
        bytes=calls * size,
        time_ns=calls * each,
        median_ns=each,
        quick_ns=each,
    )
    return replace(row, **changes)


def a_program(*rows: CollectiveCalls, compute: float = 10.0, **changes: Any) -> Profile:
    """A hundred steps of these calls and `compute` milliseconds of forward."""
    spent = sum(row.time_ns or 0 for row in rows) / 100 / MS
    phases = {"forward": compute, "communication": spent}
    calls = {"collectives": sum(row.calls for row in rows)}
    profile = a_run(phases, steady=even_steps(phases, calls=calls), **changes)
    profile.run.world_size = 2
    profile.collective_calls = list(rows)
    return profile
