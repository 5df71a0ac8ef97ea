"""How much of the exchange of gradients would fit behind backward, in the best buckets."""

from __future__ import annotations

from dataclasses import replace

from stepscope.advisor.outcome import Change, Outcome
from stepscope.advisor.scaling.forecast import Observed, observed, with_seconds
from stepscope.advisor.scaling.link import hops
from stepscope.advisor.scaling.traffic import COLLECTIVE, Buckets, Traffic
from stepscope.advisor.stages import Stages
from stepscope.profiler.format import Profile

_NUMBERS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Of buckets."""


def overlapped(profile: Profile, stages: Stages, micro_batches: float) -> Outcome | None:
    """The best number of buckets, and no exchange that accumulation makes needless.

    Args:
        profile: the run.
        stages: its stages, as they are or as they would be.
        micro_batches: batches that an update takes.

    Returns:
        At worst nothing changes; at best no message has any latency. None where gradients are not
        exchanged by DistributedDataParallel, or all of it is hidden.
    """
    seen = observed(profile, stages)
    found = [part for part in seen.exchange.traffic if part.buckets and part.seconds > 0]
    if not found:
        return None
    part = found[0]
    rarer = max(1.0, micro_batches / seen.exchange.period)
    exposed = {each: _best(part, seen, each) for each in (seen.latency.likely, 0.0)}
    number, left = exposed[seen.latency.likely]
    words = [f"{number} buckets of gradients leave one after another"]
    if number == len(part.buckets.sizes if part.buckets else ()):
        words = ["buckets stay as many"]
    if rarer > 1:
        words.append(f"only one of {micro_batches:.0f} backward passes exchanges")
    return Outcome(
        _kept(min(1.0, left) / rarer),
        " and ".join(words),
        best=_kept(min(1.0, exposed[0.0][1]) / rarer),
        worst=lambda s: s,
    )


def _best(part: Traffic, seen: Observed, latency: float) -> tuple[int, float]:
    """The number of buckets that exposes least, and that over what is exposed now."""
    assert part.buckets is not None
    each = latency * hops(part.kind, part.ranks, seen.exchange.backend)
    calls, channel = part.calls / part.exchanges, part.channel / part.exchanges
    of_bytes = channel * (1 - part.latency_share(each))
    found = [
        (_filled(part.buckets, number).exposed(of_bytes + number * min(each, channel / calls), 1.0))
        for number in _NUMBERS
    ]
    least = min(found)
    return _NUMBERS[found.index(least)], least * part.exchanges / part.seconds


def _filled(buckets: Buckets, number: int) -> Buckets:
    """So many buckets of equal size; gradients become ready as evenly as they do now."""
    total, first = sum(buckets.sizes), buckets.sizes[0]
    size = total / number
    rate = (buckets.compute - buckets.first) / (total - first) if total > first else 0.0
    if rate <= 0:
        rate = buckets.compute / total
    ready = max(0.0, buckets.compute - rate * (total - size))
    return replace(buckets, sizes=(round(size),) * number, first=ready)


def _kept(part: float) -> Change:
    return lambda stages: with_seconds(stages, COLLECTIVE, part * stages.main.get(COLLECTIVE, 0.0))
