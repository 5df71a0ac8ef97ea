"""Quality metrics the user logs, kept without ever waiting for a device."""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from stepscope.profiler.columns import SampledRows
from stepscope.profiler.format import Metric

_MAX_NAMES = 50
_ROWS = 1024


class Metrics:
    """Values by name and step; bounded, every `stride`-th value is kept on a long run."""

    def __init__(self, origin_ns: int) -> None:
        self._origin_ns = origin_ns
        self._tables: dict[str, SampledRows] = {}

    def add(self, step: int, metrics: dict[str, Any]) -> None:
        """Keep scalars; a tensor is kept as it is and read when the file is written."""
        now = time.perf_counter_ns() - self._origin_ns
        for name, value in metrics.items():
            if name not in self._tables and len(self._tables) >= _MAX_NAMES:
                continue
            kept = _kept(value.detach()) if isinstance(value, torch.Tensor) else float(value)
            self._tables.setdefault(name, SampledRows(3, _ROWS)).append((step, now, kept))

    def result(self, final: bool) -> dict[str, Metric]:
        """All metrics; values that still lie on a device only if `final`."""
        return {name: _metric(table, final) for name, table in list(self._tables.items())}


def _kept(value: torch.Tensor) -> torch.Tensor | float:
    if not value.is_cuda:
        return float(value)
    if value.numel() != 1:
        raise ValueError("a metric is a single number")
    return value.clone()  # a running sum changes in place before it is read


def _metric(table: SampledRows, final: bool) -> Metric:
    rows = [
        (step, when, float(value))
        for step, when, value in list(table.rows)
        if final or not isinstance(value, torch.Tensor)
    ]
    return Metric(
        stride=table.stride,
        step=[row[0] for row in rows],
        time_ns=[row[1] for row in rows],
        value=[row[2] if math.isfinite(row[2]) else None for row in rows],
    )
