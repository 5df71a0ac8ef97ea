"""The data pipeline: waiting for batches, starting workers, and what each batch cost to make."""

from __future__ import annotations

import functools
import itertools
import sys
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from threading import get_ident
from typing import Any

from torch.utils.data import _utils, dataloader

from stepscope.profiler.fetching import FetchTimer, lend_worker_loop
from stepscope.profiler.loaders import LoaderLog
from stepscope.profiler.observed import Observed, describe_loader
from stepscope.profiler.patches import Patches
from stepscope.profiler.recorder import Recorder
from stepscope.profiler.stacks import under_way

Function = Callable[..., Any]
_STATEFUL = "torchdata.stateful_dataloader.stateful_dataloader"


def install(recorder: Recorder, patches: Patches, observed: Observed) -> None:
    """Watch all iterators of DataLoaders, StatefulDataLoader's included."""
    probe = _LoaderProbe(recorder, observed)
    multi = dataloader._MultiProcessingDataLoaderIter
    single = dataloader._SingleProcessDataLoaderIter
    patches.replace(multi, "__init__", probe.time_start)
    patches.replace(multi, "_reset", probe.note_epoch)
    patches.replace(multi, "_shutdown_workers", probe.time_end)
    patches.replace(single, "__init__", probe.time_inline)
    patches.replace(dataloader._BaseDataLoaderIter, "__next__", probe.time_wait)
    stateful = sys.modules.get(_STATEFUL)
    if stateful is not None:
        multi = stateful._StatefulMultiProcessingDataLoaderIter
        patches.replace(multi, "__init__", probe.time_start)
        patches.replace(multi, "_shutdown_workers", probe.time_end)
        patches.replace(
            stateful._StatefulSingleProcessDataLoaderIter, "__init__", probe.time_inline
        )


class _LoaderProbe:
    def __init__(self, recorder: Recorder, observed: Observed) -> None:
        self._recorder = recorder
        self._observed = observed
        self._startup = recorder.phase("worker_startup")
        self._validation = recorder.phase("validation")
        self._known: weakref.WeakKeyDictionary[Any, LoaderLog] = weakref.WeakKeyDictionary()
        self._fresh: set[int] = set()
        self._starts = itertools.count()
        recorder.on_restart.append(observed.want_batch)

    def _see(self, batch: Any) -> None:
        """Describe the first batch that is not of a validation."""
        if self._recorder.current != self._validation:
            try:
                self._observed.batch(batch)
            except Exception as error:  # a batch that cannot be described is still passed on
                self._observed.problem(f"the batch size is not known: {error!r}")

    def _log(self, loader: Any) -> LoaderLog | None:
        """The log of `loader`, made on its first epoch and counting the epoch that begins."""
        if self._recorder.thread != get_ident():
            return None
        try:
            log = self._known.get(loader)
            if log is None:
                description = describe_loader(loader)
                description.training = self._recorder.current != self._validation
                log = self._known[loader] = self._observed.add_loader(description)
            log.description.epochs += 1
        except Exception as error:  # a loader that cannot be described is still iterated
            self._observed.problem(f"a {type(loader).__name__} is not covered: {error!r}")
            return None
        return log

    def time_start(self, original: Function) -> Function:
        """Wrap the construction of a multi-process iterator, which starts the workers."""

        @functools.wraps(original)
        def init(iterator: Any, loader: Any, *args: Any, **kwargs: Any) -> Any:
            recorder = self._recorder
            log = self._log(loader)
            if log is None:
                return original(iterator, loader, *args, **kwargs)
            self._fresh.add(id(iterator))
            if recorder.step_index < recorder.warmup_steps:
                prefetched = log.description.num_workers * (log.description.prefetch_factor or 0)
                recorder.warmup_steps = max(recorder.warmup_steps, prefetched)
            previous = recorder.enter(self._startup)
            prefix = f"{log.number}-{next(self._starts)}"
            with ExitStack() as stack:
                for module in (_utils.worker, sys.modules.get(_STATEFUL)):
                    if module is not None:
                        stack.callback(lend_worker_loop(module, self._observed.directory, prefix))
                stack.callback(recorder.leave, previous)
                return original(iterator, loader, *args, **kwargs)

        return init

    def time_end(self, original: Function) -> Function:
        """Wrap the waiting for workers to exit: those that stay need neither start nor end."""
        recorder = self._recorder

        @functools.wraps(original)
        def shut_down(iterator: Any) -> None:
            if recorder.thread != get_ident():
                return original(iterator)  # type: ignore[no-any-return]
            previous = recorder.enter(self._startup)
            try:
                return original(iterator)  # type: ignore[no-any-return]
            finally:
                recorder.leave(previous)

        return shut_down

    def note_epoch(self, original: Function) -> Function:
        """Count the epochs of persistent workers, whose iterator is reset, not made."""

        @functools.wraps(original)
        def reset(iterator: Any, loader: Any, first_iter: bool = False) -> Any:
            if not first_iter:
                self._log(loader)
            return original(iterator, loader, first_iter)

        return reset

    def time_inline(self, original: Function) -> Function:
        """Wrap the construction of a single-process iterator: its fetches happen inside next()."""

        @functools.wraps(original)
        def init(iterator: Any, loader: Any, *args: Any, **kwargs: Any) -> None:
            original(iterator, loader, *args, **kwargs)
            if get_ident() in under_way:
                return  # a loader that a dataset iterates over: part of the outer one's fetch
            log = self._log(loader)
            if log is not None:
                FetchTimer(log.inline.append, log.sites).attach(iterator._dataset_fetcher)

        return init

    def time_wait(self, original: Function) -> Function:
        """Wrap next() of all iterators."""
        recorder = self._recorder

        @functools.wraps(original)
        def next_batch(iterator: Any) -> Any:
            if recorder.thread != get_ident():
                return original(iterator)
            if self._fresh and id(iterator) in self._fresh:
                # The first batch after a start waits for processes to boot, not for data.
                self._fresh.discard(id(iterator))
                previous = recorder.enter(self._startup)
                try:
                    return original(iterator)
                finally:
                    recorder.leave(previous)
            previous = recorder.enter_wait()
            try:
                batch = original(iterator)
            finally:
                recorder.leave_wait(previous)
            if self._observed.batch_wanted:
                self._see(batch)
            return batch

        return next_batch
