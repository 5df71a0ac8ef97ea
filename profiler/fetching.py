"""Timing the fetch of a batch where it happens: in a loader worker, or in the main process.

`wall = cpu + run_delay + blocked` holds for every fetch; the collate function is timed apart.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from stepscope.profiler import clock
from stepscope.profiler.ring import BatchRecord, RingWriter


class FetchTimer:
    """Wraps one fetcher's `fetch` and `collate_fn` and hands a record per batch to `sink`."""

    def __init__(self, sink: Callable[[BatchRecord], None]) -> None:
        self._sink = sink
        # Shared, because a fetcher is made per epoch and each reader keeps a file open.
        self._delay, self._io = _readers(os.getpid(), threading.get_native_id())
        self._collate = (0, 0, 0, 0)
        self._items = 0

    def attach(self, fetcher: Any) -> None:
        """Time `fetcher` from now on; a fetcher that is made differently is left alone."""
        if callable(getattr(fetcher, "collate_fn", None)):
            batched = bool(getattr(fetcher, "auto_collation", True))
            fetcher.collate_fn = self._timed_collate(fetcher.collate_fn, batched)
        fetcher.fetch = self._timed_fetch(_without_cycle(fetcher.fetch))

    def _timed_collate(self, collate: Callable[[Any], Any], batched: bool) -> Callable[[Any], Any]:
        def timed(samples: Any) -> Any:
            wall, cpu, delay = self._times()
            _, system = clock.faults_and_system_ns()
            try:
                return collate(samples)
            finally:
                with suppress(Exception):
                    wall_end, cpu_end, delay_end = self._times()
                    _, system_end = clock.faults_and_system_ns()
                    spent = (wall_end - wall, cpu_end - cpu, system_end - system, delay_end - delay)
                    self._collate = spent
                    if batched:  # otherwise a tuple is one sample, not a list of them
                        self._items = len(samples) if isinstance(samples, (list, tuple)) else 0

        return timed

    def _timed_fetch(self, fetch: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def timed(indices: Any) -> Any:
            self._collate = (0, 0, 0, 0)
            self._items = len(indices) if isinstance(indices, (list, tuple)) else 1
            faults, system = clock.faults_and_system_ns()
            io = self._io.counters()
            helpers = self._helper_cpu_ns()
            wall, cpu, delay = self._times()
            batch = fetch(indices)
            with suppress(Exception):
                wall_end, cpu_end, delay_end = self._times()
                helpers_end = self._helper_cpu_ns()
                io_end = self._io.counters()
                faults_end, system_end = clock.faults_and_system_ns()
                has_delay, has_io = self._delay.available, self._io.available
                collate, collate_cpu, collate_system, collate_delay = self._collate
                self._sink(
                    BatchRecord(
                        start_ns=wall,
                        wall_ns=wall_end - wall,
                        cpu_ns=cpu_end - cpu,
                        system_cpu_ns=system_end - system,
                        run_delay_ns=delay_end - delay if has_delay else -1,
                        helper_cpu_ns=max(0, helpers_end - helpers),
                        collate_ns=collate,
                        collate_cpu_ns=collate_cpu,
                        collate_system_cpu_ns=collate_system,
                        collate_run_delay_ns=collate_delay if has_delay else -1,
                        read_bytes=io_end.bytes - io.bytes if has_io else -1,
                        storage_bytes=io_end.storage_bytes - io.storage_bytes if has_io else -1,
                        read_calls=io_end.calls - io.calls if has_io else -1,
                        major_faults=faults_end - faults,
                        items=self._items,
                    )
                )
            return batch

        return timed

    def _times(self) -> tuple[int, int, int]:
        return time.perf_counter_ns(), time.thread_time_ns(), self._delay.nanoseconds()

    @staticmethod
    def _helper_cpu_ns() -> int:
        return time.process_time_ns() - time.thread_time_ns() + clock.children_cpu_ns()


@functools.lru_cache(maxsize=16)
def _readers(process: int, thread: int) -> tuple[clock.RunDelay, clock.ThreadIO]:
    return clock.RunDelay(), clock.ThreadIO()


def _without_cycle(method: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`method` without a reference to its object, which is to be freed as soon as without us."""
    if not inspect.ismethod(method):
        return method
    weak = weakref.WeakMethod(method)

    def call(argument: Any) -> Any:
        strong = weak()
        assert strong is not None, "only the object itself calls this"
        return strong(argument)

    return call


_originals: dict[str, Callable[..., None]] = {}
"""Worker loops that were replaced in this process, by module; a forked child inherits them."""


def lend_worker_loop(module: Any, directory: Path, prefix: str) -> Callable[[], None]:
    """Let the workers that `module` starts from now on time their fetches; returns the undoing.

    Args:
        module: where the iterator looks up `_worker_loop` when it makes a worker process.
        directory: where the workers leave their rings.
        prefix: first part of the rings' file names.
    """
    original = getattr(module, "_worker_loop", None)
    if original is None:  # a version of PyTorch that starts its workers otherwise
        return lambda: None
    _originals[module.__name__] = original
    module._worker_loop = functools.partial(
        timed_worker_loop, module.__name__, str(directory), prefix
    )

    def restore() -> None:
        module._worker_loop = original

    return restore


def timed_worker_loop(module: str, directory: str, prefix: str, *args: Any) -> None:
    """Run a DataLoader worker with its fetcher timed.

    Spawned workers get this function by pickle, and the original by its module's name: the
    original itself cannot be pickled while it is replaced. Whatever goes wrong here, the worker
    works untimed.
    """
    with suppress(Exception):
        _time_fetchers(Path(directory), prefix)
    original = _originals.get(module) or importlib.import_module(module)._worker_loop
    original(*args)


def _time_fetchers(directory: Path, prefix: str) -> None:
    from torch.utils.data import _DatasetKind, get_worker_info  # noqa: PLC0415  # only in workers

    rings: list[RingWriter] = []
    make_fetcher = _DatasetKind.create_fetcher

    def create_fetcher(*args: Any, **kwargs: Any) -> Any:
        fetcher = make_fetcher(*args, **kwargs)  # type: ignore[no-untyped-call]
        with suppress(Exception):
            if not rings:  # persistent workers make a fetcher per epoch
                info = get_worker_info()
                path = directory / f"{prefix}-{os.getpid()}.ring"
                rings.append(RingWriter(path, info.id if info else -1))
            FetchTimer(rings[0].append).attach(fetcher)
        return fetcher

    _DatasetKind.create_fetcher = staticmethod(create_fetcher)  # type: ignore[method-assign]
