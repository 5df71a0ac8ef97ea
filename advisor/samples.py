"""Statistics of what was sampled over time."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from stepscope.profiler.format import Samples

_MIN_SAMPLES = 10


def mean_of(values: Iterable[float | None]) -> float | None:
    """Mean of those that are known; None if none is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def others_cores(samples: Samples) -> list[float | None]:
    """Cores that this machine's other programs used, at each sample; None where not read."""
    columns = samples.columns
    busy, job = columns.get("system_busy_cores", []), columns.get("job_busy_cores", [])
    return [
        max(0.0, b - j) if b is not None and j is not None else None
        for b, j in zip(busy, job, strict=False)
    ]


def settled(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The last two thirds: the first is start-up and filling caches. Empty if they are too few."""
    last = points[len(points) // 3 :]
    return last if len(last) >= _MIN_SAMPLES else []


def theil_sen(points: list[tuple[float, float]]) -> float:
    """Median of the slopes between all pairs of at most 200 of the points."""
    points = points[:: max(1, len(points) // 200)]
    slopes = [
        (y2 - y1) / (x2 - x1)
        for i, (x1, y1) in enumerate(points)
        for x2, y2 in points[i + 1 :]
        if x2 > x1
    ]
    return median(slopes) if slopes else 0.0
