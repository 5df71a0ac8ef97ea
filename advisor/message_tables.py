"""Rows of the report's table of collectives."""

from __future__ import annotations

from typing import NamedTuple

from stepscope.advisor import messages, wording
from stepscope.profiler.format import CollectiveCalls, Profile

_MOST = 20


class MessageRow(NamedTuple):
    """Calls of one kind and size."""

    kind: str
    ranks: str
    size: str
    calls: str
    time: str
    each: str
    algorithm: str
    bus: str


def message_rows(profile: Profile) -> list[MessageRow]:
    """What the program called itself, the costliest first."""
    steps = max(1, profile.steady.total)
    return [_row(row, steps) for row in profile.collective_calls[:_MOST]]


def recorded_rows(profile: Profile) -> list[MessageRow]:
    """What PyTorch's flight recorder had kept; it knows no steps, so these are sums."""
    recorder = profile.flight_recorder
    return [_row(row, 1) for row in recorder.calls[:_MOST]] if recorder else []


def link_words(profile: Profile) -> str:
    """Latency and bandwidth in words; empty where too few sizes were seen."""
    line = messages.fitted(profile)
    if line is None:
        return ""
    return (
        f"From the quick calls of each size: {wording.duration(line.latency)} for a message of no "
        f"size, and {wording.size(line.bytes_per_s)}/s over the slowest link."
    )


def _row(row: CollectiveCalls, steps: int) -> MessageRow:
    kind = row.kind + (", waited for later" if row.asynchronous and row.waits else "")
    algorithm = messages.algorithm_bandwidth(row)
    bus = algorithm * messages.bus_factor(row.kind, row.ranks) if algorithm else 0.0
    return MessageRow(
        kind,
        str(row.ranks),
        "" if row.bytes is None else wording.size(row.bytes / max(1, row.calls)),
        wording.number(row.calls / steps),
        "" if row.time_ns is None else wording.duration(row.time_ns / steps / 1e9),
        "" if row.median_ns is None else wording.duration(row.median_ns / 1e9),
        f"{wording.size(algorithm)}/s" if algorithm else "",
        f"{wording.size(bus)}/s" if bus else "",
    )
