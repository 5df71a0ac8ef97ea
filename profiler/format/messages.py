"""Collectives one kind and size at a time."""

from __future__ import annotations

from msgspec import Struct

from stepscope.profiler.format.columns import Count


class CollectiveCalls(Struct, kw_only=True, omit_defaults=True):
    """Calls of one kind, in groups of one size, with messages that differ by less than twice."""

    kind: str
    """As `torch.distributed` names it, without the form of its arguments: `all_gather` is also
    `all_gather_into_tensor`. `..._object` sends pickled objects."""
    ranks: Count
    """Of the group."""
    device: str | None = None
    """Of the tensors, e.g. `cpu`. On `cuda` calls return when the work is queued, so that their
    time says nothing of the exchange."""
    asynchronous: bool = False
    """Whether the call has returned a handle."""
    calls: Count
    bytes: Count | None = None
    """Of all calls, from the shapes: the whole message as nccl-tests counts it, so of what goes in
    and what comes out the larger. None of barriers and pickled objects."""
    time_ns: Count | None = None
    """In the calls, and in waiting for their handles; waiting for late ranks is part of it."""
    waits: Count = 0
    """Handles that were waited for."""
    median_ns: Count | None = None
    """Of the time of one call."""
    usual_ns: Count | None = None
    """Mean time of a call without the longest ones, one a step, in which late ranks are waited for;
    None of at most one call a step."""
    quick_ns: Count | None = None
    """Tenth percentile of the time of one call: hardly any waiting for late ranks is in it."""
    quick_error_ns: Count | None = None
    """Standard error of that percentile."""


class Connection(Struct, kw_only=True, omit_defaults=True):
    """A TCP connection of this process, by the kernel's own counters over some steps."""

    local: str
    """Our end, `ADDRESS:PORT`."""
    peer: str
    """The other one."""
    steps: Count
    sent_bytes: Count
    """That the other end has acknowledged."""
    received_bytes: Count
    busy_ns: Count
    """In which something of what we sent was on its way and the other end had room for it; counted
    in ticks of 1 to 10 ms, right on average."""
    segments: Count = 0
    """Packets with data that were sent."""
    segment_bytes: Count = 0
    """Of data that a full one holds."""


class FlightRecorder(Struct, kw_only=True, omit_defaults=True):
    """What PyTorch's own flight recorder still had at the end, DistributedDataParallel included."""

    entries: Count
    span_ns: Count
    """From the first to the last of them."""
    calls: list[CollectiveCalls]
    """Times are of the device, where the recorder has timed it (TORCH_NCCL_ENABLE_TIMING=1)."""
