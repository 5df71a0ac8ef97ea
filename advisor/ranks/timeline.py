"""Columns over the steps of a run, in bins of a power of two of steps.

The bins of every timeline begin at multiples of their width, so that those of any two can be
brought to the same width, and what is in the end is the same in any order of merging.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from operator import add

from msgspec import Struct

from stepscope.profiler.format import Steps

NONE = 1 << 62
"""The smallest of nothing."""
_RANKS = 1 << 20
_LONGEST = 1 << 41
"""Nanoseconds, about half an hour: with the rank behind it a number of 62 bits."""
_OPTIONAL = ("cpu_ns", "process_cpu_ns", "run_delay_ns", "wait_cpu_ns", "wait_run_delay_ns")


class Timeline(Struct, kw_only=True):
    """Sums, largest (`most.*`) and smallest values (`least.*`) of the steps in each bin."""

    capacity: int
    """Bins at most."""
    level: int
    """A bin holds 2**level steps."""
    start: int
    """Number of the first bin: its first step over the bin's width."""
    columns: dict[str, list[int]]
    unknown: list[str] = []
    """Columns that some rank has not measured, and that are left out therefore."""

    @property
    def bins(self) -> int:
        """Number of bins."""
        return len(next(iter(self.columns.values()), ()))

    def at_level(self, level: int) -> Timeline:
        """The same with bins of 2**level steps, if those are wider."""
        if level <= self.level:
            return self
        width = 1 << (level - self.level)
        lead = self.start % width
        tail = -(lead + self.bins) % width
        columns = {}
        for name, column in self.columns.items():
            reduce, nothing = _reducer(name)
            padded = [nothing] * lead + column + [nothing] * tail
            columns[name] = [reduce(padded[i : i + width]) for i in range(0, len(padded), width)]
        return _replaced(self, level, self.start // width, columns)

    def bounded(self) -> Timeline:
        """The same with the narrowest bins of which there are not too many."""
        last = self.start + self.bins - 1
        level = self.level
        while (last >> (level - self.level)) - (self.start >> (level - self.level)) >= max(
            1, self.capacity
        ):
            level += 1
        return self.at_level(level)


def joined(one: Timeline, other: Timeline) -> Timeline:
    """Both timelines as one."""
    level = max(one.level, other.level)
    one, other = one.at_level(level), other.at_level(level)
    start = min(one.start, other.start)
    stop = max(one.start + one.bins, other.start + other.bins)
    unknown = sorted({*one.unknown, *other.unknown})
    names = sorted((one.columns.keys() | other.columns.keys()) - set(unknown))
    columns = {}
    for name in names:
        reduce, nothing = _reducer(name)
        a, b = (_padded(each, name, nothing, start, stop) for each in (one, other))
        pairs = map(add, a, b) if reduce is sum else map(max if reduce is max else min, a, b)
        columns[name] = list(pairs)
    whole = _replaced(one, level, start, columns)
    whole.unknown = unknown
    return whole.bounded()


def timeline_of(steps: Steps, capacity: int, **more: Sequence[int]) -> Timeline:
    """The steps of one rank; phases and calls of which there are none are left out.

    Args:
        steps: its steps.
        capacity: bins at most.
        more: further columns, one value a row of `steps`.
    """
    columns: dict[str, Sequence[int]] = {
        "steps": steps.count,
        "least.first": steps.first,
        "wall_ns": steps.wall_ns,
        "most.wall_ns": steps.wall_max_ns,
        **{f"phases.{name}": column for name, column in steps.phases.items() if any(column)},
        **{f"calls.{name}": column for name, column in steps.calls.items() if any(column)},
        **{name: column for name in _OPTIONAL if (column := getattr(steps, name)) is not None},
        **more,
    }
    unknown = [name for name in _OPTIONAL if name not in columns]
    return binned(steps.first, columns, capacity, unknown)


def binned(
    first: Sequence[int],
    columns: Mapping[str, Sequence[int]],
    capacity: int,
    unknown: Sequence[str] = (),
) -> Timeline:
    """Rows that begin at steps `first`, in bins; a row belongs to the bin of its first step."""
    low, high = (first[0], first[-1]) if first else (0, -1)
    level = 0
    while (high >> level) - (low >> level) >= capacity:
        level += 1
    numbers = range(low >> level, (high >> level) + 1)
    if [step >> level for step in first] == list(numbers):  # one row in each bin
        found = {name: list(column) for name, column in columns.items()}
    else:
        edges = [*(bisect_left(first, number << level) for number in numbers), len(first)]
        found = {name: _by_bin(name, column, edges) for name, column in columns.items()}
    return Timeline(
        capacity=capacity,
        level=level,
        start=low >> level,
        columns=found,
        unknown=sorted(unknown),
    )


def _by_bin(name: str, column: Sequence[int], edges: Sequence[int]) -> list[int]:
    reduce, nothing = _reducer(name)
    return [reduce(column[a:b]) if b > a else nothing for a, b in pairwise(edges)]


def with_rank(value: int, rank: int, *, largest: bool = False) -> int:
    """A time and whose it is as one number, the smaller of which is that of the shorter time.

    Of equal ones the lower rank's is found: `largest` says that the largest will be looked for.
    """
    return min(max(0, value), _LONGEST - 1) * _RANKS + (_RANKS - 1 - rank if largest else rank)


def value_and_rank(number: int, *, largest: bool = False) -> tuple[int, int]:
    """The time and the rank of a number that :func:`with_rank` has made."""
    value, rank = divmod(number, _RANKS)
    return value, (_RANKS - 1 - rank if largest else rank)


def _reducer(name: str) -> tuple[Callable[[Sequence[int]], int], int]:
    if name.startswith("most."):
        return max, 0
    return (min, NONE) if name.startswith("least.") else (sum, 0)


def _replaced(one: Timeline, level: int, start: int, columns: dict[str, list[int]]) -> Timeline:
    return Timeline(
        capacity=one.capacity, level=level, start=start, columns=columns, unknown=one.unknown
    )


def _padded(one: Timeline, name: str, nothing: int, start: int, stop: int) -> list[int]:
    column = one.columns.get(name)
    if column is None:
        return [nothing] * (stop - start)
    if one.start == start and one.start + one.bins == stop:
        return column
    return [nothing] * (one.start - start) + column + [nothing] * (stop - one.start - one.bins)
