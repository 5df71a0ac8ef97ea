"""Memory that the allocators hold, from the events of `profile_memory=True`."""

from __future__ import annotations

from typing import NamedTuple

from stepscope.advisor.traces.reader import NO_ARGS, Event

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

    def add(self, events: list[Event]) -> None:
        """Note the allocator's events of a piece; those of the host's memory are left out."""
        most: dict[int, Held] = {}
        for event in events:
            args = event.args or NO_ARGS
            reserved, number = args.reserved, args.device_id
            if args.device_type != _ON_DEVICE or not isinstance(reserved, int):
                continue
            if isinstance(number, int) and isinstance(args.allocated, int):
                held = most.get(number)
                if held is None or reserved > held.reserved:
                    most[number] = Held(event.ts, args.allocated, reserved)
        for number, held in most.items():
            course = self.devices.setdefault(number, [])
            course.append(held)
            if len(course) > _MOST:
                del course[::2]
            peak = self.peaks.get(number)
            if peak is None or held.reserved > peak.reserved:
                self.peaks[number] = held
