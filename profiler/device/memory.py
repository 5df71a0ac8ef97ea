"""What PyTorch's allocator holds on a device, read at ends of steps and in a few early phases.

Nothing is reset: peaks belong to the program, which may be reading them too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any, Final

import torch

from stepscope.profiler.columns import SampledRows
from stepscope.profiler.format import DeviceMemory, PhaseMemory, Samples

_EVERY_NS: Final = 500_000_000
_PHASE_STEPS: Final = (3, 4, 5)
"""Steps whose phases are looked at: the optimizer has its state by then, and steps settle."""
_COLUMNS: Final = (
    "step",
    "allocated_bytes",
    "reserved_bytes",
    "inactive_split_bytes",
    "retries",
    "ooms",
    "device_allocations",
)
Statistics = Mapping[str, Any]


class AllocatorWatch:
    """Reads the allocator's statistics from the training thread.

    Args:
        device: number of the device.
        origin_ns: `perf_counter_ns` at the start of the run.
        before: the allocator's peak at the start of the run, which tells nothing of the run until
            it is exceeded.
    """

    def __init__(self, device: int, origin_ns: int, before: int) -> None:
        self._device = device
        self._origin_ns = origin_ns
        self._before = before
        self._next_ns = 0
        self._rows = SampledRows(1 + len(_COLUMNS))
        self._lock = threading.Lock()
        self._phase: str | None = None
        self._begin = self._peak = 0
        self.phases: dict[str, PhaseMemory] = {}
        self._peaks = (0, 0)
        self._total: int | None = torch.cuda.get_device_properties(device).total_memory

    def begin_anew(self) -> None:
        """Forget what was read: the steps are counted anew."""
        with self._lock:
            self._rows = SampledRows(1 + len(_COLUMNS))

    @property
    def in_phase(self) -> bool:
        """Whether changes of phase are to be told."""
        return self._phase is not None

    def switch(self, phase: str) -> None:
        """The training thread changes to `phase` in a step whose phases are looked at."""
        held = _of(self._statistics(), "allocated_bytes")
        before = self._phase
        if before:
            now, peak = int(held["current"]), int(held["peak"])
            raised = peak if peak > self._peak else None
            self.phases[before] = _larger(
                self.phases.get(before),
                PhaseMemory(begin_bytes=self._begin, end_bytes=now, peak_bytes=raised),
            )
        self._phase, self._begin, self._peak = phase, int(held["current"]), int(held["peak"])

    def end_step(self, step: int, phase: str) -> bool:
        """A step has ended, `step` of them so far; tells whether that took time."""
        if self._phase is not None:
            self.switch(phase)
            self._phase = None
        now = time.perf_counter_ns()
        looks = step in _PHASE_STEPS
        if not looks and now < self._next_ns:
            return False
        self._next_ns = now + _EVERY_NS
        found = self._statistics()
        allocated, reserved = _of(found, "allocated_bytes"), _of(found, "reserved_bytes")
        row = (
            now - self._origin_ns,
            step,
            allocated["current"],
            reserved["current"],
            _of(found, "inactive_split_bytes")["current"],
            found.get("num_alloc_retries"),
            found.get("num_ooms"),
            _of(found, "segment")["allocated"],
        )
        with self._lock:
            self._rows.append(row)
            self._peaks = (
                max(self._peaks[0], self._peak_of(allocated)),
                max(self._peaks[1], int(reserved["current"])),
            )
        if looks:
            self._phase = ""
            self.switch(phase)
        return True

    def result(self) -> DeviceMemory | None:
        """What was read so far, if anything; safe from any thread."""
        with self._lock:
            times, *columns = self._rows.columns()
            stride, peaks = self._rows.stride, self._peaks
        if not times:
            return None
        return DeviceMemory(
            device=self._device,
            total_bytes=self._total,
            course=Samples(
                stride=stride, time_ns=times, columns=dict(zip(_COLUMNS, columns, strict=True))
            ),
            peak_allocated_bytes=peaks[0],
            peak_reserved_bytes=peaks[1],
            phases=dict(self.phases),
        )

    def _peak_of(self, allocated: Mapping[str, int]) -> int:
        """The largest value in this run, as far as it is known."""
        if allocated["peak"] < self._before:  # the program has set its peaks back
            self._before = 0
        if allocated["peak"] > self._before:
            return int(allocated["peak"])
        ends = [max(held.begin_bytes, held.end_bytes) for held in self.phases.values()]
        return max(int(allocated["current"]), *ends, 0)

    def _statistics(self) -> Statistics:
        found: Statistics = torch.cuda.memory_stats_as_nested_dict(self._device)
        return found


def peak_now() -> int:
    """The allocator's peak on the current device; 0 where none is in use yet."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return 0
    return int(torch.cuda.memory_stats_as_nested_dict()["allocated_bytes"]["all"]["peak"])


def _of(statistics: Statistics, name: str) -> Mapping[str, int]:
    """One quantity, of small and large blocks together."""
    found: Mapping[str, int] = statistics[name]["all"]
    return found


def _larger(one: PhaseMemory | None, other: PhaseMemory) -> PhaseMemory:
    if one is None:
        return other
    peaks = [p for p in (one.peak_bytes, other.peak_bytes) if p is not None]
    return PhaseMemory(
        begin_bytes=max(one.begin_bytes, other.begin_bytes),
        end_bytes=max(one.end_bytes, other.end_bytes),
        peak_bytes=max(peaks) if peaks else None,
    )
