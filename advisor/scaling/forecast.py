"""A step under other conditions of communication, and the speedup that follows.

Everything is a change of the measured stages, as methods are (:mod:`stepscope.advisor.predict`), so
that a loader that is slower than both still holds the step back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp, hypot, log, prod
from typing import Any, Literal, NamedTuple

from stepscope.advisor.messages import bus_factor
from stepscope.advisor.outcome import Change, Outcome, ratio, remembered
from stepscope.advisor.scaling import waiting
from stepscope.advisor.scaling.link import Latency, hops, latency
from stepscope.advisor.scaling.traffic import (
    COLLECTIVE,
    MESSAGES,
    STRAGGLER,
    Cost,
    Exchange,
    Traffic,
    exchange_of,
)
from stepscope.advisor.stages import Stages
from stepscope.advisor.trainer import COMPUTE
from stepscope.profiler.format import Profile

OPTIMIZER, LAUNCH = "compute.optimizer", "compute.launch"
COMMUNICATION = (COLLECTIVE, MESSAGES, STRAGGLER)
Scaling = Literal["weak", "strong"]


@dataclass(frozen=True)
class Scenario:
    """What is to be different."""

    link: float = 1.0
    """Times the bandwidth; latency stays."""
    gradient_bytes: float = 1.0
    """Times the bytes of gradients."""
    accumulate: int | None = None
    """Batches a rank takes between two exchanges."""
    batch: float = 1.0
    """Times the samples that a rank takes at once."""
    ranks: int | None = None
    scaling: Scaling = "weak"
    """With other ranks each takes as many samples as now, or all together do."""
    hidden: bool = False
    """Collectives cost nothing, and nobody waits for a late rank."""

    def samples(self, exchange: Exchange) -> float:
        """Times the samples that a rank takes in a step."""
        if self.scaling == "weak" or self.ranks is None:
            return self.batch
        return self.batch * exchange.ranks / self.ranks

    def of_ranks(self, exchange: Exchange) -> int:
        """Number of ranks."""
        return self.ranks or exchange.ranks


class Unknown(NamedTuple):
    """What the record does not tell for sure."""

    latency: float
    """Seconds a hop."""
    waiting: str = "likely"
    """Which of a ratio of :mod:`waiting` holds: `likely`, `low` or `high`."""
    dispatch: bool = False
    """Whether dispatching operators grows with the batch."""
    waited: float = 0.0
    """Part of the time in collectives that is waiting, where one rank alone was recorded."""
    slack: float = 0.5
    """See :meth:`Traffic.after`."""


class Observed(NamedTuple):
    """What a profile tells of its communication."""

    exchange: Exchange
    latency: Latency
    encoding_bytes_per_s: float | None
    """Bandwidth at which a processor turns gradients into smaller ones and back."""


def observed(profile: Profile, stages: Stages) -> Observed:
    """Communication of a profile with these stages."""
    exchange = exchange_of(profile, stages.main)
    calibration = profile.environment.calibration
    on_processor = calibration is not None and not profile.environment.gpus
    return Observed(
        exchange,
        latency(profile, exchange.backend),
        calibration.copy_bytes_per_s if calibration and on_processor else None,
    )


def forecast(scenario: Scenario, seen: Observed, stages: Stages) -> Outcome:
    """What a scenario does to the time that a rank takes for as many samples as now.

    Times of stages are of the present number of samples of a rank, so that the ratio to the stages
    before is that of throughput a rank.
    """
    likely = remembered(_change(scenario, seen, Unknown(seen.latency.likely)))
    expected = likely(stages).seconds()
    below = above = 0.0
    for name, values in _unknowns(seen).items():
        varied = [Unknown(seen.latency.likely)._replace(**{name: value}) for value in values]
        logs = [log(_change(scenario, seen, v)(stages).seconds() / expected) for v in varied]
        below, above = hypot(below, min(0.0, *logs)), hypot(above, max(0.0, *logs))
    return Outcome(
        likely,
        assumed(scenario, seen),
        best=_longer(likely, exp(-below)),
        worst=_longer(likely, exp(above)),
    )


def _unknowns(seen: Observed) -> dict[str, tuple[Any, ...]]:
    """Bounds of each; that all of them are worst at once is unlikely: their errors add up."""
    return {
        "latency": (seen.latency.low, seen.latency.high),
        "waiting": ("low", "high"),
        "dispatch": (False, True),
        "waited": (0.0, float(seen.exchange.alone)),
        "slack": (0.0, 1.0),
    }


def _longer(change: Change, times: float) -> Change:
    def longer(stages: Stages) -> Stages:
        after = change(stages)
        return replace(after, factor=after.factor * times)

    return longer


def _change(scenario: Scenario, seen: Observed, unknown: Unknown) -> Change:
    def change(stages: Stages) -> Stages:
        samples = scenario.samples(seen.exchange)
        after = stages.with_batch(samples) if samples != 1 else stages
        if unknown.dispatch and stages.batch_growth is None:  # else it was tried
            after = after.scaled(LAUNCH, samples)
        after = after.scaled(OPTIMIZER, 1 / _rarer(scenario, seen.exchange))
        compute = _computing(after) / max(1e-12, _computing(stages))
        for cause, seconds in _exchanged(scenario, seen, unknown, stages, compute).items():
            after = with_seconds(after, cause, seconds)
        return replace(after, factor=after.factor / samples)

    return change


def _rarer(scenario: Scenario, exchange: Exchange) -> float:
    """Times as many backward passes between two exchanges."""
    return scenario.accumulate / exchange.period if scenario.accumulate else 1.0


def _computing(stages: Stages) -> float:
    return sum(stages.main.get(cause, 0.0) for cause in COMPUTE)


def _exchanged(
    scenario: Scenario, seen: Observed, unknown: Unknown, stages: Stages, compute: float
) -> dict[str, float]:
    """Seconds of a step in collectives, by cause."""
    exchange = seen.exchange
    if scenario.hidden or scenario.of_ranks(exchange) == 1:
        kept = 1.0 if scenario.hidden and unknown.waiting == "high" else 0.0
        return {
            COLLECTIVE: 0.0,
            MESSAGES: 0.0,
            STRAGGLER: kept * stages.main.get(STRAGGLER, 0.0),
        }
    seconds = {STRAGGLER: stages.main.get(STRAGGLER, 0.0) * _waiting(scenario, exchange, unknown)}
    for part in exchange.traffic:
        now = stages.main.get(part.cause, 0.0)
        whole = sum(other.seconds for other in exchange.traffic if other.cause == part.cause)
        measured = now / whole if whole > 0 else 1.0  # of this resample
        spent = measured * _after(scenario, seen, unknown, part, compute)
        seconds[part.cause] = seconds.get(part.cause, 0.0) + spent
    return seconds


def _waiting(scenario: Scenario, exchange: Exchange, unknown: Unknown) -> float:
    persistent = exchange.persistent
    ratios = (
        waiting.of_ranks(exchange.ranks, scenario.of_ranks(exchange), persistent=persistent),
        waiting.of_batches(_rarer(scenario, exchange), persistent=persistent),
        waiting.of_work(scenario.samples(exchange), persistent=persistent),
    )
    return prod(float(getattr(each, unknown.waiting)) for each in ratios)


def _after(
    scenario: Scenario, seen: Observed, unknown: Unknown, part: Traffic, compute: float
) -> float:
    """Exposed seconds a step of one kind of messages."""
    exchange = seen.exchange
    before, after = part.ranks, scenario.of_ranks(exchange)
    if part.ranks != exchange.ranks:  # a group within the job
        after = before
    kind, backend = part.kind, exchange.backend
    smaller = scenario.gradient_bytes if part.gradients else 1.0
    cost = Cost(
        hops(kind, after, backend) / hops(kind, before, backend),
        bus_factor(kind, after) / bus_factor(kind, before) * smaller / scenario.link,
    )
    share = part.latency_share(unknown.latency * hops(kind, before, backend))
    waited = unknown.waited * part.seconds
    seconds = waited + (1 - unknown.waited) * part.after(cost.ratio(share), compute, unknown.slack)
    if part.gradients:
        seconds += _encoding(scenario, seen, part)
        seconds /= _rarer(scenario, exchange)
    return seconds


def _encoding(scenario: Scenario, seen: Observed, part: Traffic) -> float:
    """A processor reads and writes gradients twice, in full and in short."""
    if scenario.gradient_bytes >= 1 or not seen.encoding_bytes_per_s:
        return 0.0
    moved = 2 * (1 + scenario.gradient_bytes) * (part.bytes or 0.0) * part.calls
    return moved / seen.encoding_bytes_per_s


def with_seconds(stages: Stages, cause: str, seconds: float) -> Stages:
    """These stages with so much waiting of the training thread for `cause`."""
    now = stages.main.get(cause, 0.0)
    if now > 0:
        return stages.scaled(cause, seconds / now)
    if seconds <= 0:
        return stages
    return replace(
        stages,
        main={**stages.main, cause: seconds},
        main_blocked={**stages.main_blocked, cause: seconds},
    )


def efficiency(stages: Stages, after: Stages) -> float:
    """Throughput a rank over that of a rank by itself, as it computes now."""
    return ratio(stages.without(*COMMUNICATION), after)


def assumed(scenario: Scenario, seen: Observed) -> str:
    """What has to hold for the forecast."""
    exchange, ranks = seen.exchange, scenario.of_ranks(seen.exchange)
    words = []
    if scenario.hidden:
        words.append("collectives cost nothing and nobody waits for a late rank")
    if ranks != exchange.ranks:
        words.append("each rank has cores, devices and a link of its own like those recorded")
        words.append(
            "messages go in a ring"
            + (", small ones in a tree" if exchange.backend == "nccl" else "")
        )
        if not exchange.alone and ranks > 1:
            words.append(
                "the rank that is late stays as late"
                if exchange.persistent
                else "own times of ranks vary as normal values do"
            )
    if scenario.accumulate:
        words.append("all but the last of these backward passes run under no_sync()")
    if scenario.samples(exchange) != 1:
        words.append("dispatching operators and the optimizer take as long with other batches")
    if scenario.gradient_bytes < 1:
        words.append("encoding is as quick as copying")
    if exchange.alone and not scenario.hidden:
        words.append("no late rank was waited for, which one rank's record cannot tell")
    other_cost = scenario.link != 1 or scenario.gradient_bytes != 1 or ranks != exchange.ranks
    if other_cost and not seen.latency.told and ranks > 1:
        words.append(
            f"a hop takes {1e3 * seen.latency.likely:.2g} ms without its bytes (messages of one "
            f"size tell latency and bandwidth not apart: 0 to {1e3 * seen.latency.high:.2g} ms)"
        )
    return "; ".join(words) or "latency stays as it is"
