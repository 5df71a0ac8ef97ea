"""Throughput over numbers of ranks: each keeps its batch (weak), or all together do (strong)."""

from __future__ import annotations

from typing import NamedTuple

from stepscope.advisor.measure import NoStepsError, measure
from stepscope.advisor.scaling.answer import Forecast, told
from stepscope.advisor.scaling.forecast import Scaling, Scenario, observed
from stepscope.profiler.format import Profile

_MORE = 16
"""So many times the present ranks at most: further away the link would be another one."""


class Curve(NamedTuple):
    """Forecasts by number of ranks, from one rank to many times those of now."""

    ranks: int
    """Of the run."""
    weak: list[Forecast]
    strong: list[Forecast]
    """Without those in which a rank would have less than one sample."""


def curve(profile: Profile) -> Curve | None:
    """The scaling curve of a job; None where its ranks exchange nothing, or it was not timed.

    Args:
        profile: of all ranks together.
    """
    if profile.ranks is None or profile.ranks.count < 2:
        return None
    try:
        measurement = measure(profile)
    except NoStepsError:
        return None
    seen = observed(profile, measurement.stages)
    now, batch = seen.exchange.ranks, profile.configuration.batch_size
    if not seen.exchange.traffic or seen.exchange.alone:
        return None
    numbers = sorted({1, now, *(2**i for i in range(20) if 2**i <= _MORE * now)})

    def forecasts(scaling: Scaling, numbers: list[int]) -> list[Forecast]:
        scenarios = (Scenario(ranks=ranks, scaling=scaling) for ranks in numbers)
        return [told(scenario, seen, measurement, batch) for scenario in scenarios]

    divided = [ranks for ranks in numbers if batch is None or batch * now >= ranks]
    return Curve(now, forecasts("weak", numbers), forecasts("strong", divided))
