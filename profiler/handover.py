"""Timing how a worker packs finished batches for the training process.

`data_queue.put` returns at once; a thread of the queue then pickles the batch, which copies
tensors that are not in shared memory yet. So this time is in no fetch.
"""

from __future__ import annotations

import multiprocessing.queues
import time
from typing import Any


class Packing:
    """What packing has cost this process since the last `take`, in ns."""

    def __init__(self) -> None:
        self._wall = self._cpu = 0

    def install(self) -> None:
        """Time the pickling in queues of this process, a worker, from now on."""
        packing, queues = self, multiprocessing.queues
        original: Any = queues._ForkingPickler  # type: ignore[attr-defined]

        class TimedPickler(original):  # type: ignore[misc]
            @classmethod
            def dumps(cls, obj: Any, protocol: int | None = None) -> Any:
                wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
                try:
                    return original.dumps(obj, protocol)
                finally:
                    packing._cpu += time.thread_time_ns() - cpu
                    packing._wall += time.perf_counter_ns() - wall

        queues._ForkingPickler = TimedPickler  # type: ignore[attr-defined]

    def take(self) -> tuple[int, int]:
        """Wall and processor time since the last call."""
        # A batch that is packed between these lines is counted with the next one, or not at all.
        taken, self._wall, self._cpu = (self._wall, self._cpu), 0, 0
        return taken
