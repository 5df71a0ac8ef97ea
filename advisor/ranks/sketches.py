"""What adds up in any grouping and order to the same bytes, in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping
from math import floor, log
from typing import TypeVar
from zlib import crc32

GROWTH = 1.02
"""Ratio of neighbouring bin edges: quantiles are exact to 1 % (DDSketch, arXiv:1908.10693)."""
KEPT = 4096
"""Names of a table that are kept; programs have fewer."""
Counts = dict[int, int]
"""How many values fell into each logarithmic bin; bin `b` holds [growth**b, growth**(b+1))."""
V = TypeVar("V")


def counted(value: int) -> Counts:
    """One value; those below one count as one."""
    return {floor(log(max(1, value)) / log(GROWTH)): 1}


def added(one: Mapping[int, int], other: Mapping[int, int]) -> Counts:
    """Both counts together."""
    keys = sorted(one.keys() | other.keys())
    return {key: one.get(key, 0) + other.get(key, 0) for key in keys}


def middle(counts: Mapping[int, int]) -> float | None:
    """The (lower) median; None of nothing."""
    total, seen = sum(counts.values()), 0
    for bin_ in sorted(counts):
        seen += counts[bin_]
        if 2 * seen >= total:
            return float(GROWTH ** (bin_ + 0.5))
    return None


def kept(table: Mapping[str, V], most: int = KEPT) -> dict[str, V]:
    """At most so many entries of a table, sorted by name.

    Those with the smallest hash stay: an entry that stays in the end was never left out on the way,
    so that its sum is exact, whatever was merged with what first.
    """
    names = sorted(table)
    if len(names) > most:
        names = sorted(sorted(names, key=lambda name: (crc32(name.encode()), name))[:most])
    return {name: table[name] for name in names}
