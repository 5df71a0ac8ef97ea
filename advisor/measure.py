"""From the profile's columns to stages and to the breakdown."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import NamedTuple

from stepscope.advisor.attribution import attribute
from stepscope.advisor.blocks import blocks_of, summed
from stepscope.advisor.causes import CAUSES
from stepscope.advisor.sources import Sources
from stepscope.advisor.stages import Stages
from stepscope.profiler.format import Histogram, Profile, Steps

RESAMPLES = 40


class Interval(NamedTuple):
    """A share of the step with its bounds."""

    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Breakdown:
    """Where a step goes."""

    step_seconds: float
    causes: dict[str, Interval]
    """Shares sum to 1; causes with no time are left out."""


@dataclass(frozen=True)
class Measurement:
    """A profile, measured: the breakdown, and the stages it was made of."""

    breakdown: Breakdown
    stages: Stages
    resamples: list[Stages]
    """The same stages from bootstrap resamples of blocks of steps, for intervals."""


class NoStepsError(Exception):
    """The profile holds too few steps to say anything."""


def measured_steps(profile: Profile) -> Steps:
    """The steps to judge by: the steady ones, or those of a run too short to have any."""
    few = profile.trace is None and profile.steady.total < 3
    return profile.warmup if few else profile.steady


def measure(profile: Profile) -> Measurement:
    """Attribute the steady steps of `profile` to causes, and build the pipeline's stages.

    Raises:
        NoStepsError: there are no steps after warm-up.
    """
    steps = measured_steps(profile)
    if steps.total < (3 if profile.trace is None else 1):
        raise NoStepsError(
            f"only {steps.total} training steps were recorded; profile at least 20, better 100"
        )
    blocks = [block for block in blocks_of(steps) if block.wall > 0]
    if not blocks:
        raise NoStepsError("no training step took any time; record the profile again")
    sources = Sources(profile, summed(blocks))
    random_ = random.Random(0)  # the same profile gives the same advice
    resampled = [summed(random_.choices(blocks, k=len(blocks))) for _ in range(RESAMPLES)]
    shares = _shares(attribute(sources, sources.whole))
    spread = [_shares(attribute(sources, block)) for block in resampled]
    causes = {
        cause: Interval(share, *_bounds([s.get(cause, 0.0) for s in spread], share))
        for cause, share in shares.items()
    }
    return Measurement(
        breakdown=Breakdown(sources.whole.wall / sources.whole.steps, causes),
        stages=sources.shaped(steps),
        resamples=[sources.stages(block) for block in resampled],
    )


def quantile(histogram: Histogram, q: float) -> float | None:
    """The value in ns below which a part `q` of the counted values lies; None when empty."""
    total = sum(histogram.counts)
    seen = 0
    for bin_, count in zip(histogram.bins, histogram.counts, strict=True):
        seen += count
        if seen >= q * total:
            return float(histogram.growth ** (bin_ + 0.5))
    return None


def _shares(seconds: dict[str, float]) -> dict[str, float]:
    total = sum(seconds.values())
    return {
        cause: seconds[cause] / total for cause in CAUSES if total and seconds.get(cause, 0.0) > 0
    }


def _bounds(values: list[float], middle: float) -> tuple[float, float]:
    """5th and 95th percentile, never leaving the middle outside."""
    ordered = sorted(values)
    low, high = ordered[int(0.05 * len(ordered))], ordered[int(0.95 * (len(ordered) - 1) + 0.5)]
    return min(low, middle), max(high, middle)
