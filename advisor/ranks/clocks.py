"""How far the clocks of machines are apart, by the ends of collectives that all ranks have seen.

A rank may leave a collective late, never early: of the ranks of one machine the earliest counts. Of
each pair of clocks the differences are taken at each collective; a line through them, whose slope
is the median of those between any two (H. Theil, 1950; P. K. Sen, J. Am. Stat. Assoc. 63(324),
1968), tells the drift, and how the differences scatter around it how sure that is.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from statistics import median, quantiles
from zlib import crc32

from msgspec import Struct

from stepscope.advisor.ranks.sketches import kept
from stepscope.profiler.format import Clock, Meetings

_CLOCKS, _ENDS = 256, 64
_FEWEST = 8
_CERTAIN, _LONG = 3.0, 10_000_000_000
"""So many times the scatter a drift has to add up to, and in so many nanoseconds at least."""


class Ends(Struct):
    """What is kept of one clock."""

    rank: int
    """The first whose clock it is."""
    host: str
    ranks: int
    at: dict[int, int]
    """The earliest end of a collective, by its number: nanoseconds since 1970 on this clock."""


Clocks = dict[str, Ends]


def clocks_of(meetings: Meetings | None, rank: int, host: str | None) -> Clocks:
    """One rank's clock."""
    if meetings is None:
        return {}
    ends = (meetings.origin_ns + end for end in meetings.ends_ns)
    return clock(meetings.clock, rank, host, dict(zip(meetings.steps, ends, strict=True)))


def clock(name: str, rank: int, host: str | None, at: Mapping[int, int]) -> Clocks:
    """One rank's clock.

    Args:
        name: the same for all ranks that have it.
        rank: whose it is.
        host: of the rank.
        at: ends of collectives, by numbers that all ranks give them alike.
    """
    return {name: Ends(rank, host or "", 1, _fewer(at))} if at else {}


def joined(one: Clocks, other: Clocks) -> Clocks:
    """Both together, in any order."""
    both = {**one}
    for name, b in other.items():
        both[name] = _both(one[name], b) if name in one else b
    return kept(both, _CLOCKS)


def _both(a: Ends, b: Ends) -> Ends:
    first = min(a, b, key=lambda ends: ends.rank)
    at = {number: min(a.at.get(number, end), end) for number, end in b.at.items()}
    return Ends(first.rank, first.host, a.ranks + b.ranks, _fewer({**a.at, **at}))


def _fewer(at: Mapping[int, int]) -> dict[int, int]:
    """Some of them, the same of all ranks; what stays in the end was never left out before."""
    numbers = sorted(at, key=lambda number: (crc32(number.to_bytes(8, "little")), number))
    return {number: at[number] for number in sorted(numbers[:_ENDS])}


def offsets(clocks: Clocks) -> list[Clock]:
    """The clocks compared, those that are furthest from the usual one first."""
    return sorted(compared(clocks).values(), key=lambda found: (-abs(found.offset_ns), found.rank))


def compared(clocks: Clocks) -> dict[str, Clock]:
    """Each clock compared with the usual one; nothing where there is only one."""
    ordered = sorted(clocks.values(), key=lambda ends: ends.rank)
    if len(ordered) < 2:
        return {}
    usual = _usual(ordered)
    found = {name: _compared(usual, ends) for name, ends in clocks.items()}
    known = {name: clock for name, clock in found.items() if clock is not None}
    return known if len(known) > 1 else {}


def _usual(ordered: list[Ends]) -> Ends:
    """The one in the middle; of two it cannot be told which is wrong, and the first counts."""
    found = [(_compared(ordered[0], ends), ends) for ends in ordered]
    known = [(clock.offset_ns, ends.rank, ends) for clock, ends in found if clock is not None]
    known.sort(key=lambda each: each[:2])
    return known[(len(known) - 1) // 2][2] if len(known) > 2 else ordered[0]


def _compared(first: Ends, other: Ends) -> Clock | None:
    shared = sorted(first.at.keys() & other.at.keys())
    if len(shared) < _FEWEST:
        return None
    times = [first.at[number] for number in shared]
    apart = [other.at[number] - first.at[number] for number in shared]
    slope = _slope(times, apart)
    middle = (times[0] + times[-1]) / 2
    around = [gap - slope * (time - middle) for time, gap in zip(times, apart, strict=True)]
    scatter = _scatter(around)
    lasted = times[-1] - times[0]
    drifts = lasted >= _LONG and abs(slope) * lasted > _CERTAIN * scatter
    return Clock(
        host=other.host or None,
        rank=other.rank,
        ranks=other.ranks,
        offset_ns=round(median(apart)),
        uncertainty_ns=round(scatter if drifts else _scatter(apart)),
        drift=slope if drifts else None,
        meetings=len(shared),
    )


def _slope(times: list[int], values: list[int]) -> float:
    pairs = combinations(zip(times, values, strict=True), 2)
    return median((y - b) / (x - a) for (a, b), (x, y) in pairs if x != a)


def _scatter(values: list[int] | list[float]) -> float:
    tenths = quantiles(values, n=10, method="inclusive")
    return (tenths[-1] - tenths[0]) / 2
