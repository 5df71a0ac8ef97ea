"""What the user may ask for: each half of the loop is tried alone, once, after the profiled steps.

First the model: the loop's body gets a copy of a batch that is there already, a few times over;
the modules that it has called are then called again with other sizes of batch and other numbers of
threads, and the state is put back. Then the loader: batches are taken as fast as they come, and the
body gets them afterwards, in order; for a moment the workers fetch one at a time. Neither is part
of any statistics but its own.
"""

from __future__ import annotations

import copy
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from statistics import median_low
from typing import Any, TypeVar

import psutil
import torch
from torch.utils.data import _utils, dataloader

from stepscope.profiler.agreement import all_ranks_ready
from stepscope.profiler.device.recorder import DeviceRecorder
from stepscope.profiler.dynamo import has_compiled
from stepscope.profiler.format import Ceilings
from stepscope.profiler.model_calls import ModelCalls, samples_of
from stepscope.profiler.model_trial import ModelTrials, give_back_memory, in_a_line
from stepscope.profiler.observed import Observed
from stepscope.profiler.reading import ReadAhead
from stepscope.profiler.recorder import Recorder
from stepscope.profiler.snapshot import RandomStates, Snapshot
from stepscope.profiler.turnstile import Turnstile

Batch = TypeVar("Batch")
AFTER_STEPS = 40
"""Steady steps before the trial, so that what it is compared with is known."""
_AT_LEAST = 20
"""Fewer steady steps will do where an epoch ends."""
_WARMUP, _TIMED = 2, 8
_MAX_ACCUMULATION = 64
_MAX_EPOCHS = 3
"""Epochs in which the loader is tried, where one ends too early."""
_WATCHED_STEPS = 8
"""Steps before the trial in which next() is watched for drawing random numbers."""
_IDLE_SECONDS = 10.0
_MEMORY_SHARE = 0.25


class Probing:
    """The trial of one recording.

    Args:
        recorder: whose steps are kept clear of the trial.
        observed: told what could not be tried; knows the loaders.
        after: steady steps before the trial.
        drain: brings what the workers have reported up to date.
    """

    def __init__(
        self,
        recorder: Recorder,
        observed: Observed,
        after: int,
        drain: Callable[[], None],
    ) -> None:
        self._measured = Ceilings()
        self._recorder = recorder
        self._observed = observed
        self._after = max(1, after)
        self._at_least = min(_AT_LEAST, self._after - 1)
        self._turnstile: Turnstile | None = None
        with suppress(OSError):
            self._turnstile = Turnstile(observed.directory, make=True)
        self._drain = drain
        self._sample: list[Any] | None = None
        """A batch for the model's trial; empty where none could be copied, or none is needed."""
        self._watching = self._model_done = self._loader_done = False
        self._epochs_left = _MAX_EPOCHS
        self._next_draws = False
        self._inline: deque[int] = deque(maxlen=2 * _TIMED)
        self._undo: Callable[[], None] | None = None
        self._optimizers: list[torch.optim.Optimizer] = []
        self._calls = ModelCalls(0)
        """Of one iteration of the trial."""
        self.taken: deque[Any] = deque()
        """Batches that were read ahead and are still to be given to the loop."""

    @property
    def result(self) -> Ceilings | None:
        """What was measured so far, if anything."""
        measured = self._measured
        return measured if measured.model_step_ns or measured.loader_batch_ns else None

    @property
    def begun(self) -> bool:
        """Whether something has been tried already."""
        return self._model_done or self._loader_done

    def refuse(self, reason: str) -> None:
        """Try nothing."""
        self._watching = self._model_done = self._loader_done = True
        self._observed.problem(f"no half of the loop was tried alone: {reason}")

    def watch(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """`batches` with the trial between two of them."""
        self._watching = True
        return batches if self._model_done and self._loader_done else self._steps(batches)

    def close(self) -> None:
        """End what is under way; a trial that the loop has left is put back now."""
        self._put_back()
        if not self._watching:
            self._observed.problem("no half of the loop was tried alone: it has no DataLoader")
        elif not self._model_done and not self._loader_done:
            self._observed.problem(
                f"no half of the loop was tried alone: that takes {self._after} steady steps"
            )
        if self._turnstile is not None:
            self._turnstile.close()

    def _steps(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        while True:
            if self._is_due(self._after) and not (self._model_done and self._loader_done):
                yield from self._try_model(batches)
                yield from self._try_loader(batches)
            try:
                batch = [self._next(batches)]
            except StopIteration:
                if self._is_due(self._at_least):
                    yield from self._try_model(batches)
                return
            yield batch.pop()

    def _is_due(self, steps: int) -> bool:
        recorder = self._recorder
        return (
            recorder.active
            and recorder.steady_steps >= steps
            and not recorder.in_window
            and not recorder.held
        )

    def _next(self, batches: Iterator[Batch]) -> Batch:
        watched = (
            not self._loader_done
            and not self._next_draws
            and self._recorder.steady_steps >= self._after - _WATCHED_STEPS
        )
        before = RandomStates() if watched else None
        begin = time.perf_counter_ns()
        batch = next(batches)
        if isinstance(batches, dataloader._SingleProcessDataLoaderIter):
            self._inline.append(time.perf_counter_ns() - begin)
        if before is not None:
            self._next_draws = RandomStates() != before
        if self._sample is None and not self._model_done and self._is_due(self._at_least):
            self._recorder.held = 1
            self._sample = []
            with suppress(Exception):
                self._sample.append(copy.deepcopy(batch))
        return batch

    # The model alone ----------------------------------------------------------------------------

    def _try_model(self, batches: Iterator[Any]) -> Iterator[Any]:
        if self._model_done:
            return
        self._model_done = True
        began = time.perf_counter_ns()
        self._recorder.restart_step()  # which completes the table's last row
        self._recorder.held = 1
        warmup, timed = self._prepare(batches)
        walls: list[int] = []
        try:
            for number in range(warmup + timed):
                batch = [self._copy(batches)]
                self._listen(number == warmup - 1)
                if number in (0, warmup):
                    _synchronise()
                begin = time.perf_counter_ns()
                yield batch.pop()
                if number == warmup + timed - 1:
                    _synchronise()
                walls.append(time.perf_counter_ns() - begin)
            if timed:
                self._try_sizes()
        finally:
            self._put_back()
        if timed:
            walls = walls[warmup:]
            # A device runs behind the loop, so that only the sum of its steps is known.
            self._measured.model_step_ns = [sum(walls) // timed] if _has_device() else walls
            self._recorder.mark("probe", time.perf_counter_ns() - began, "model")
        self._recorder.restart_step()

    def _prepare(self, batches: Iterator[Any]) -> tuple[int, int]:
        """Keep the state; returns how many steps to warm up and to time, none where it cannot."""
        recorder = self._recorder
        reason = "" if self._sample else "no batch could be copied"
        try:
            accumulation = _accumulation(recorder)
            snapshot = None if reason else Snapshot(_memory_to_spare())
        except Exception as error:
            snapshot, reason = None, str(error) or repr(error)
        if not all_ranks_ready(snapshot is not None) or snapshot is None:
            self._fail("the model", reason or "not every rank takes part")
            return 0, 0
        kept = snapshot
        self._optimizers = snapshot.optimizers
        recorder.trial = True
        marks, recorder.marks = recorder.marks, []

        def undo() -> None:
            recorder.trial = False
            recorder.marks = marks
            kept.restore()

        self._undo = undo
        if not _wait_until_full(batches):
            self._observed.problem("the trial of the model alone had loader workers beside it")
        return _whole_rounds(_WARMUP, accumulation), _whole_rounds(_TIMED, accumulation)

    def _listen(self, whether: bool) -> None:
        """Keep, or no longer keep, the calls of modules that the loop's body makes."""
        if whether:
            self._calls = self._observed.calls = ModelCalls(_memory_to_spare())
        else:
            self._observed.calls = None

    def _try_sizes(self) -> None:
        """Call the modules again, with other sizes of batch and other numbers of threads."""
        calls, self._calls = self._calls, ModelCalls(0)
        assert self._sample
        batch = samples_of(self._sample[0])
        reason = calls.reason or _no_sizes()
        if not reason and not calls.calls:
            reason = "no module was called"
        elif not reason and (batch is None or not any(c.has_batch(batch) for c in calls.calls)):
            reason = "no input of a module has as many samples as a batch"
        if isinstance(self._recorder, DeviceRecorder):
            self._recorder.stop_watching_memory()
        if not reason and batch is not None:
            try:
                problem = self._observed.problem
                trials = ModelTrials(calls.calls, batch, self._optimizers, problem)
                self._measured.model = trials.run()
            except Exception as error:
                reason = in_a_line(error)
        if reason:
            self._observed.problem(f"other sizes of batch and threads were not tried: {reason}")

    def _copy(self, batches: Iterator[Any]) -> Any:
        """A batch as the loader would give it; the body may change it."""
        assert self._sample
        batch = copy.deepcopy(self._sample[0])
        if getattr(batches, "_pin_memory", False):
            with suppress(Exception):  # the device may have run out of page-locked memory
                batch = _utils.pin_memory.pin_memory(batch)  # type: ignore[no-untyped-call]
        return batch

    def _put_back(self) -> None:
        undo, self._undo = self._undo, None
        self._sample, self._optimizers = [], []
        self._listen(False)
        self._calls = ModelCalls(0)
        if undo is not None:
            try:
                undo()
            except Exception as error:
                self._observed.problem(f"the state before the trial is not fully restored: {error}")
            give_back_memory()

    # The loader alone ---------------------------------------------------------------------------

    def _try_loader(self, batches: Iterator[Any]) -> Iterator[Any]:
        if self._loader_done:
            return
        if self._inline:
            # Nothing but the loader ran in the fetches either, since nothing ran beside them.
            self._measured.loader_batch_ns = list(self._inline)
        elif batches.__class__ is not dataloader._MultiProcessingDataLoaderIter:
            self._fail("the loader", f"a {batches.__class__.__name__} cannot be read ahead")
        elif self._next_draws:
            self._fail("the loader", "its next() draws from the global random state")
        else:
            yield from self._read_ahead(batches)
            return
        self._loader_done = True

    def _read_ahead(self, batches: Any) -> Iterator[Any]:
        recorder = self._recorder
        began = time.perf_counter_ns()
        recorder.restart_step()
        reading = ReadAhead(batches, self._observed, self._turnstile)
        try:
            reading.run()
            self._drain()
            reading.compare_with_solo(recorder.started_ns)
        except Exception as error:
            reading.reason = repr(error)
        self._epochs_left -= 1
        self._loader_done = not reading.ended_early or not self._epochs_left
        if reading.reason:
            self._fail("the loader", reading.reason)
        if len(reading.gaps_ns) >= len(self._measured.loader_batch_ns):
            self._measured.loader_batch_ns, self._measured.solo = reading.gaps_ns, reading.solo
        recorder.mark("probe", time.perf_counter_ns() - began, "loader")
        # The batches made meanwhile were not waited for either.
        recorder.held = len(reading.taken) + reading.prefetched + 1
        recorder.restart_step()
        self.taken = reading.taken
        while self.taken:
            yield self.taken.popleft()
        if reading.error is not None:
            raise reading.error

    def _fail(self, what: str, reason: str) -> None:
        self._observed.problem(f"{what} alone was not tried: {reason}")


def _no_sizes() -> str:
    """Why modules must not be called with other sizes, if so."""
    if has_compiled():
        return "torch.compile would compile anew for another size, and keep that"
    if int(os.environ.get("WORLD_SIZE", "1") or 1) > 1:
        return "with several ranks an error on one would keep the others waiting; try one process"
    return ""


def _accumulation(recorder: Recorder) -> int:
    """Batches from one optimizer step to the next."""
    steps = recorder.steps("steady")
    updates = steps.calls.get("optimizer_steps", [])
    at = [first for first, calls in zip(steps.first, updates, strict=False) if calls]
    gaps = [after - before for before, after in pairwise(at)]
    return min(_MAX_ACCUMULATION, median_low(gaps)) if gaps else 1


def _whole_rounds(steps: int, accumulation: int) -> int:
    """At least `steps`, and so many that a loop's own count of batches stays in turn."""
    return -(-steps // accumulation) * accumulation


def _wait_until_full(batches: Any) -> bool:
    """Wait until workers have nothing left to do; False if they still had after ten seconds."""
    if not isinstance(batches, dataloader._MultiProcessingDataLoaderIter):
        return True
    deadline = time.monotonic() + _IDLE_SECONDS
    with suppress(NotImplementedError):  # macOS cannot count what is in a queue
        while batches._data_queue.qsize() < batches._tasks_outstanding:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)
    return True


def _synchronise() -> None:
    if _has_device():
        torch.cuda.synchronize()


def _has_device() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def _memory_to_spare() -> float:
    """Bytes that this rank may take for a moment."""
    memory = psutil.virtual_memory()
    ranks = os.environ.get("LOCAL_WORLD_SIZE", "")
    share = _MEMORY_SHARE / (int(ranks) if ranks.isdigit() and int(ranks) else 1)
    return min(memory.total * share, memory.available / 2)
