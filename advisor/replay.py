"""The DataLoader's protocol, replayed batch by batch: what an average cannot know.

W workers take batches in turn, each batch is asked for when an earlier one is received, at most
`prefetch` batches per worker are outstanding, and the training process takes them in order. So one
slow batch holds up the finished ones behind it, and a long stop of the trainer lets the queue fill.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import NamedTuple


class Queue(NamedTuple):
    """How batches travel from the workers to the training process."""

    workers: int
    """At least one."""
    prefetch: int = 2
    """Batches outstanding per worker."""
    in_order: bool = True
    receive: float = 0.0
    """Seconds of the training thread to take one batch."""


def step_seconds(busy: Sequence[float], service: Sequence[float], queue: Queue) -> float:
    """Mean seconds per step of a loader and a training thread that run side by side.

    Args:
        busy: what the training thread does in each step besides waiting, seconds; repeated.
        service: what one worker needs for the batches of each step, seconds; repeated.
        queue: what joins them.
    """
    if len(busy) == len(service) == 1:
        return max(busy[0] + queue.receive, service[0] / queue.workers)
    run = _in_order if queue.in_order else _as_finished
    steps = max(len(busy), len(service))
    return run(busy, service, queue, skip=queue.workers * (queue.prefetch + 1), steps=steps)


def _in_order(
    busy: Sequence[float], service: Sequence[float], queue: Queue, skip: int, steps: int
) -> float:
    workers, outstanding = queue.workers, queue.workers * queue.prefetch
    finished: list[float] = []
    received: list[float] = []
    now = begin = 0.0
    for j in range(skip + steps):
        if j == skip:
            begin = now
        start = received[j - outstanding] if j >= outstanding else 0.0
        if j >= workers and finished[j - workers] > start:
            start = finished[j - workers]
        ready = start + service[j % len(service)]
        finished.append(ready)
        now = (ready if ready > now else now) + queue.receive
        received.append(now)
        now += busy[j % len(busy)]
    return (now - begin) / steps


def _as_finished(
    busy: Sequence[float], service: Sequence[float], queue: Queue, skip: int, steps: int
) -> float:
    free = [0.0] * queue.workers
    """When each worker is through with everything it was asked for."""
    outstanding: list[tuple[float, int]] = []
    made = 0

    def ask(worker: int, now: float) -> None:
        nonlocal made
        free[worker] = max(free[worker], now) + service[made % len(service)]
        made += 1
        heapq.heappush(outstanding, (free[worker], worker))

    for _ in range(queue.prefetch):
        for worker in range(queue.workers):
            ask(worker, 0.0)
    now = begin = 0.0
    for j in range(skip + steps):
        if j == skip:
            begin = now
        ready, worker = heapq.heappop(outstanding)
        now = max(now, ready) + queue.receive
        ask(worker, now)
        now += busy[j % len(busy)]
    return (now - begin) / steps
