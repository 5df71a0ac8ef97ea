"""What a step sends: messages, the time that nothing hides, and what else would fit behind it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from stepscope.advisor.config_facts import micro_batches
from stepscope.advisor.stages import Seconds
from stepscope.advisor.trainer import collectives_cause
from stepscope.profiler.format import Collective, CollectiveCalls, Profile

COLLECTIVE, MESSAGES = "communication.collective", "communication.messages"
STRAGGLER = "communication.straggler"
_HALVINGS = 40


class Cost(NamedTuple):
    """What a message costs after a change, over what it costs now."""

    latency: float
    """Ratio of its hops."""
    bytes: float
    """Ratio of the time of its bytes."""

    def ratio(self, share: float) -> float:
        """Of the whole, where latency is `share` of it."""
        return share * self.latency + (1 - share) * self.bytes


@dataclass(frozen=True)
class Buckets:
    """Gradients that leave in buckets while backward still runs, one bucket after another."""

    sizes: tuple[int, ...]
    first: float
    """Seconds from the start of backward until the first bucket is full."""
    compute: float
    """Seconds of backward's arithmetic."""

    def exposed(self, channel: float, compute: float) -> float:
        """Seconds from the end of backward's arithmetic until the last bucket is there.

        Args:
            channel: seconds that all buckets take on the link.
            compute: backward's arithmetic, over what it takes now.
        """
        total, first = sum(self.sizes), self.sizes[0]
        end = 0.0
        for size, sent in zip(self.sizes, accumulate(self.sizes), strict=True):
            part = (sent - first) / (total - first) if total > first else 1.0
            ready = compute * (self.first + part * (self.compute - self.first))
            end = max(end, ready) + channel * size / total
        return max(0.0, end - compute * self.compute)

    def channel(self, exposed: float) -> float:
        """Seconds on the link from which so much is exposed; the most of those that expose none."""
        low, high = 0.0, exposed + self.compute + 1e-9
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.exposed(middle, 1.0) <= exposed else (low, middle)
        return low


@dataclass(frozen=True)
class Traffic:
    """Collectives of one kind and size."""

    cause: str
    kind: str
    ranks: int
    calls: float
    """A step."""
    seconds: float
    """A step that nothing hides, waiting for late ranks left out as far as that is known."""
    bytes: float | None = None
    """Of one call; None where that is not known."""
    exchanges: float = 1.0
    """A step, of gradients."""
    gradients: bool = True
    buckets: Buckets | None = None
    channel: float = 0.0
    """Seconds on the link a step, hidden ones included."""

    def latency_share(self, each: float) -> float:
        """Part of the time on the link that is latency.

        Args:
            each: seconds that one call takes without its bytes.
        """
        if self.bytes == 0:  # a barrier
            return 1.0
        return min(1.0, each * self.calls / self.channel) if self.channel > 0 else 0.0

    def after(self, cost: float, compute: float, slack: float) -> float:
        """Exposed seconds a step.

        Args:
            cost: what messages take on the link, over what they take now.
            compute: the same of backward's arithmetic.
            slack: where it is not known what hides which message: how much of what is saved was
                exposed before, from 0 (its part of all) to 1 (as much as there is). Exposed time is
                convex in what messages cost, grows no faster, and is none where they cost none.
        """
        if self.buckets is None or self.exchanges <= 0:
            shifted = max(0.0, self.seconds + (cost - 1) * self.channel)
            return (1 - slack) * self.seconds * cost + slack * shifted
        each = self.channel / self.exchanges
        return self.exchanges * self.buckets.exposed(cost * each, compute)


class Exchange(NamedTuple):
    """All that a step sends."""

    ranks: int
    backend: str
    traffic: list[Traffic]
    alone: bool
    """Of one rank's record: waiting for others cannot be told from transfer."""
    persistent: bool
    """Whether one rank is nearly always the one that the others wait for."""
    period: float
    """Backward passes for an exchange of gradients."""


def exchange_of(profile: Profile, spent: Seconds) -> Exchange:
    """What the steps of a profile send.

    Args:
        profile: of a rank, or of all together.
        spent: measured seconds a step, by cause.
    """
    ranks = max(profile.run.world_size, profile.ranks.count if profile.ranks else 1)
    backends = [c.backend for c in profile.collectives if c.backend]
    gpus = any(row.device == "cuda" for row in profile.collective_calls) or profile.trace
    backend = backends[0] if backends else "nccl" if gpus else "gloo"
    period, exchanges = _period(profile)
    rows = [row for row in profile.collective_calls if row.time_ns and row.ranks > 1]
    own = collectives_cause(profile)
    wrapped = bool(profile.collectives)
    total = sum(map(_usual_seconds, rows)) / max(1, profile.steady.total)
    called = spent.get(own, 0.0)
    if wrapped and own == COLLECTIVE:
        called = min(called, total)
    scale = called / total if total > 0 else 0.0
    traffic = [_calls(row, profile, own, scale, wrapped=wrapped) for row in rows]
    left = spent.get(COLLECTIVE, 0.0) - (called if own == COLLECTIVE and rows else 0.0)
    if wrapped:
        largest = max(profile.collectives, key=lambda c: c.gradient_bytes)
        traffic.append(_wrapped(largest, ranks, max(0.0, left), exchanges))
    elif left > 0:  # known as time only
        channel = left + _hidden(profile, left)
        traffic.append(Traffic(COLLECTIVE, "all_reduce", ranks, 1.0, left, channel=channel))
    return Exchange(
        ranks=ranks,
        backend=backend,
        traffic=traffic,
        alone=ranks > 1 and "straggler" not in profile.steady.phases,
        persistent=profile.ranks is not None and profile.ranks.persistent,
        period=period,
    )


def _hidden(profile: Profile, exposed: float) -> float:
    """Seconds a step in which a device computes while it communicates, from a trace."""
    if profile.trace is None or profile.trace.communication_ns is None:
        return 0.0
    waited = profile.ranks.waiting_ns if profile.ranks else 0
    steps = max(1, profile.steady.total)
    return max(0.0, (profile.trace.communication_ns - waited) / 1e9 / steps - exposed)


def _period(profile: Profile) -> tuple[float, float]:
    """Backward passes for an exchange, and exchanges a step: steps are batches, or updates."""
    calls, steps = profile.steady.calls, max(1, profile.steady.total)
    updates = sum(calls.get("optimizer_steps", [])) / steps
    kept = sum(calls.get("no_syncs", [])) / steps
    passes = max(1.0, updates * (micro_batches(profile) or 1.0))
    if not profile.collectives:  # the program sums gradients where it updates
        return (passes / updates, updates) if updates else (1.0, 1.0)
    exchanges = passes - kept if kept < passes else 1.0
    return max(passes, kept) / exchanges, exchanges


def _usual_seconds(row: CollectiveCalls) -> float:
    """Of all calls of a row, without waiting for late ranks as far as one rank can tell."""
    spent = row.time_ns or 0
    each = row.usual_ns or row.median_ns
    return (min(spent, each * row.calls) if each else spent) / 1e9


def _calls(
    row: CollectiveCalls, profile: Profile, cause: str, scale: float, *, wrapped: bool
) -> Traffic:
    """What carries bytes is taken for gradients, unless DistributedDataParallel sends those."""
    steps = max(1, profile.steady.total)
    seconds = scale * _usual_seconds(row) / steps
    size = (row.bytes or 0) / row.calls
    calls = row.calls / steps
    gradients = size > 0 and not wrapped
    return Traffic(
        cause, row.kind, row.ranks, calls, seconds, size, gradients=gradients, channel=seconds
    )


def _wrapped(model: Collective, ranks: int, exposed: float, exchanges: float) -> Traffic:
    """The exchange of DistributedDataParallel, by its own logger and the measured exposed time."""
    sizes = tuple(model.bucket_bytes) or (model.gradient_bytes,)
    compute = model.backward_ns / 1e9
    first = compute - model.overlap_ns / 1e9
    if model.first_bucket_ns is not None:
        first = model.first_bucket_ns / 1e9
    buckets = Buckets(sizes, min(max(0.0, first), compute), compute)
    each = exposed / exchanges
    channel = buckets.channel(each)
    if each <= 0:  # what takes less would be hidden too
        channel = min(channel, model.communication_ns / 1e9)
    return Traffic(
        COLLECTIVE,
        "all_reduce",
        ranks,
        calls=len(sizes) * exchanges,
        seconds=exposed,
        bytes=sum(sizes) / len(sizes),
        exchanges=exchanges,
        buckets=buckets,
        channel=channel * exchanges,
    )
