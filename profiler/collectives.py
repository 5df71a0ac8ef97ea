"""What DistributedDataParallel's own logger knows of communication.

Its counters are there anyway; reading them once at the end costs nothing in a step. They are
averages over the iterations it samples.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from stepscope.profiler.format import Collective

_MAX_BUCKETS = 64


def collectives(wrapped: Iterable[Any]) -> list[Collective]:
    """One entry per DistributedDataParallel model that has finished a backward pass."""
    return [found for model in wrapped if (found := _read(model)) is not None]


def _read(model: Any) -> Collective | None:
    if not isinstance(model, torch.nn.parallel.DistributedDataParallel):
        return None
    data = model._get_ddp_logging_data()  # type: ignore[no-untyped-call]
    if not data.get("avg_backward_compute_time"):
        return None
    rebuilt = bool(data.get("has_rebuilt_buckets", False))
    buckets = _sizes(data, "rebuilt_bucket_sizes") or _sizes(data, "bucket_sizes")
    return Collective(
        backend=data.get("backend_name"),
        gradient_bytes=int(data.get("total_parameter_size_bytes", 0)),
        buckets=max(1, len(buckets)),
        communication_ns=int(data.get("avg_backward_comm_time", 0)),
        overlap_ns=int(data.get("avg_backward_compute_comm_overlap_time", 0)),
        backward_ns=int(data.get("avg_backward_compute_time", 0)),
        find_unused_parameters=bool(data.get("find_unused_parameters", False)),
        unused_parameter_bytes=int(data.get("unused_parameter_size", 0)),
        bucket_bytes=buckets[:_MAX_BUCKETS],
        bucket_cap_bytes=_integer(data, "bucket_cap_bytes"),
        rebuilt=rebuilt,
        first_bucket_ns=_first_bucket(data),
        gradient_as_bucket_view=bool(getattr(model, "gradient_as_bucket_view", False)),
        static_graph=bool(getattr(model, "static_graph", False)),
    )


def _sizes(data: dict[str, Any], name: str) -> list[int]:
    """Bytes of each bucket, from `"1052672, 1052672"`."""
    return [int(word) for word in str(data.get(name, "")).split(",") if word.strip().isdigit()]


def _first_bucket(data: dict[str, Any]) -> int | None:
    """From the start of the last sampled backward pass until its first bucket was sent."""
    backward = _integer(data, "backward_compute_time_start")
    sent = _integer(data, "backward_comm_time_start")
    return sent - backward if backward and sent and sent >= backward else None


def _integer(data: dict[str, Any], name: str) -> int | None:
    value = data.get(name)
    return int(value) if value is not None and int(value) >= 0 else None
