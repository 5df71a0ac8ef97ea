"""Collectives, and what several ranks tell together."""

from __future__ import annotations

from msgspec import Struct

from stepscope.profiler.format.columns import Count


class Collective(Struct, kw_only=True, omit_defaults=True):
    """What DistributedDataParallel's own logger says of one wrapped model, averages per step."""

    backend: str | None = None
    gradient_bytes: int
    buckets: int
    communication_ns: int
    overlap_ns: int
    backward_ns: int
    find_unused_parameters: bool | None = None
    """Whether the graph is searched for parameters without a gradient in each step."""
    unused_parameter_bytes: int | None = None
    """Of parameters that had none when it was looked last."""


class Straggler(Struct, kw_only=True):
    """A rank that others wait for."""

    rank: int
    collectives: Count
    """In so many it came last."""
    waited_for_ns: int
    """How long the others waited for it there, mean of the ranks, sum over all steps."""


class Ranks(Struct, kw_only=True, omit_defaults=True):
    """What only the traces of several ranks tell together."""

    count: Count
    missing: Count = 0
    """Ranks of the job without a trace."""
    transfer_ns: int = 0
    """Time in collectives once all ranks are there: for each, its shortest over the ranks. Like
    the next, the mean of the ranks, summed over all steps."""
    waiting_ns: int = 0
    """Time in collectives before that."""
    imbalance: float | None = None
    """Time that the slowest rank's device worked by itself, over the mean of the ranks."""
    slowest: int | None = None
    """That rank."""
    stragglers: list[Straggler] = []
    """Who waited least where others waited, the costliest first."""
