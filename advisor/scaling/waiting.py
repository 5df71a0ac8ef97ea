"""How late the last of several ranks is: order statistics of their own times."""

from __future__ import annotations

from functools import cache
from math import sqrt
from statistics import NormalDist
from typing import NamedTuple

_STEPS, _REACH = 800, 8.0


class Ratio(NamedTuple):
    """Waiting after a change over waiting before."""

    likely: float
    low: float
    high: float


def of_ranks(before: int, after: int, *, persistent: bool) -> Ratio:
    """Waiting of `after` ranks over that of `before`.

    In each step all wait for the slowest, on average for the expected largest of their times less
    the mean. Where one rank is nearly always the slow one the others keep waiting for that one;
    where they are late in turn, it goes as the largest of so many normal values (likely), or
    exponential ones (the bound).
    """
    if before == after:
        return Ratio(1.0, 1.0, 1.0)
    if after < 2:
        return Ratio(0.0, 0.0, 0.0)
    normal = normal_maximum(after) / normal_maximum(before)
    tailed = exponential_maximum(after) / exponential_maximum(before)
    likely = 1.0 if persistent else normal
    return Ratio(likely, min(1.0, tailed), max(1.0, tailed))


def of_batches(ratio: float, *, persistent: bool) -> Ratio:
    """Waiting a batch where ranks meet after `ratio` times as many: what varies evens out."""
    even = 1 / sqrt(ratio)
    return Ratio(1.0 if persistent else even, min(1.0, even), max(1.0, even))


def of_work(ratio: float, *, persistent: bool) -> Ratio:
    """Waiting with `ratio` times the work a step.

    A slow rank is as much slower at it; what varies from sample to sample evens out.
    """
    likely = ratio if persistent else sqrt(ratio)
    return Ratio(likely, min(1.0, ratio), max(1.0, ratio))


@cache
def normal_maximum(count: int) -> float:
    """Expected largest of `count` standard normal values, by the midpoint rule."""
    cumulative, width = NormalDist().cdf, 2 * _REACH / _STEPS
    points = (-_REACH + (i + 0.5) * width for i in range(_STEPS))
    return width * sum((x > 0) - cumulative(x) ** count for x in points)


def exponential_maximum(count: int) -> float:
    """Expected largest of `count` exponential values of mean one, less the mean."""
    return sum(1 / i for i in range(2, count + 1))
