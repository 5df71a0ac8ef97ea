"""Ranges that the program has named (`record_function`), and what the device does for each."""

from __future__ import annotations

from collections import Counter

import numpy as np

from stepscope.advisor.traces.columns import Records, Table
from stepscope.advisor.traces.intervals import Int64, Mask
from stepscope.advisor.traces.nesting import NOTHING, Course, innermost, nested


class Scopes:
    """Nested ranges, each known by its own name and the range around it."""

    def __init__(self) -> None:
        self._ranges = Table()
        """Pairs of the range around (-1: none), which has a lower number, and a name."""
        self._device: Counter[int] = Counter()

    def around(self, host: Records, named: Mask, main: int) -> Int64:
        """The innermost range around the begin of each event; -1 for none.

        Args:
            host: all events, by thread and start; at equal starts the longer one first.
            named: which of them are ranges.
            main: track of the training thread. It waits for those of autograd's engine, so what
                they do belongs to its ranges too.
        """
        track, start = host["track"], host["start"]
        course = self._course(host[named & (track == main)])
        found = course.at(start)
        for other in np.unique(track[named & (track != main)]).tolist():
            mine = track == other
            inner = self._course(host[named & mine], course).at(start[mine])
            found[mine] = np.where(inner >= 0, inner, found[mine])
        return found

    def _course(self, annotations: Records, around: Course = NOTHING) -> Course:
        """The innermost range of one thread at any time, inside those of another."""
        start, end = annotations["start"], annotations["end"]
        parents, outer = nested(start, end).parent.tolist(), around.at(start).tolist()
        found: list[int] = []
        for i, name in enumerate(annotations["name"].tolist()):
            found.append(self._ranges[found[parents[i]] if parents[i] >= 0 else outer[i], name])
        return innermost(start, end, np.array(found, np.int64))

    def add(self, ranges: Int64, time: Int64) -> None:
        """Count work of the device that was launched in some ranges."""
        found, which = np.unique(ranges, return_inverse=True)
        for number, total in zip(found.tolist(), np.bincount(which, weights=time), strict=True):
            if number >= 0:
                self._device[number] += int(total)

    def device_ns(self) -> Counter[int]:
        """Time on the device by name: of all ranges so called, with those inside them."""
        times: Counter[int] = Counter()
        names: list[frozenset[int]] = []
        for number, (around, name) in enumerate(self._ranges):
            names.append(names[around] | {name} if around >= 0 else frozenset((name,)))
            for each in names[number]:
                times[each] += self._device[number]
        return times
