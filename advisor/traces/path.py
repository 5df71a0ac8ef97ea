"""The critical path: what a step was waiting for at each of its moments, from its end backward.

Every moment between a step's begin and its end belongs to one thing, which could not have been done
later without the step ending later: what the path goes through sums to the step.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container
from typing import NamedTuple

import numpy as np

from stepscope.advisor.traces.bindings import By, Waits, Work
from stepscope.advisor.traces.intervals import Int64
from stepscope.advisor.traces.timeline import BETWEEN_KERNELS_NS


class Path(NamedTuple):
    """Where a path goes."""

    work: Int64
    """Indices of the work it goes through."""
    work_ns: Int64
    """How long it is in each."""
    host: tuple[Int64, Int64]
    """Begins and ends of the intervals in which it is on the host, sorted."""
    launch: int
    """From the begin of launches to that of what they launched."""
    queue: int
    """Between the end of work and the begin of what waited for it."""
    unrecorded: int
    """The same, where it is too long for that."""
    sync: int
    """From the end of work until the host, which had waited for it, went on."""
    stopped_at: int
    """Index of the work that it stopped at; -1 where it came to the begin."""


class Places(NamedTuple):
    """The same as columns of plain numbers, for walking one by one."""

    start: list[int]
    end: list[int]
    call: list[int]
    by: list[int]
    held_by: list[int]
    back: list[int]
    """When the host came back from its waits."""
    awaited: list[int]


def places(work: Work, waits: Waits) -> Places:
    """What a walk needs; waits in which nothing was left to wait for are no stations."""
    return Places(
        work.rows["start"].tolist(),
        work.rows["end"].tolist(),
        work.call.tolist(),
        work.by.tolist(),
        work.held_by.tolist(),
        waits.end[waits.waited].tolist(),
        waits.awaited[waits.waited].tolist(),
    )


def walk(found: Places, begin: int, at: int, work: int = -1, stops: Container[int] = ()) -> Path:
    """Go back from a moment to `begin`.

    Args:
        found: what held what.
        begin: where to stop.
        at: where to start.
        work: index of the work that ends there, or begins; -1 for the host.
        stops: indices of work to stop at when it is reached; not where the walk starts.
    """
    first = work
    works: list[int] = []
    lengths: list[int] = []
    host: list[tuple[int, int]] = []
    launch = queue = unrecorded = sync = 0
    station = len(found.back)
    while at > begin:
        if work in stops and work != first:
            break
        if work >= 0:
            start = min(found.start[work], at)
            works.append(work)
            lengths.append(at - max(start, begin))
            held_by = found.held_by[work]
            at = start
            if found.by[work] == By.LAUNCH:
                at = min(found.call[work], start)
                launch += max(0, start - max(at, begin))
            elif held_by >= 0:
                at = min(found.end[held_by], start)
                gap = max(0, start - max(at, begin))
                if gap < BETWEEN_KERNELS_NS:
                    queue += gap
                else:
                    unrecorded += gap
            work = held_by
        else:
            station = bisect_right(found.back, at, 0, station) - 1
            if station < 0 or found.back[station] <= begin:
                host.append((begin, at))
                at = begin
                break
            back, work = found.back[station], found.awaited[station]
            host.append((back, at))
            at = min(found.end[work], back)
            sync += back - max(at, begin)
    columns = np.array(host[::-1], np.int64).reshape(-1, 2)
    return Path(
        np.array(works, np.int64),
        np.array(lengths, np.int64),
        (columns[:, 0], columns[:, 1]),
        launch,
        queue,
        unrecorded,
        sync,
        work if at > begin else -1,
    )
