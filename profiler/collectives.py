"""What DistributedDataParallel's own logger knows of communication.

Its counters are there anyway; reading them once at the end costs nothing in a step. They are
averages over the iterations it samples.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from stepscope.profiler.format import Collective


def collectives(wrapped: Iterable[Any]) -> list[Collective]:
    """One entry per DistributedDataParallel model that has finished a backward pass."""
    return [found for model in wrapped if (found := _read(model)) is not None]


def _read(model: Any) -> Collective | None:
    if not isinstance(model, torch.nn.parallel.DistributedDataParallel):
        return None
    data = model._get_ddp_logging_data()  # type: ignore[no-untyped-call]
    if not data.get("avg_backward_compute_time"):
        return None
    return Collective(
        backend=data.get("backend_name"),
        gradient_bytes=int(data.get("total_parameter_size_bytes", 0)),
        buckets=len(str(data.get("bucket_sizes", "")).split(",")),
        communication_ns=int(data.get("avg_backward_comm_time", 0)),
        overlap_ns=int(data.get("avg_backward_compute_comm_overlap_time", 0)),
        backward_ns=int(data.get("avg_backward_compute_time", 0)),
        find_unused_parameters=bool(data.get("find_unused_parameters", False)),
        unused_parameter_bytes=int(data.get("unused_parameter_size", 0)),
    )
