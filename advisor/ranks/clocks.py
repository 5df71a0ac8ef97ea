"""How far the clocks of machines are apart, by the ends of collectives that all ranks have seen.

A rank may leave a collective late, never early: of the ranks of one machine the earliest counts. Of
each pair of clocks the differences are taken at each collective; a line through them, whose slope
is the median of those between any two (H. Theil, 1950; P. K. Sen, J. Am. Stat. Assoc. 63(324),
1968), tells the drift, and how the differences scatter around it how sure that is.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from statistics import median, median_low, quantiles
from zlib import crc32

from msgspec import Struct, structs

from stepscope.advisor.ranks.sketches import kept
from stepscope.profiler.format import Clock, Meetings

_CLOCKS, _ENDS = 256, 64
_FEWEST = 8
_CERTAIN = 3.0
"""So many times the scatter a drift has to add up to during the run."""


class Ends(Struct):
    """What is kept of one clock."""

    rank: int
    """The first whose clock it is."""
    host: str
    ranks: int
    at: dict[int, int]
    """The earliest end of the collective in a step, by step: nanoseconds on this clock."""


Clocks = dict[str, Ends]


def clocks_of(meetings: Meetings | None, rank: int, host: str | None) -> Clocks:
    """One rank's clock."""
    if meetings is None:
        return {}
    ends = (meetings.first_ns + end for end in meetings.ends_ns)
    at = _fewer(dict(zip(meetings.steps, ends, strict=True)))
    return {meetings.clock: Ends(rank, host or "", 1, at)}


def joined(one: Clocks, other: Clocks) -> Clocks:
    """Both together, in any order."""
    both = {**one}
    for name, b in other.items():
        both[name] = _both(one[name], b) if name in one else b
    return kept(both, _CLOCKS)


def _both(a: Ends, b: Ends) -> Ends:
    first = min(a, b, key=lambda ends: ends.rank)
    at = {step: min(a.at.get(step, end), end) for step, end in b.at.items()}
    return Ends(first.rank, first.host, a.ranks + b.ranks, _fewer({**a.at, **at}))


def _fewer(at: Mapping[int, int]) -> dict[int, int]:
    """Some of the steps, the same of all ranks; what stays in the end was never left out before."""
    steps = sorted(at, key=lambda step: (crc32(step.to_bytes(8, "little")), step))[:_ENDS]
    return {step: at[step] for step in sorted(steps)}


def offsets(clocks: Clocks) -> list[Clock]:
    """The clocks, compared with the usual one; nothing where there is only one."""
    ordered = sorted(clocks.values(), key=lambda ends: ends.rank)
    if len(ordered) < 2:
        return []
    usual = _usual(ordered)
    found = [_compared(usual, ends) for ends in ordered]
    known = [clock for clock in found if clock is not None]
    return sorted(known, key=lambda clock: (-abs(clock.offset_ns), clock.rank)) if known[1:] else []


def _usual(ordered: list[Ends]) -> Ends:
    """The one in the middle; of two it cannot be told which is wrong, and the first counts."""
    compared = [(_compared(ordered[0], ends), ends) for ends in ordered]
    known = [(clock.offset_ns, ends.rank, ends) for clock, ends in compared if clock is not None]
    return ordered[0] if len(known) < 3 else median_low(known)[2]


def _compared(first: Ends, other: Ends) -> Clock | None:
    steps = sorted(first.at.keys() & other.at.keys())
    if len(steps) < _FEWEST:
        return None
    times = [first.at[step] for step in steps]
    apart = [other.at[step] - first.at[step] for step in steps]
    slope = _slope(times, apart)
    middle = (times[0] + times[-1]) / 2
    around = [gap - slope * (time - middle) for time, gap in zip(times, apart, strict=True)]
    scatter = _scatter(around)
    drifts = abs(slope) * (times[-1] - times[0]) > _CERTAIN * scatter
    return Clock(
        host=other.host or None,
        rank=other.rank,
        ranks=other.ranks,
        offset_ns=round(median(apart)),
        uncertainty_ns=round(scatter if drifts else _scatter(apart)),
        drift=slope if drifts and slope else None,
        meetings=len(steps),
    )


def _slope(times: list[int], values: list[int]) -> float:
    pairs = combinations(zip(times, values, strict=True), 2)
    return median((y - b) / (x - a) for (a, b), (x, y) in pairs if x != a)


def _scatter(values: list[int] | list[float]) -> float:
    tenths = quantiles(values, n=10, method="inclusive")
    return (tenths[-1] - tenths[0]) / 2
