"""What could be done about the exchange itself, beside the plan."""

from __future__ import annotations

from typing import NamedTuple

from stepscope.advisor import wording
from stepscope.advisor.advice import Prediction
from stepscope.advisor.measure import Measurement
from stepscope.advisor.predict import predict
from stepscope.advisor.scaling.forecast import Scenario, forecast, observed
from stepscope.advisor.scaling.traffic import COLLECTIVE, MESSAGES
from stepscope.profiler.format import Profile

_WORTH_TELLING = 0.05
"""Part of the step in collectives; as the rule `exposed_gradient_exchange` has it."""
_OPTIONS = {
    "twice the bandwidth (--link 2)": Scenario(link=2),
    "half the bytes of gradients (--gradient-bytes 0.5)": Scenario(gradient_bytes=0.5),
    "an exchange after every fourth batch (--accumulate 4)": Scenario(accumulate=4),
}


class ExchangeGain(NamedTuple):
    """A change of the exchange, in words, and what it would give."""

    words: str
    predicted: Prediction


def exchange_gains(profile: Profile, measurement: Measurement) -> list[ExchangeGain]:
    """What a faster link, fewer bytes and fewer exchanges would give; empty if ranks share little.

    The first is a link of twice the bandwidth.
    """
    stages = measurement.stages
    exposed = sum(stages.main.get(cause, 0.0) for cause in (COLLECTIVE, MESSAGES))
    seen = observed(profile, stages)
    if not seen.exchange.traffic or exposed < _WORTH_TELLING * stages.seconds():
        return []
    return [
        ExchangeGain(
            name, predict(forecast(scenario, seen, stages), lambda stages: stages, measurement)
        )
        for name, scenario in _OPTIONS.items()
    ]


def exchange_notes(gains: list[ExchangeGain]) -> list[str]:
    """The same in a sentence, if there is anything to gain."""
    if not gains:
        return []
    options = [
        f"{name} {wording.speedup(gain.speedup)} ({wording.speedup_interval(gain.low, gain.high)})"
        for name, gain in gains
    ]
    return [
        f"What the exchange itself could gain: {'; '.join(options)}. `advise what-if` with these "
        "options tells what each assumes."
    ]
