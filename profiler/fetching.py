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
from threading import get_ident
from typing import Any

from stepscope.profiler import clock, opens
from stepscope.profiler.handover import Packing
from stepscope.profiler.ring import BatchRecord, RingWriter
from stepscope.profiler.sitefile import SiteFile
from stepscope.profiler.stacks import Fetch, Sites, StackSampler, under_way
from stepscope.profiler.turnstile import Turnstile

_AT_ONCE_NS = 50_000
"""A fetch that ends so soon after collating has done nothing in between."""

Mark = tuple[int, int, int, clock.Usage]
"""Wall time, processor time, run delay (ns) and usage of the fetching thread at one moment."""


class FetchTimer:
    """Wraps one fetcher's `fetch` and `collate_fn` and hands a record per batch to `sink`.

    Only fetches of the thread that made the timer are timed, and of nested ones (a dataset that
    iterates over a DataLoader itself) the outer.

    Args:
        sink: gets the record of each batch.
        sites: where a `StackSampler` of this thread counts what it sees of the fetches.
        packing: tells what packing batches has cost; a record holds that of the batches before.
    """

    def __init__(
        self,
        sink: Callable[[BatchRecord], None],
        sites: Sites | None = None,
        packing: Packing | None = None,
    ) -> None:
        self._sink = sink
        self._packing = packing
        self._thread = get_ident()
        self._fetch = Fetch(sites or Sites())
        # Shared, because a fetcher is made per epoch and each reader keeps a file open.
        self._delay, self._io = _readers(os.getpid(), threading.get_native_id())
        self._own_calls = self._own_bytes = 0
        self._collated: tuple[Mark, Mark] | None = None
        self._items = 0

    def attach(self, fetcher: Any) -> None:
        """Time `fetcher` from now on; a fetcher that is made differently is left alone."""
        if callable(getattr(fetcher, "collate_fn", None)):
            batched = bool(getattr(fetcher, "auto_collation", True))
            fetcher.collate_fn = self._timed_collate(fetcher.collate_fn, batched)
        fetcher.fetch = self._timed_fetch(_without_cycle(fetcher.fetch))

    def close(self) -> None:
        """Stop timing: fetchers that live on pass through."""
        self._thread = -1

    def _timed_collate(self, collate: Callable[[Any], Any], batched: bool) -> Callable[[Any], Any]:
        state = self._fetch

        def timed(samples: Any) -> Any:
            if under_way.get(get_ident()) is not state:
                return collate(samples)
            state.stage = "collate"
            begin = self._mark_begin()
            batch = collate(samples)
            try:
                self._collated = begin, self._mark_end()
                if batched:  # otherwise a tuple is one sample, not a list of them
                    self._items = len(samples) if isinstance(samples, (list, tuple)) else 0
            except Exception:  # the user's list may have a length that cannot be asked for
                self._collated = None
            return batch

        return timed

    def _timed_fetch(self, fetch: Callable[[Any], Any]) -> Callable[[Any], Any]:
        state = self._fetch

        def timed(indices: Any) -> Any:
            thread = get_ident()
            if thread != self._thread or thread in under_way:
                return fetch(indices)
            self._items = len(indices) if isinstance(indices, (list, tuple)) else 1
            self._collated = None
            state.stage = "fetch"
            state.opens = state.open_ns = state.open_cpu_ns = 0
            self._own_calls, self._own_bytes = self._delay.calls, self._delay.bytes
            under_way[thread] = state
            opens.watch()
            try:
                children, io = clock.children_cpu_ns(), self._io.read()
                process_cpu = time.process_time_ns()
                begin = self._mark_begin()
                batch = fetch(indices)
                try:
                    self._report(begin, process_cpu, children, io)
                except Exception:  # ours; it would come again with every batch
                    self.close()
            finally:
                opens.unwatch()
                del under_way[thread]
            return batch

        return timed

    def _report(self, begin: Mark, process_cpu: int, children: int, io: bytes) -> None:
        """Hand on what the fetch that began with these readings has cost."""
        now = time.perf_counter_ns()
        collated = self._collated
        end = (
            collated[1]
            if collated is not None and now - collated[1][0] < _AT_ONCE_NS
            else self._mark_end()
        )
        process_cpu = time.process_time_ns() - process_cpu
        helper = process_cpu - (end[1] - begin[1]) + clock.children_cpu_ns() - children
        read, storage, calls = self._io.since(io)
        if calls >= 0:  # without our own
            read -= len(io) + self._delay.bytes - self._own_bytes
            calls -= 1 + self._delay.calls - self._own_calls
        spent = self._between(begin, end)
        collate = self._between(*collated) if collated is not None else (0, 0, 0, min(0, spent[3]))
        state = self._fetch
        self._sink(
            BatchRecord(  # in the order of its fields: by name it would take three times as long
                begin[0],
                *spent,
                max(0, helper),
                *collate,
                read,
                storage,
                calls,
                end[3].ru_majflt - begin[3].ru_majflt,
                end[3].ru_minflt - begin[3].ru_minflt,
                state.opens,
                state.open_ns,
                state.open_cpu_ns,
                *(self._packing.take() if self._packing is not None else (0, 0)),
                self._items,
            )
        )

    # The clock is read closest to what is timed: last before it, first after it.

    def _mark_begin(self) -> Mark:
        usage, delay = clock.thread_usage(), self._delay.nanoseconds()
        cpu = time.thread_time_ns()
        return time.perf_counter_ns(), cpu, delay, usage

    def _mark_end(self) -> Mark:
        wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
        return wall, cpu, self._delay.nanoseconds(), clock.thread_usage()

    def _between(self, begin: Mark, end: Mark) -> tuple[int, int, int, int]:
        """Wall time, processor time, the part in the kernel, and run delay (-1 when not told)."""
        system = int((end[3].ru_stime - begin[3].ru_stime) * 1e9)
        delay = end[2] - begin[2] if self._delay.available else -1
        return end[0] - begin[0], end[1] - begin[1], system, delay


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
    report = _WorkerReport(Path(directory), prefix)
    with suppress(Exception):
        if threading.current_thread() is threading.main_thread():  # not a worker that is a thread
            report.install()
    original = _originals.get(module) or importlib.import_module(module)._worker_loop
    try:
        original(*args)
    finally:
        with suppress(Exception):
            report.close()


class _WorkerReport:
    """What one worker process tells of its fetches: a ring of records, and where it was seen."""

    def __init__(self, directory: Path, prefix: str) -> None:
        self._path = directory / f"{prefix}-{os.getpid()}.ring"
        self._sites = Sites()
        self._file = SiteFile(self._path.with_suffix(".sites"), self._sites)
        self._ring: RingWriter | None = None
        self._sampler: StackSampler | None = None
        self._timer: FetchTimer | None = None
        self._turnstile: Turnstile | None = None

    def install(self) -> None:
        """Time the fetchers that this process makes from now on."""
        from torch.utils.data import _DatasetKind  # noqa: PLC0415  # only in workers

        make_fetcher = _DatasetKind.create_fetcher

        def create_fetcher(*args: Any, **kwargs: Any) -> Any:
            fetcher = make_fetcher(*args, **kwargs)  # type: ignore[no-untyped-call]
            with suppress(Exception):
                self._attach(fetcher)
            return fetcher

        _DatasetKind.create_fetcher = staticmethod(create_fetcher)  # type: ignore[method-assign]

    def _attach(self, fetcher: Any) -> None:
        from torch.utils.data import get_worker_info  # noqa: PLC0415  # only in workers

        info = get_worker_info()
        own = getattr(info, "dataset", None) is getattr(fetcher, "dataset", None)
        if not own or threading.current_thread() is not threading.main_thread():
            return  # of a loader that the dataset itself iterates over
        if self._timer is None:
            self._ring = RingWriter(self._path, info.id if info else -1)
            packing = Packing()
            packing.install()
            self._timer = FetchTimer(self._ring.append, self._sites, packing)
            with suppress(OSError):  # the user has not asked for a trial
                self._turnstile = Turnstile(self._path.parent)
            self._sampler = StackSampler(
                lambda: None, get_ident(), threading.get_native_id(), each_tick=self._tick
            )
            self._sampler.start()
        self._timer.attach(fetcher)  # persistent workers make a fetcher per epoch
        if self._turnstile is not None:  # outermost: waiting for one's turn is no fetching
            fetcher.fetch = self._turnstile.guard(fetcher.fetch)

    def _tick(self) -> None:
        try:
            self._file.tick()
        except FileNotFoundError:  # the recording is over, and this worker lives on
            if self._timer is not None and self._sampler is not None:
                self._timer.close()
                self._sampler.end()

    def close(self) -> None:
        """Write what is left."""
        if self._sampler is not None:
            self._sampler.stop()
            if self._sites.samples:
                self._file.write()
