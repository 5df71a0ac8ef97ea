"""Ranges that the program has named (`record_function`), and what the device does for each."""

from __future__ import annotations

from collections import Counter

import numpy as np

from stepscope.advisor.traces.columns import Records, Table
from stepscope.advisor.traces.intervals import Int64
from stepscope.advisor.traces.nesting import NOTHING, Course, innermost, nested


class Scopes:
    """Nested ranges, each known by its own name and the range around it."""

    def __init__(self) -> None:
        self._ranges = Table()
        """Pairs of the range around (-1: none), which has a lower number, and a name."""
        self._device: Counter[int] = Counter()

    def course(self, annotations: Records) -> Course:
        """The innermost range at any time.

        Args:
            annotations: of one thread, sorted by start; at equal starts the longer one first.
        """
        if not len(annotations):
            return NOTHING
        start, end = annotations["start"], annotations["end"]
        found: list[int] = []
        for name, parent in zip(
            annotations["name"].tolist(), nested(start, end).parent.tolist(), strict=True
        ):
            found.append(self._ranges[found[parent] if parent >= 0 else -1, name])
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
