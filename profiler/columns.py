"""Bounded tables: whatever the length of the run, memory and file size stay the same."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Sequence
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
        self.columns: dict[str, array[int]] = {name: array("q") for name in columns}
        self._maxima = frozenset(maxima)
        self._firsts = frozenset(firsts)
        self._steps_per_row = 1
        self._pending: list[list[int]] = []
        self.rows = 0

    def add_column(self, name: str) -> None:
        """Add a column of zeros."""
        if name not in self.columns:
            self.columns[name] = array("q", bytes(8 * self.rows))
            for row in self._pending:
                row.append(0)

    def append(self, values: list[int]) -> None:
        """Add one row; `values` in the order of `columns`, and not used by the caller again."""
        if self._steps_per_row > 1:
            self._pending.append(values)
            if len(self._pending) < self._steps_per_row:
                return
            values = self._merge_pending()
        for column, value in zip(self.columns.values(), values, strict=True):
            column.append(value)
        self.rows += 1
        if self.rows >= self.capacity:
            self._halve()

    def _merge_pending(self) -> list[int]:
        rows, self._pending = self._pending, []
        return [
            self._reducer(name)(values)
            for name, values in zip(self.columns, zip(*rows, strict=True), strict=True)
        ]

    def _reducer(self, name: str) -> Callable[[Sequence[int]], int]:
        if name in self._maxima:
            return max
        return _first if name in self._firsts else sum

    def _halve(self) -> None:
        for name, column in self.columns.items():
            reduce = self._reducer(name)
            pairs = zip(column[0::2], column[1::2], strict=True)
            self.columns[name] = array("q", map(reduce, pairs))
        self.rows //= 2
        self._steps_per_row *= 2

    def as_lists(self) -> dict[str, list[int]]:
        """The columns, unfinished row included."""
        tail = [list(row) for row in self._pending]
        lists = {name: list(column[: self.rows]) for name, column in self.columns.items()}
        if tail:
            for name, values in zip(lists, zip(*tail, strict=False), strict=False):
                lists[name].append(self._reducer(name)(values))
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
