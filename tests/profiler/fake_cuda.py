"""A simulated device behind torch.cuda's events: one stream that runs in order, and its clock."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch

US = 1_000
_LATENCY_NS = 6 * US
_QUEUE = 1000
"""Launches that can wait for the device; the next one waits on the host."""


class FakeCuda:
    """Host and device in simulated time.

    Args:
        drift: seconds that the device's clock gains per second.
    """

    def __init__(self, drift: float = 0.0) -> None:
        self.now = 10**12
        self.capturing = False
        self.initialised = True
        self.refuse: Exception | None = None
        self.work: list[tuple[int, int]] = []
        self.events = 0
        self.recorded = 0
        self._end = 0
        self._drift = drift

    def host(self, microseconds: float) -> None:
        """The host does something for so long."""
        self.now += round(microseconds * US)

    def launch(self, microseconds: float, *, cost: float = 5.0) -> None:
        """Launch a kernel that takes so long; `cost` is what the host needs for it."""
        if len(self.work) >= _QUEUE:
            self.now = max(self.now, self.work[-_QUEUE][1])
        start = max(self.now + _LATENCY_NS, self._end)
        self._end = start + round(microseconds * US)
        self.work.append((start, self._end))
        self.host(cost)

    def synchronise(self) -> None:
        """Wait for the device."""
        self.now = max(self.now, self._end) + 5 * US

    def device_clock(self, host_ns: int) -> float:
        """What the device's clock shows then; it began somewhere else."""
        return 7e15 + host_ns * (1 + self._drift)

    def reach(self) -> int:
        """When a mark that is set now will be reached."""
        self.recorded += 1
        return max(self.now + _LATENCY_NS, self._end)

    def busy(self, begin: int, end: int) -> int:
        """Nanoseconds of work between two times."""
        return sum(max(0, min(b, end) - max(a, begin)) for a, b in self.work)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Put it in the place of torch.cuda and of the clock."""
        patch.setattr(time, "perf_counter_ns", lambda: self.now)
        made = {"__init__": lambda event, **_: FakeEvent.__init__(event, self)}
        patch.setattr(torch.cuda, "Event", type("Event", (FakeEvent,), made))
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "is_initialized", lambda: self.initialised)
        patch.setattr(torch.cuda, "current_device", lambda: 0)
        patch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: self.capturing)


class FakeEvent:
    """As much of `torch.cuda.Event` as is used."""

    def __init__(self, cuda: FakeCuda) -> None:
        if cuda.refuse is not None:
            raise cuda.refuse
        cuda.events += 1
        self._cuda = cuda
        self._reached: int | None = None

    def record(self, stream: Any) -> None:
        assert stream == "stream of 0"
        assert not self._cuda.capturing
        self._reached = self._cuda.reach()
        self._cuda.host(2)

    def query(self) -> bool:
        assert not self._cuda.capturing
        assert self._reached is not None
        return self._cuda.now >= self._reached

    def elapsed_time(self, end: FakeEvent) -> float:
        """Milliseconds, to half a microsecond as the documentation of CUDA has it."""
        assert self._reached is not None
        assert end._reached is not None
        assert self.query()
        assert end.query()
        clock = self._cuda.device_clock
        microseconds = (clock(end._reached) - clock(self._reached)) / 1000
        return round(2 * microseconds) / 2000

    def synchronize(self) -> None:
        raise AssertionError("nothing may wait for the device")


class FakeAllocator:
    """The statistics of PyTorch's allocator for one device."""

    def __init__(self, total: int = 80 * 2**30) -> None:
        self.total = total
        self.allocated = self.peak = self.reserved = 0
        self.split = self.retries = self.ooms = self.segments = 0
        self.refuse: Exception | None = None
        self.reads = 0

    def hold(self, size: int) -> None:
        """So much is allocated from now on; what is missing comes from the device."""
        self.allocated = size
        self.peak = max(self.peak, size)
        if size > self.reserved:
            self.segments += 1
            self.reserved = size

    def statistics(self, device: int = 0) -> dict[str, Any]:
        assert device == 0
        self.reads += 1
        if self.refuse is not None:
            raise self.refuse

        def of(current: int, peak: int | None = None, allocated: int = 0) -> dict[str, Any]:
            peak = current if peak is None else peak
            return {"all": {"current": current, "peak": peak, "allocated": allocated, "freed": 0}}

        return {
            "allocated_bytes": of(self.allocated, self.peak),
            "reserved_bytes": of(self.reserved),
            "inactive_split_bytes": of(self.split),
            "segment": of(0, allocated=self.segments),
            "num_alloc_retries": self.retries,
            "num_ooms": self.ooms,
        }

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Put it in the place of torch.cuda's."""
        patch.setattr(torch.cuda, "memory_stats_as_nested_dict", self.statistics)
        patch.setattr(
            torch.cuda,
            "get_device_properties",
            lambda device: SimpleNamespace(total_memory=self.total),
        )
