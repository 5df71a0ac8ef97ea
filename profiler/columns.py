"""Bounded tables: whatever the length of the run, memory and file size stay the same."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

GROWTH = 1.02
"""Ratio of neighbouring bin edges: quantiles are exact to 1 %."""


class SummedRows:
    """Rows of integers that are added pairwise when the table is full.

    Sums over rows stay exact. Columns may be added at any time; earlier rows then hold zero.

    Args:
        columns: names of the columns.
        capacity: even number of rows at which neighbours are merged.
        maxima: columns that keep the larger of two merged values instead of the sum.
        firsts: columns that keep the first.
    """

    def __init__(
        self,
        columns: Iterable[str],
        capacity: int = 4096,
        maxima: Sequence[str] = (),
        firsts: Sequence[str] = (),
    ) -> None:
        self.capacity = capacity
        self.names = list(columns)
        self._reducers: dict[str, Callable[[Sequence[int]], int]] = {
            **dict.fromkeys(maxima, max),
            **dict.fromkeys(firsts, _first),
        }
        self._values = array("q")  # row by row: appending a row is one call
        self._full = capacity * len(self.names)
        self._per_row = 1
        self._pending: list[list[int]] = []

    @property
    def rows(self) -> int:
        """Finished rows."""
        return len(self._values) // len(self.names)

    def insert_column(self, position: int, name: str) -> None:
        """Add a column of zeros before column `position`."""
        columns = [self._values[i :: len(self.names)] for i in range(len(self.names))]
        columns.insert(position, array("q", bytes(8 * self.rows)))
        for row in self._pending:
            row.insert(position, 0)
        self.names.insert(position, name)
        self._assemble(columns)

    def append(self, row: list[int]) -> None:
        """Add one row, in the order of `names`; the caller does not use the list again."""
        if self._per_row > 1:
            self._pending.append(row)
            if len(self._pending) < self._per_row:
                return
            row, self._pending = self._merged(self._pending), []
        self._values.extend(row)
        if len(self._values) >= self._full:
            self._halve()

    def _merged(self, rows: list[list[int]]) -> list[int]:
        columns = zip(*rows, strict=True)
        return [self._reduce(name, c) for name, c in zip(self.names, columns, strict=True)]

    def _reduce(self, name: str, values: Sequence[int]) -> int:
        return self._reducers.get(name, sum)(values)

    def _halve(self) -> None:
        width = len(self.names)
        columns = []
        for i, name in enumerate(self.names):
            evens, odds = self._values[i :: 2 * width], self._values[i + width :: 2 * width]
            pairs = zip(evens, odds, strict=True)
            columns.append(array("q", [self._reduce(name, pair) for pair in pairs]))
        self._assemble(columns)
        self._per_row *= 2

    def _assemble(self, columns: list[array[int]]) -> None:
        self._full = self.capacity * len(columns)
        self._values = array("q", chain.from_iterable(zip(*columns, strict=True)))

    def take(self) -> list[int]:
        """Empty the table; returns its rows merged into one, zeros if there was none."""
        columns = self.as_lists()
        self._values, self._pending, self._per_row = array("q"), [], 1
        return [self._reduce(name, column) if column else 0 for name, column in columns.items()]

    def as_lists(self) -> dict[str, list[int]]:
        """The columns, unfinished row included."""
        width = len(self.names)
        lists = {name: self._values[i::width].tolist() for i, name in enumerate(self.names)}
        if self._pending:
            for name, value in zip(self.names, self._merged(self._pending), strict=True):
                lists[name].append(value)
        return lists


class SampledRows:
    """Rows of which every `stride`-th is kept; the stride doubles whenever the table is full.

    Args:
        width: number of columns.
        capacity: rows at which every second one is dropped.
    """

    def __init__(self, width: int, capacity: int = 2048) -> None:
        self.capacity = capacity
        self.stride = 1
        self.rows: list[tuple[Any, ...]] = []
        self._width = width
        self._seen = 0

    def append(self, row: tuple[Any, ...]) -> None:
        """Offer one row."""
        if self._seen % self.stride == 0:
            self.rows.append(row)
            if len(self.rows) >= self.capacity:
                self.rows = self.rows[::2]
                self.stride *= 2
        self._seen += 1

    def columns(self) -> list[list[Any]]:
        """The kept rows, column by column."""
        rows = self.rows
        return [[row[i] for row in rows] for i in range(self._width)]


class LogHistogram:
    """Counts of positive values in logarithmic bins (after DDSketch, Masson et al. 2019)."""

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self._scale = 1.0 / math.log(GROWTH)

    def add(self, value: int) -> None:
        """Count one value."""
        index = int(math.log(value) * self._scale) if value > 0 else 0
        self.counts[index] = self.counts.get(index, 0) + 1


def _first(values: Sequence[int]) -> int:
    return values[0]
