"""Which event lies inside which, on one thread."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from stepscope.advisor.traces.intervals import Int64


class Nesting(NamedTuple):
    """Events of one thread as a forest."""

    parent: Int64
    """Index of the innermost event around each; -1 for none."""
    depth: Int64
    self_time: Int64
    """Length of each without what lies directly inside."""


def nested(start: Int64, end: Int64) -> Nesting:
    """The nesting of events, outer before inner where they begin together.

    Args:
        start: begins, sorted; at equal begins the longer event first.
        end: their ends.
    """
    n = len(start)
    index = np.arange(n)
    # An event that lasts nothing would otherwise end before it began.
    ends = np.sort(np.maximum(end, start + 1))
    depth = index - np.searchsorted(ends, start, "right")
    order = np.argsort(depth, kind="stable")
    keys = depth[order] * n + order
    place = np.searchsorted(keys, (depth - 1) * n + index) - 1
    before = order[np.maximum(place, 0)]
    parent = np.where((place >= 0) & (depth[before] == depth - 1), before, -1)
    length = end - start
    inside = np.bincount(
        parent[parent >= 0],
        weights=np.minimum(end, end[parent])[parent >= 0] - start[parent >= 0],
        minlength=n,
    )
    return Nesting(parent, depth, np.maximum(0, length - inside.astype(np.int64)))


class Course(NamedTuple):
    """A value that holds from one time to the next; -1 where there is none."""

    times: Int64
    values: Int64

    def at(self, times: Int64) -> Int64:
        """The value at each of some times."""
        place = np.searchsorted(self.times, times, "right") - 1
        return np.where(place >= 0, self.values[place], -1) if len(self.times) else place

    def bounds(self, begin: int, end: int) -> Int64:
        """Increasing times from begin to end, between which the value does not change."""
        inside = self.times[(self.times > begin) & (self.times < end)]
        return np.unique(np.concatenate([[begin], inside, [end]]))


NOTHING = Course(np.empty(0, np.int64), np.empty(0, np.int64))


def innermost(start: Int64, end: Int64, values: Int64) -> Course:
    """The value of the innermost event at any time.

    Args:
        start: begins of events of one thread, sorted; at equal begins the longer event first.
        end: their ends.
        values: one for each; not negative.
    """
    lasting = end > start
    start, end, values = start[lasting], end[lasting], values[lasting]
    forest = nested(start, end)
    around = np.where(forest.parent >= 0, values[forest.parent], -1)
    times = np.concatenate([end, start])
    # At one time the inner ones end first, then the outer ones begin first.
    order = np.lexsort((np.concatenate([-1 - forest.depth, forest.depth]), times))
    return Course(times[order], np.concatenate([around, values])[order])


def inherited(own: Int64, nesting: Nesting) -> Int64:
    """Give each event its own value where that is not 0, else that of the event around it."""
    values = own.copy()
    order = np.argsort(nesting.depth, kind="stable")
    depths = nesting.depth[order]
    for level in range(1, int(depths[-1]) + 1 if len(depths) else 0):
        low, high = np.searchsorted(depths, [level, level + 1])
        here = order[low:high]
        here = here[(values[here] == 0) & (nesting.parent[here] >= 0)]
        values[here] = values[nesting.parent[here]]
    return values
