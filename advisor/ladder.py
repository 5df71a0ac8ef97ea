"""Geometry of the plan's picture: speedups from left to right, equal factors equally far apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from stepscope.advisor.advice import Measured, PlanStep, Prediction
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
    """Each step's predicted and measured speedup times what the steps before it have gained."""
    before = [step.cumulative / step.predicted.speedup for step in plan]
    ends = [
        start * factor
        for start, step in zip(before, plan, strict=True)
        for claim in (step.predicted, step.measured)
        if claim is not None
        for factor in (claim.low, claim.high)
    ]
    low, high = min([1.0, *ends]), max([1.5, *ends]) * _ROOM

    def x(factor: float) -> float:
        return 100 * math.log(max(factor, low) / low) / math.log(high / low)

    def span(claim: Prediction | Measured, start: float) -> Span:
        low_, high_ = start * claim.low, start * claim.high
        label = f"{speedup(start * claim.speedup)}, {speedup(low_)} to {speedup(high_)}"
        return Span(x(start * claim.speedup), x(low_), x(high_), label)

    rungs = [
        Rung(
            before=x(start),
            predicted=span(step.predicted, start),
            measured=span(step.measured, start) if step.measured else None,
        )
        for start, step in zip(before, plan, strict=True)
    ]
    inside = [factor for factor in _TICKS if low <= factor <= high]
    return Ladder(rungs, [(x(factor), f"{factor:g}x") for factor in inside])
