"""Geometry of the plan's picture: speedups from left to right, equal factors equally far apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from stepscope.advisor.advice import Measured, PlanStep
from stepscope.advisor.wording import speedup

_TICKS = (1, 1.5, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)
_ROOM = 1.06


class Span(NamedTuple):
    """A speedup over the unchanged run with its interval, as places in percent of the width."""

    at: float
    low: float
    high: float
    label: str


class Rung(NamedTuple):
    """One step of the plan on top of those before it."""

    before: float
    """Where the step before it has led."""
    predicted: Span
    measured: Span | None


class Ladder(NamedTuple):
    """The rungs in the order of the plan, and the axis below them."""

    rungs: list[Rung]
    ticks: list[tuple[float, str]]


def ladder(plan: Sequence[PlanStep]) -> Ladder:
    """Speedup of all steps so far: as predicted, and as measured on top of those predicted."""
    before = [step.cumulative / step.predicted.speedup for step in plan]
    whole = [
        Measured(speedup=s.cumulative, low=s.cumulative_low, high=s.cumulative_high) for s in plan
    ]
    tried = [
        Measured(speedup=start * m.speedup, low=start * m.low, high=start * m.high) if m else None
        for start, m in zip(before, (step.measured for step in plan), strict=True)
    ]
    ends = [end for claim in (*whole, *tried) if claim for end in (claim.low, claim.high)]
    low, high = min([1.0, *ends]), max([1.5, *ends]) * _ROOM

    def x(factor: float) -> float:
        return 100 * math.log(max(factor, low) / low) / math.log(high / low)

    def span(claim: Measured) -> Span:
        label = f"{speedup(claim.speedup)}, {speedup(claim.low)} to {speedup(claim.high)}"
        return Span(x(claim.speedup), x(claim.low), x(claim.high), label)

    rungs = [
        Rung(before=x(start), predicted=span(all_), measured=span(own) if own else None)
        for start, all_, own in zip(before, whole, tried, strict=True)
    ]
    inside = [factor for factor in _TICKS if low <= factor <= high]
    return Ladder(rungs, [(x(factor), f"{factor:g}x") for factor in inside])
