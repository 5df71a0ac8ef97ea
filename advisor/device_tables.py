"""Rows of the report's tables of a device: what a trace says of its kernels, copies and ranges."""

from __future__ import annotations

from typing import NamedTuple

from stepscope.advisor import wording
from stepscope.profiler.format import Profile, Trace

_MOST_KERNELS = 15
_MOST_RANGES = 15
_MEMORY = {"unknown": "not recorded", "device": "of the device"}


class KernelRow(NamedTuple):
    """One kernel, per step."""

    name: str
    category: str
    calls: str
    time: str
    share: float
    """Of the time of all kernels."""
    tensor_cores: bool
    blocks: float | None
    """Of a launch, over the device's multiprocessors."""
    occupancy: float | None


class CopyRow(NamedTuple):
    """Copies of one direction and kind of memory, per step."""

    direction: str
    memory: str
    calls: str
    size: str | None
    time: str
    rate: str | None


class RangeRow(NamedTuple):
    """Ranges of one name, per step."""

    name: str
    calls: str
    host: str
    device: str


class DeviceTables(NamedTuple):
    """What ran on the device that is judged by."""

    kernels: list[KernelRow]
    total: int
    """Calls of kernels in all steps."""
    steps: int
    copies: list[CopyRow]
    ranges: list[RangeRow]
    filled: bool
    """Whether blocks and warps are known."""


def device(profile: Profile) -> DeviceTables | None:
    """Kernels, copies and named ranges; None without a trace of a device."""
    trace, steps = profile.trace, profile.steady.total
    if trace is None or not trace.kernels or not steps:
        return None
    steps *= profile.ranks.count if profile.ranks else 1  # tables are sums over the ranks
    return DeviceTables(
        _kernels(trace, steps),
        sum(category.calls for category in trace.categories),
        steps,
        _copies(trace, steps),
        _ranges(trace, steps),
        trace.filled is not None,
    )


def _kernels(trace: Trace, steps: int) -> list[KernelRow]:
    total = sum(category.time_ns for category in trace.categories) or 1
    return [
        KernelRow(
            kernel.name,
            kernel.category,
            wording.number(kernel.calls / steps),
            wording.duration(kernel.time_ns / steps / 1e9),
            kernel.time_ns / total,
            kernel.tensor_cores,
            kernel.blocks_per_sm,
            kernel.occupancy,
        )
        for kernel in trace.kernels[:_MOST_KERNELS]
    ]


def _copies(trace: Trace, steps: int) -> list[CopyRow]:
    return [
        CopyRow(
            copies.direction,
            _MEMORY.get(copies.memory, copies.memory),
            wording.number(copies.calls / steps),
            wording.size(copies.bytes / steps) if copies.bytes else None,
            wording.duration(copies.time_ns / steps / 1e9),
            f"{wording.size(copies.bytes / copies.time_ns * 1e9)}/s"
            if copies.bytes and copies.time_ns
            else None,
        )
        for copies in trace.copies
    ]


def _ranges(trace: Trace, steps: int) -> list[RangeRow]:
    return [
        RangeRow(
            found.name,
            wording.number(found.calls / steps),
            wording.duration(found.time_ns / steps / 1e9),
            wording.duration((found.device_ns or 0) / steps / 1e9),
        )
        for found in trace.annotations[:_MOST_RANGES]
    ]
