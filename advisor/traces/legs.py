"""The critical path of one rank, cut at its collectives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from stepscope.advisor.ranks.paths import Leg, Meeting, Paths, StepPath
from stepscope.advisor.traces.critical import Window
from stepscope.advisor.traces.intervals import Int64
from stepscope.advisor.traces.names import Names
from stepscope.advisor.traces.owners import (
    DEVICE_OWNERS,
    HOST_OWNERS,
    Owner,
    device_owners,
    of_events,
)
from stepscope.advisor.traces.path import Path, places, walk

_MOST_LEGS = 1 << 10
"""Collectives whose legs are kept: those of the first steps."""


class Legs:
    """Finds the legs of one rank.

    Args:
        names: what names stand for.
        host: unused; where steps begin on the host.
        times: begin of each step, and end of the last.
    """

    def __init__(self, names: Names, host: Sequence[int], times: Sequence[int]) -> None:
        self.steps: list[StepPath | None] = [None] * (len(times) - 1)
        """None for steps beyond what is kept, and those too long for memory."""
        self._collective = names.category == names.is_("collective")
        self._device_owners = device_owners(names)
        self._times = times
        self._count = 0

    def add(self, step: int, window: Window) -> None:
        """Take a window of one step."""
        whole = (window.begin, window.end) == (self._times[step], self._times[step + 1])
        if not whole or self._count > _MOST_LEGS:
            return
        rows = window.work.rows
        fresh = (rows["start"] >= window.begin) & self._collective[rows["name"]]
        number = {int(work): i for i, work in enumerate(np.flatnonzero(fresh))}
        found, spans = places(window.work, window.waits), _Spans(window)

        def leg(at: int, work: int) -> Leg:
            path = walk(found, window.begin, at, work, number)
            return Leg(0, number.get(path.stopped_at, -1), self._owners(path, window, spans))

        meetings = [
            Meeting(found.end[work] - found.start[work], leg(found.start[work], work))
            for work in number
        ]
        self._count += len(meetings)
        last = leg(window.end, window.last)
        if window.last in number:  # the walk goes through the collective that the step ends with
            last = Leg(0, number[window.last], {})
        self.steps[step] = StepPath(window.end - window.begin, last, meetings)

    def _owners(self, path: Path, window: Window, spans: _Spans) -> dict[str, int]:
        owners = spans.among(*path.host)
        name = window.work.rows["name"][path.work]
        for kind, time in zip(self._device_owners[name], path.work_ns.tolist(), strict=True):
            owners[DEVICE_OWNERS[kind]] += time
        owners.update(
            launch=path.launch, queue=path.queue, unrecorded=path.unrecorded, sync=path.sync
        )
        return {owner: time for owner, time in owners.items() if time}


class _Spans:
    """How long each owner had the turn on the host, up to any time."""

    def __init__(self, window: Window) -> None:
        event = window.turns.event
        self._time = np.append(window.turns.time, window.end).astype(float)
        length = np.diff(self._time)
        owner = of_events(window.owner, event, Owner.PYTHON)
        self._until = {
            HOST_OWNERS[Owner(code)]: np.append(0.0, np.cumsum(length * (owner == code)))
            for code in np.unique(owner)
        }

    def among(self, start: Int64, end: Int64) -> Counter[str]:
        """In intervals; what lies before the first event is Python."""
        found: Counter[str] = Counter()
        if len(start):
            for name, until in self._until.items():
                passed = np.interp([start, end], self._time, until)
                found[name] = round(float((passed[1] - passed[0]).sum()))
            found["python"] += int((end - start).sum()) - found.total()
        return found


def paths_of(legs: Legs, rank: int, numbers: Sequence[int]) -> Paths:
    """The paths of one rank.

    Args:
        legs: which have seen its trace.
        rank: of the process.
        numbers: of the steps.
    """
    paths: Paths = {}
    for number, step in zip(numbers, legs.steps, strict=True):
        if step is not None:
            for leg in [step.last, *(meeting.leg for meeting in step.meetings)]:
                leg.rank = rank
            paths[number] = {len(step.meetings): step}
    return paths
