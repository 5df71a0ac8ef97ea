"""Sets of intervals on one time line, as sorted columns of begins and ends."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class Intervals(NamedTuple):
    """Disjoint intervals in order of time."""

    start: Int64
    end: Int64

    @property
    def total(self) -> int:
        """Their length together."""
        return int((self.end - self.start).sum())

    def before(self, times: Int64) -> Int64:
        """How much of them lies before each of some times."""
        place = np.searchsorted(self.start, times, "right")
        lengths = np.concatenate([[0], np.cumsum(self.end - self.start)])
        ends = np.concatenate([times[:1], self.end])[place]
        return np.asarray(lengths[place] - np.maximum(0, ends - times) * (place > 0))

    def around(self, times: Int64) -> Mask:
        """Whether each of some times lies in one of them."""
        place = np.searchsorted(self.start, times, "right") - 1
        ends = np.concatenate([self.end, times[:1]])[place]
        return np.asarray((place >= 0) & (times < ends))

    def clipped(self, a: int, b: int) -> Intervals:
        """The parts of them in [a, b)."""
        start, end = np.maximum(self.start, a), np.minimum(self.end, b)
        kept = start < end
        return Intervals(start[kept], end[kept])

    def shorter_than(self, length: int) -> Intervals:
        """Those of them that are short."""
        short = self.end - self.start < length
        return Intervals(self.start[short], self.end[short])

    def between(self, a: int, b: int) -> Intervals:
        """What they leave free of [a, b)."""
        inside = self.clipped(a, b)
        start = np.concatenate([[a], inside.end])
        end = np.concatenate([inside.start, [b]])
        kept = start < end
        return Intervals(start[kept], end[kept])

    def __or__(self, other: tuple[object, ...]) -> Intervals:
        """The union with others."""
        assert isinstance(other, Intervals)
        return merged(
            np.concatenate([self.start, other.start]), np.concatenate([self.end, other.end])
        )


EMPTY = Intervals(np.empty(0, np.int64), np.empty(0, np.int64))


def merged(start: Int64, end: Int64, slack: int = 0) -> Intervals:
    """The union of intervals in any order, closing gaps of up to `slack` between them."""
    if len(start) == 0:
        return EMPTY
    if np.any(start[1:] < start[:-1]):
        order = np.argsort(start, kind="stable")
        start, end = start[order], end[order]
    reach = np.maximum.accumulate(end)
    first = np.empty(len(start), bool)
    first[0] = True
    np.greater(start[1:], reach[:-1] + slack, out=first[1:])
    last = np.append(first[1:], True)
    return Intervals(start[first], reach[last])


def divide(layers: dict[str, Intervals], bounds: Int64) -> dict[str, Int64]:
    """Divide time among layers: each moment belongs to the first that covers it.

    Args:
        layers: intervals by name, in order of priority.
        bounds: increasing times; what lies between two of them is told apart.

    Returns:
        Times by name, one for each pair of neighbouring bounds; less than the time between them
        where nothing covers a moment.
    """
    covered, so_far = EMPTY, np.zeros(len(bounds) - 1, np.int64)
    parts: dict[str, Int64] = {}
    for name, intervals in layers.items():
        covered = covered | intervals.clipped(int(bounds[0]), int(bounds[-1]))
        together = np.diff(covered.before(bounds))
        parts[name] = together - so_far
        so_far = together
    return parts
