"""Memory that the allocators of devices hold, from the events of `profile_memory=True`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from stepscope.advisor.traces.columns import ALLOCATED, RESERVED, Records
from stepscope.advisor.traces.intervals import Intervals
from stepscope.advisor.traces.kinds import Kind

_MOST = 2048
_PARTS = 4


class Held(NamedTuple):
    """Bytes at a time, in ns since the first event that was read."""

    time_ns: int
    allocated: int
    reserved: int


class Memory:
    """The course of what each allocator holds; a few values for each piece of the trace."""

    def __init__(self) -> None:
        self.course: dict[int, list[Held]] = {}
        """By track."""
        self.peaks: dict[int, Held] = {}

    def add(self, records: Records) -> None:
        """Note the allocators' events among some records."""
        events = records[records["kind"] == Kind.MEMORY]
        for track in np.unique(events["track"]).tolist():
            mine = events[events["track"] == track]
            parts = [part for part in np.array_split(mine, _PARTS) if len(part)]
            course = self.course.setdefault(track, [])
            course += [_held(part[part[RESERVED].argmax()]) for part in parts]
            if len(course) > _MOST:
                del course[::2]
            peak = self.peaks.get(track, course[-1])
            self.peaks[track] = Held(
                peak.time_ns,
                max(peak.allocated, int(mine[ALLOCATED].max())),
                max(peak.reserved, int(mine[RESERVED].max())),
            )


def _held(event: Any) -> Held:
    return Held(int(event["start"]), int(event[ALLOCATED]), int(event[RESERVED]))


class PhasePeaks:
    """The most that was allocated on one device while the host was in each of its phases."""

    def __init__(self) -> None:
        self.allocated: dict[str, int] = {}

    def add(self, events: Records, layers: dict[str, Intervals]) -> None:
        """Count an allocator's events.

        Args:
            events: of one device.
            layers: phases of the host, in order of priority.
        """
        for phase, intervals in layers.items():
            inside = intervals.around(events["start"])
            self._note(phase, events[inside])
            events = events[~inside]
        self._note("python", events)

    def _note(self, phase: str, events: Records) -> None:
        if len(events):
            most = max(self.allocated.get(phase, 0), int(events[ALLOCATED].max()))
            self.allocated[phase] = most
