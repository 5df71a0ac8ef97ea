"""Taking batches from loader workers as fast as they come, and keeping them for the loop.

The first ones were prefetched and cost no time. Those that follow are timed while all workers
fetch, and some more while the workers fetch one at a time.
"""

from __future__ import annotations

import copy
import time
from collections import deque
from contextlib import suppress
from typing import Any, NamedTuple

import psutil

from stepscope.profiler.format import Batches, Solo
from stepscope.profiler.observed import Observed
from stepscope.profiler.snapshot import RandomStates
from stepscope.profiler.turnstile import Turnstile

_TIMED = 8
_ROUNDS = 3
"""Fetches of each worker that are timed, together and alone."""
_MAX_BATCHES = 256
_MAX_BYTES = 1 << 30
_MEMORY_SHARE = 0.125
_SECONDS = 30.0
_MIN_SOLO = 2


class Plan(NamedTuple):
    """How many batches to take: untimed, with all workers, and one at a time."""

    untimed: int
    together: int
    alone: int


def plan(workers: int, prefetch_factor: int, limit: int) -> Plan:
    """What to take where `limit` batches can be kept; nothing at all where they are too few."""
    untimed = workers * (prefetch_factor + 1)  # the prefetched, and those begun from rest
    together = workers * max(_ROUNDS, -(-_TIMED // workers))
    # When the others are held back, each is still in the middle of a fetch.
    alone = workers * (1 + _ROUNDS) if workers > 1 else 0
    if untimed + together + alone > limit:
        alone = 0
        together = min(together, (limit - untimed) // workers * workers)
    return Plan(untimed, together, alone) if together > 0 else Plan(0, 0, 0)


class ReadAhead:
    """One attempt at timing the loader alone.

    Args:
        batches: the iterator of a DataLoader with workers.
        observed: knows the loader's log and the size of a batch.
        turnstile: holds workers back; None where that is not possible.
    """

    def __init__(self, batches: Any, observed: Observed, turnstile: Turnstile | None) -> None:
        self.taken: deque[Any] = deque()
        """Batches that the loop is still to get."""
        self.gaps_ns: list[int] = []
        self.solo: Solo | None = None
        self.error: Exception | None = None
        """What the loader raised; the loop is to see it after the batches."""
        self.ended_early = False
        self.reason = ""
        """Why nothing, or not all, was measured."""
        self._moments: list[int] = []
        self._batches = batches
        self._observed = observed
        self._turnstile = turnstile
        self._deadline = time.monotonic() + _SECONDS
        memory = psutil.virtual_memory().available * _MEMORY_SHARE
        size = observed.batch_bytes or 1
        limit = int(min(_MAX_BATCHES, min(_MAX_BYTES, memory) / size))
        self._plan = plan(batches._num_workers, batches._prefetch_factor, limit)
        self.prefetched = batches._num_workers * batches._prefetch_factor
        """Batches that the workers make ready while the loop uses those that were taken."""

    def run(self) -> None:
        """Take the batches."""
        before = RandomStates()
        if not self._plan.together:
            self.reason = "its batches are too large to be kept"
        elif self._take(self._plan.untimed) and RandomStates() == before and self._time_together():
            self._take_alone()
        if RandomStates() != before:
            self.reason = "its next() draws from the global random state; the loss may differ"

    def _time_together(self) -> bool:
        began = last = time.perf_counter_ns()
        for _ in range(self._plan.together):
            if not self._take(1):
                return False
            now = time.perf_counter_ns()
            self.gaps_ns.append(now - last)
            last = now
        self._moments = [began, last]
        return True

    def _take_alone(self) -> None:
        if self._turnstile is None or not self._plan.alone:
            return
        self._turnstile.one_at_a_time(True)
        try:
            if self._take(self._plan.alone):
                self._moments.append(time.perf_counter_ns())
        finally:
            self._turnstile.one_at_a_time(False)

    def compare_with_solo(self, origin_ns: int) -> None:
        """Find the fetches in what the workers have reported; its clock begins at `origin_ns`."""
        log = self._log()
        if log is not None and len(self._moments) == len(("began", "switched", "ended")):
            self.solo = compare(log, *(moment - origin_ns for moment in self._moments))

    def _take(self, count: int) -> bool:
        """Take `count` batches; False if the loader ended, failed, or takes too long."""
        for _ in range(count):
            if time.monotonic() > self._deadline:
                self.reason = f"the loader gave fewer than was hoped for in {_SECONDS:.0f} s"
                return False
            try:
                batch = next(self._batches)
            except StopIteration:
                self.ended_early = True
                return False
            except Exception as error:
                self.error = error
                return False
            if not self._batches._pin_memory:
                # A copy gives the worker's shared memory back, of which there may be little.
                with suppress(Exception):
                    batch = copy.deepcopy(batch)
            self.taken.append(batch)
        return True

    def _log(self) -> Batches | None:
        pids = {worker.pid for worker in self._batches._workers}
        for log in self._observed.loaders:
            loader = log.result()
            if any(worker.pid in pids for worker in loader.workers):
                return loader.batches
        return None


def compare(log: Batches, began_ns: int, switched_ns: int, ended_ns: int) -> Solo | None:
    """Fetches that no other one overlaps, beside those before the workers were held back.

    Args:
        log: all fetches of one loader.
        began_ns: from here on all workers fetched as fast as they could.
        switched_ns: from here on those that began a fetch waited for each other.
        ended_ns: and no longer from here on.

    Returns:
        Means of as many fetches on each side; None where there are fewer than two.
    """
    if log.stride > 1:
        return None  # some fetches are unknown, and may have been at the same time
    rows = sorted(
        zip(log.start_ns, log.wall_ns, log.cpu_ns, log.run_delay_ns, strict=True),
        key=lambda r: r[0],
    )
    together = [row for row in rows if began_ns <= row[0] < switched_ns]
    solo = []
    latest_end = 0
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        start, end = row[0], row[0] + row[1]
        alone = latest_end <= start and (following is None or end <= following[0])
        if alone and switched_ns <= start and end <= ended_ns:
            solo.append(row)
        latest_end = max(latest_end, end)
    n = min(len(solo), len(together))
    if n < _MIN_SOLO:
        return None
    means = [
        [sum(row[column] for row in rows) // n for column in (1, 2, 3)]
        for rows in (solo[:n], together[-n:])
    ]
    (wall, cpu, delay), (together_wall, together_cpu, together_delay) = means
    return Solo(
        batches=n,
        wall_ns=wall,
        cpu_ns=cpu,
        run_delay_ns=delay,
        together_wall_ns=together_wall,
        together_cpu_ns=together_cpu,
        together_run_delay_ns=together_delay,
    )
