"""What is added up over the windows of a trace."""

from __future__ import annotations

from math import floor, log

import numpy as np
import numpy.typing as npt

from stepscope.advisor.traces.intervals import Int64
from stepscope.profiler.format import Histogram

Weights = npt.NDArray[np.float64] | Int64
GROWTH = 1.1


class Tally:
    """Calls and amounts by a small number, e.g. the index of a name.

    Args:
        size: how many numbers there are.
        amounts: what is added up for each, besides the calls.
    """

    def __init__(self, size: int, *amounts: str) -> None:
        self.calls = np.zeros(size, np.int64)
        self.sums = {name: np.zeros(size, np.int64) for name in amounts}

    def add(self, keys: Int64, **amounts: Weights) -> None:
        """Count each key once, and add its amounts."""
        size = len(self.calls)
        self.calls += np.bincount(keys, minlength=size)
        for name, values in amounts.items():
            self.more(name, keys, values)

    def more(self, name: str, keys: Int64, values: Weights) -> None:
        """Add amounts without counting a call."""
        self.sums[name] += np.rint(
            np.bincount(keys, weights=values, minlength=len(self.calls))
        ).astype(np.int64)


class Spread:
    """Counts in logarithmic bins: any number of values, and sums of two are a third."""

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}

    def add(self, values: Int64) -> None:
        """Count values; those below one are counted as one."""
        bins = np.floor(np.log(np.maximum(values, 1)) / log(GROWTH)).astype(np.int64)
        for bin_, count in zip(*np.unique(bins, return_counts=True), strict=True):
            self.counts[int(bin_)] = self.counts.get(int(bin_), 0) + int(count)

    def histogram(self) -> Histogram:
        """As the profile's type."""
        bins = sorted(self.counts)
        return Histogram(growth=GROWTH, bins=bins, counts=[self.counts[b] for b in bins])


def histogram_of(values: list[int]) -> Histogram:
    """A histogram of positive values."""
    spread: dict[int, int] = {}
    for value in values:
        bin_ = floor(log(max(1, value)) / log(GROWTH))
        spread[bin_] = spread.get(bin_, 0) + 1
    bins = sorted(spread)
    return Histogram(growth=GROWTH, bins=bins, counts=[spread[b] for b in bins])
