"""How the time of steps and batches varies from one to the next: what the replay runs on."""

from __future__ import annotations

from statistics import pstdev

from stepscope.advisor.trainer import Trainer
from stepscope.profiler.format import Loader, Steps

_LONGEST = 256
"""Consecutive steps or batches that are replayed."""
_EVEN = 0.1
"""A cause whose deviation is less than this part of all steps' mean may as well be even."""
_SETTLED = 0.1
"""Part of the batches at the start that are left out: files and caches were cold."""


def main_shapes(steps: Steps, trainer: Trainer) -> dict[str, tuple[float, ...]]:
    """For each uneven cause its time in consecutive steps, over its mean of the whole run.

    A cause that is too rare to be in the chosen stretch of the run stands in it as one stop that
    takes as much as its mean does.
    """
    rows = len(steps.first)
    begin = max(0, (rows - _LONGEST) // 2)
    chosen = range(begin, min(rows, begin + _LONGEST))
    if len(chosen) < 2:
        return {}
    table = [
        trainer.causes({p: column[i] / steps.count[i] for p, column in steps.phases.items()}, 1)
        for i in chosen
    ]
    overall = trainer.causes({p: sum(column) for p, column in steps.phases.items()}, steps.total)
    busy = sum(overall.values()) / steps.total
    shapes = {}
    for cause, total in overall.items():
        mean = total / steps.total
        values = [row.get(cause, 0.0) for row in table]
        here = sum(values) / len(values)
        if here < 0.5 * mean:
            values, here = [0.0] * len(values), mean
            values[len(values) // 2] = mean * len(values)
        if pstdev(values) > _EVEN * busy:
            shapes[cause] = tuple(value / here for value in values)
    return shapes


def fetch_shape(loader: Loader) -> tuple[float, ...]:
    """The time of successive batches, waiting for a core left out, over their mean."""
    batches = loader.batches
    if batches is None or len(batches.wall_ns) < 2:
        return (1.0,)
    order = sorted(range(len(batches.wall_ns)), key=lambda i: batches.start_ns[i])
    order = order[int(_SETTLED * len(order)) :]
    begin = max(0, (len(order) - _LONGEST) // 2)
    values = [
        max(0, batches.wall_ns[i] - batches.run_delay_ns[i])
        for i in order[begin : begin + _LONGEST]
    ]
    mean = sum(values) / len(values)
    if mean <= 0 or pstdev(values) < _EVEN * mean:
        return (1.0,)
    return tuple(value / mean for value in values)
