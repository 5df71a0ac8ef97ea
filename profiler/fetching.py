"""Timing the fetch of a batch where it happens: in a loader worker, or in the main process.

`wall = cpu + run_delay + blocked` holds for every fetch; the collate function is timed apart.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import itertools
import os
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import get_ident
from typing import Any, NamedTuple

from stepscope.profiler import clock, opens
from stepscope.profiler.handover import Packing
from stepscope.profiler.newpages import WorkerMemory
from stepscope.profiler.ring import BatchRecord, RingWriter
from stepscope.profiler.sitefile import SiteFile
from stepscope.profiler.stacks import Fetch, Sites, StackSampler, under_way
from stepscope.profiler.turnstile import Turnstile

_AT_ONCE_NS = 50_000
"""A fetch that ends so soon after collating has done nothing in between."""

_SHORT_NS = 2_000_000
"""After a fetch that took less, only one in a few is asked of the kernel about: the questions take
as long as a small batch does."""
_NOT_ASKED = (3, 5, 4)
"""So many in turn are not: of different length, so that no period of the data fits."""
_UNTOLD = (-1,) * 10
"""The part of a `BatchRecord` that only the kernel tells."""
_LEAST_FAULT_NS = 1000
_WORTH_A_LOOK = 0.02
"""Part of the fetching that page faults must take for somebody to ask what they are."""
_EVERY_S = 1.0


class _Moment(NamedTuple):
    """The fetching thread at one moment."""

    wall_ns: int
    cpu_ns: int
    run_delay_ns: int = -1
    usage: clock.Usage = clock.NO_USAGE


class _Before(NamedTuple):
    """Counters that were read before a fetch: of the process, its children, and files."""

    process_cpu_ns: int
    children_cpu_ns: int
    io: bytes
    own_calls: int
    """Reads of our own, which the thread's counters hold too."""
    own_bytes: int


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
        self._collated: tuple[_Moment, _Moment] | None = None
        self._items = 0
        self._asks = True
        """Whether the kernel is asked about the fetch that runs."""
        self._skips = itertools.cycle(_NOT_ASKED)
        self._to_skip = 0

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
            begin = self._begin()
            batch = collate(samples)
            try:
                self._collated = begin, self._end()
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
            self._asks = self._to_skip == 0
            under_way[thread] = state
            opens.watch()
            try:
                before = self._before() if self._asks else None
                begin = self._begin()
                batch = fetch(indices)
                try:
                    self._report(begin, before)
                except Exception:  # ours; it would come again with every batch
                    self.close()
            finally:
                opens.unwatch()
                del under_way[thread]
            return batch

        return timed

    def _report(self, begin: _Moment, before: _Before | None) -> None:
        """Hand on what the fetch that began with these readings has cost."""
        now = time.perf_counter_ns()
        collated = self._collated
        end = (
            collated[1]
            if collated is not None and now - collated[1].wall_ns < _AT_ONCE_NS
            else self._end()
        )
        wall = end.wall_ns - begin.wall_ns
        collate = (0, 0)
        if collated is not None:
            first, last = collated
            collate = last.wall_ns - first.wall_ns, last.cpu_ns - first.cpu_ns
        state = self._fetch
        self._sink(
            BatchRecord(  # in the order of its fields: by name it would take three times as long
                begin.wall_ns,
                wall,
                end.cpu_ns - begin.cpu_ns,
                *collate,
                state.opens,
                state.open_ns,
                state.open_cpu_ns,
                *(self._packing.take() if self._packing is not None else (0, 0)),
                self._items,
                *(_UNTOLD if before is None else self._told(before, begin, end)),
            )
        )
        if wall >= _SHORT_NS:
            self._to_skip = 0
        elif before is None:
            self._to_skip -= 1
        else:
            self._to_skip = next(self._skips)

    def _told(self, before: _Before, begin: _Moment, end: _Moment) -> tuple[int, ...]:
        """What only the kernel tells, in the order of a record's fields."""
        helper = time.process_time_ns() - before.process_cpu_ns - (end.cpu_ns - begin.cpu_ns)
        helper += clock.children_cpu_ns() - before.children_cpu_ns
        read, storage, calls = self._io.since(before.io)
        if calls >= 0:  # without our own
            read -= len(before.io) + self._delay.bytes - before.own_bytes
            calls -= 1 + self._delay.calls - before.own_calls
        delay = self._in_kernel(begin, end)
        return (
            *delay,
            *(self._in_kernel(*self._collated) if self._collated else (0, min(0, delay[1]))),
            max(0, helper),
            end.usage.ru_majflt - begin.usage.ru_majflt,
            end.usage.ru_minflt - begin.usage.ru_minflt,
            read,
            storage,
            calls,
        )

    def _in_kernel(self, begin: _Moment, end: _Moment) -> tuple[int, int]:
        """Processor time in the kernel, and run delay (-1 when not told)."""
        system = int((end.usage.ru_stime - begin.usage.ru_stime) * 1e9)
        return system, end.run_delay_ns - begin.run_delay_ns if self._delay.available else -1

    def _before(self) -> _Before:
        own_calls, own_bytes = self._delay.calls, self._delay.bytes
        children, io = clock.children_cpu_ns(), self._io.read()
        return _Before(time.process_time_ns(), children, io, own_calls, own_bytes)

    # The clock is read closest to what is timed: last before it, first after it.

    def _begin(self) -> _Moment:
        if not self._asks:
            cpu = time.thread_time_ns()
            return _Moment(time.perf_counter_ns(), cpu)
        usage, delay = clock.thread_usage(), self._delay.nanoseconds()
        cpu = time.thread_time_ns()
        return _Moment(time.perf_counter_ns(), cpu, delay, usage)

    def _end(self) -> _Moment:
        wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
        if not self._asks:
            return _Moment(wall, cpu)
        return _Moment(wall, cpu, self._delay.nanoseconds(), clock.thread_usage())


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
    memory = WorkerMemory(forked=module in _originals)
    report = _WorkerReport(Path(directory), prefix, memory)
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

    def __init__(self, directory: Path, prefix: str, memory: WorkerMemory) -> None:
        self._path = directory / f"{prefix}-{os.getpid()}.ring"
        self._sites = Sites()
        self._file = SiteFile(self._path.with_suffix(".sites"), self._sites)
        self._ring: RingWriter | None = None
        self._sampler: StackSampler | None = None
        self._timer: FetchTimer | None = None
        self._turnstile: Turnstile | None = None
        self._memory = memory
        self._examined_at = time.monotonic()

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

    def _examine_faults(self) -> None:
        """Find out what the page faults brought, if there are enough of them to matter."""
        ring = self._ring
        self._examined_at = time.monotonic()
        if ring is not None and ring.faults * _LEAST_FAULT_NS > _WORTH_A_LOOK * ring.wall_ns:
            pages = self._memory.new_pages()
            if pages is not None:
                ring.examined(pages)

    def _tick(self) -> None:
        try:
            self._file.tick()
            self._memory.look()
            if time.monotonic() - self._examined_at >= _EVERY_S:
                self._examine_faults()
        except FileNotFoundError:  # the recording is over, and this worker lives on
            if self._timer is not None and self._sampler is not None:
                self._timer.close()
                self._sampler.end()

    def close(self) -> None:
        """Write what is left."""
        if self._sampler is not None:
            self._sampler.stop()
            self._examine_faults()
            if self._sites.samples:
                self._file.write()
