"""What each fetcher of a loader did over time: on a core, waiting for one, blocked, or idle."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from stepscope.advisor.wording import duration
from stepscope.profiler.format import Batches, Loader

_BINS = 120
_MAX_LANES = 32


class Lane(NamedTuple):
    """One fetcher: filled areas in a frame of 100 by 100, and parts of the time from 0 to 1."""

    name: str
    blocked_path: str
    """Everything that is not idle; the next two lie on top of it."""
    delay_path: str
    cpu_path: str
    cpu: float
    delay: float
    blocked: float
    idle: float


class Lanes(NamedTuple):
    """The fetchers of one loader between its first and its last batch."""

    lanes: list[Lane]
    start: str
    end: str
    stride: int
    left_out: int
    number: int
    """The loader's position in the profile."""


def worker_timelines(loaders: list[Loader]) -> list[Lanes | None]:
    """A picture for each loader; None where single batches were not kept."""
    return [_lanes(number, loader) for number, loader in enumerate(loaders)]


def drawn_workers(batches: Batches) -> list[int]:
    """The fetchers that have a lane: the first so many, in the order of their numbers."""
    return sorted(set(batches.worker))[:_MAX_LANES]


def lane_name(worker: int) -> str:
    """A fetcher in words."""
    return "main process" if worker < 0 else f"worker {worker}"


def _lanes(number: int, loader: Loader) -> Lanes | None:
    batches = loader.batches
    if batches is None or not batches.worker:
        return None
    start = min(batches.start_ns)
    end = max(s + w for s, w in zip(batches.start_ns, batches.wall_ns, strict=True))
    span = max(1, end - start)
    workers = drawn_workers(batches)
    return Lanes(
        lanes=[_lane(loader, batches, each, start, span) for each in workers],
        start=duration(start / 1e9),
        end=duration(end / 1e9),
        stride=batches.stride,
        left_out=len(set(batches.worker)) - len(workers),
        number=number,
    )


def _lane(loader: Loader, batches: Batches, worker: int, start: int, span: int) -> Lane:
    # Sums are exact also where only every n-th batch was kept.
    totals = [w.totals for w in loader.workers if w.id == worker]
    wall = sum(t.wall_ns for t in totals)
    cpu = min(sum(t.cpu_ns for t in totals), wall)
    delay = min(sum(t.run_delay_ns or 0 for t in totals), wall - cpu)
    whole = max(span, wall)
    heights = _heights(batches, worker, start, span)
    return Lane(
        name=lane_name(worker),
        cpu_path=_area(height[0] for height in heights),
        delay_path=_area(height[0] + height[1] for height in heights),
        blocked_path=_area(sum(height) for height in heights),
        cpu=cpu / whole,
        delay=delay / whole,
        blocked=(wall - cpu - delay) / whole,
        idle=(whole - wall) / whole,
    )


def _heights(
    batches: Batches, worker: int, start: int, span: int
) -> list[tuple[float, float, float]]:
    """On a core, waiting, blocked: part of each bin of the time axis; they sum to at most 1."""
    width = span / _BINS
    bins = [[0.0, 0.0, 0.0] for _ in range(_BINS)]
    columns = (batches.worker, batches.start_ns, batches.wall_ns, batches.cpu_ns)
    for who, begin, wall, cpu, delay in zip(*columns, batches.run_delay_ns, strict=True):
        if who != worker or wall <= 0:
            continue
        used = min(cpu, wall)
        waited = min(delay, wall - used)
        parts = (used / wall, waited / wall, (wall - used - waited) / wall)
        left, right = begin - start, begin - start + wall
        first, last = int(left / width), min(int(right / width), _BINS - 1)
        for i in range(min(first, last), last + 1):
            inside = min(right, (i + 1) * width) - max(left, i * width)
            for state, part in enumerate(parts):
                bins[i][state] += batches.stride * part * max(0.0, inside) / width
    return [_at_most_one(each) for each in bins]


def _at_most_one(parts: list[float]) -> tuple[float, float, float]:
    scale = 1 / max(1.0, sum(parts))
    return parts[0] * scale, parts[1] * scale, parts[2] * scale


def _area(heights: Iterable[float]) -> str:
    """A filled staircase that stands on the floor of the frame; empty where nothing stands."""
    path, before = [], 0.0
    for i, height in enumerate(heights):
        level = round(100 * height, 1)
        if level != before:
            path.append(f"H{100 * i / _BINS:.4g}V{100 - level:g}")
            before = level
    return f"M0,100{''.join(path)}H100V100Z" if path else ""
