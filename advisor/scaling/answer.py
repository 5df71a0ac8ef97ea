"""The answer to `advise what-if` with another link, other messages, batches or ranks."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from stepscope.advisor.advice import Prediction
from stepscope.advisor.bottleneck import bottleneck
from stepscope.advisor.device_path import on_device_path
from stepscope.advisor.measure import Measurement, measure
from stepscope.advisor.messages import bus_factor
from stepscope.advisor.plan import left_share
from stepscope.advisor.predict import predict
from stepscope.advisor.scaling.forecast import (
    Observed,
    Scenario,
    efficiency,
    forecast,
    observed,
)
from stepscope.advisor.scaling.link import hops
from stepscope.profiler.format import Profile
from stepscope.profiler.storage import ProfileError


class Forecast(Struct, kw_only=True):
    """A job as it is, and as it would be."""

    scenario: str
    ranks: int
    predicted_ranks: int
    step_seconds: float
    """A batch of each rank."""
    predicted_step_seconds: float
    step_low: float
    """Its 90 % interval."""
    step_high: float
    throughput: Prediction
    """Samples per second of all ranks together, over those of now."""
    samples_per_s: float | None
    """Of all ranks together, now; None where the size of a batch is not known."""
    predicted_samples_per_s: float | None
    efficiency: float
    """Throughput of a rank over that of one that exchanges nothing and waits for nobody."""
    predicted_efficiency: float
    next_cause: str
    """What would hold the step back."""
    left_share: float
    """Part of the step that it would hold back."""
    link: LinkFound | None
    """None where nothing was exchanged."""


class LinkFound(Struct, kw_only=True):
    """What the record tells of the link between ranks."""

    backend: str
    latency_seconds: float
    """Of a hop."""
    latency_low: float
    latency_high: float
    told: bool
    """Whether messages of several sizes tell latency and bandwidth apart."""
    bus_bytes_per_s: float | None
    """As nccl-tests defines it, from the messages that carry most."""


def answer(profile: Profile, scenario: Scenario, source: str) -> Forecast:
    """The forecast for a profile, of one rank or of all together.

    Raises:
        ProfileError: the profile does not carry what the scenario needs.
        NoStepsError: it holds too few steps.
    """
    profile = on_device_path(profile)
    measurement = measure(profile)
    seen = observed(profile, measurement.stages)
    check(scenario, seen, source)
    return told(scenario, seen, measurement, profile.configuration.batch_size)


def check(scenario: Scenario, seen: Observed, source: str) -> None:
    """Refuse what the record says nothing of.

    Raises:
        ProfileError: with what to record.
    """
    exchange = seen.exchange
    asks = scenario.ranks or scenario.hidden
    if not (asks or scenario.link != 1 or scenario.gradient_bytes != 1):
        return
    if exchange.ranks < 2:
        raise ProfileError(
            f"{source}: one process exchanges nothing, so that its link is not known; profile two "
            "ranks at least (advise run -- torchrun --nproc-per-node 2 ...)"
        )
    if not exchange.traffic:
        raise ProfileError(
            f"{source}: no collective of these {exchange.ranks} ranks was timed; wrap the model in "
            "DistributedDataParallel, or give the ranks' traces of torch.profiler"
        )


def told(
    scenario: Scenario, seen: Observed, measurement: Measurement, batch: int | None
) -> Forecast:
    """The forecast, where there is one.

    Args:
        scenario: what is to be different.
        seen: communication of the run.
        measurement: the run.
        batch: samples that a rank takes at once now.
    """
    now, exchange = measurement.stages, seen.exchange
    change = forecast(scenario, seen, now)
    each = predict(change, lambda stages: stages, measurement)
    after = change.likely(now)
    ranks, samples = scenario.of_ranks(exchange), scenario.samples(exchange)
    more = ranks / exchange.ranks
    rate = batch * exchange.ranks / now.seconds() if batch else None
    cause = bottleneck(after)
    step = now.seconds() * samples
    return Forecast(
        scenario=in_words(scenario, seen),
        ranks=exchange.ranks,
        predicted_ranks=ranks,
        step_seconds=now.seconds(),
        predicted_step_seconds=step / each.speedup,
        step_low=step / each.high,
        step_high=step / each.low,
        throughput=replace(
            each, speedup=more * each.speedup, low=more * each.low, high=more * each.high
        ),
        samples_per_s=rate,
        predicted_samples_per_s=rate and rate * more * each.speedup,
        efficiency=efficiency(now, now),
        predicted_efficiency=efficiency(now, after),
        next_cause=cause,
        left_share=left_share(after, cause),
        link=_link(seen),
    )


def _link(seen: Observed) -> LinkFound | None:
    exchange, each = seen.exchange, seen.latency
    if not exchange.traffic:
        return None
    most = max(exchange.traffic, key=lambda part: (part.bytes or 0.0) * part.calls)
    share = most.latency_share(each.likely * hops(most.kind, most.ranks, exchange.backend))
    seconds = (1 - share) * most.channel
    carried = bus_factor(most.kind, most.ranks) * (most.bytes or 0.0) * most.calls
    return LinkFound(
        backend=exchange.backend,
        latency_seconds=each.likely,
        latency_low=each.low,
        latency_high=each.high,
        told=each.told,
        bus_bytes_per_s=carried / seconds if seconds > 0 and carried > 0 else None,
    )


def in_words(scenario: Scenario, seen: Observed) -> str:
    """The scenario."""
    words = []
    if scenario.hidden:
        words.append("communication cost nothing")
    if scenario.link != 1:
        words.append(f"the link had {scenario.link:g} times the bandwidth")
    if scenario.gradient_bytes != 1:
        words.append(f"gradients took {scenario.gradient_bytes:g} of their bytes")
    if scenario.accumulate:
        words.append(f"gradients were exchanged after every {scenario.accumulate} batches")
    if scenario.batch != 1:
        words.append(f"each rank took {scenario.batch:g} times the samples at once")
    if scenario.ranks:
        kept = "each with its batch of now" if scenario.scaling == "weak" else "with the same batch"
        together = " together" if scenario.scaling == "strong" else ""
        words.append(
            f"{scenario.ranks} ranks trained instead of {seen.exchange.ranks}, {kept}{together}"
        )
    return " and ".join(words)
