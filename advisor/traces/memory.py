"""Memory that the allocators hold, from the events of `profile_memory=True`."""

from __future__ import annotations

from typing import NamedTuple

from stepscope.advisor.traces.kinds import MEMORY_NAME
from stepscope.advisor.traces.reader import Instant

_MOST = 2048
_ON_DEVICE = 1


class Held(NamedTuple):
    """Bytes at a time in microseconds of the trace's clock."""

    time_us: float
    allocated: int
    reserved: int


class Memory:
    """The course of what each device's allocator holds; one value for each piece of the trace."""

    def __init__(self) -> None:
        self.devices: dict[int, list[Held]] = {}
        self.peaks: dict[int, Held] = {}

    def add(self, events: list[Instant]) -> None:
        """Note the allocator's events of a piece; those of the host's memory are left out."""
        most: dict[int, Held] = {}
        for event in events:
            args = event.args
            if args is None or args.device_type != _ON_DEVICE or event.name != MEMORY_NAME:
                continue
            reserved, device = args.reserved, args.device_id
            if isinstance(device, int) and isinstance(reserved, int):
                held, allocated = most.get(device), args.allocated
                allocated = allocated if isinstance(allocated, int) else 0
                if held is None or (reserved, allocated) > (held.reserved, held.allocated):
                    most[device] = Held(event.ts, allocated, reserved)
        for device, held in most.items():
            course = self.devices.setdefault(device, [])
            course.append(held)
            if len(course) > _MOST:
                del course[::2]
            peak = self.peaks.get(device, held)
            self.peaks[device] = Held(
                held.time_us,
                max(peak.allocated, held.allocated),
                max(peak.reserved, held.reserved),
            )
