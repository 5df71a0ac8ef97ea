"""The model alone with other sizes of batch and, on a processor, other numbers of threads.

Everything here runs between two iterations of the loop, on copies of inputs, while the state of
the program is kept elsewhere; errors, a device's lack of memory among them, stay in here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import psutil
import torch

from stepscope.profiler import cgroup
from stepscope.profiler.format import ModelTrial, Resized, Threaded, ThreadedOperator
from stepscope.profiler.model_calls import Arguments, ModelCall, fresh
from stepscope.profiler.tracing import quiet_kineto
from stepscope.profiler.window import another_profiler

_SECONDS = 3.0
"""About so long each comparison lasts, if its steps are not longer than that."""
_ROUNDS = 8
_MAX_OPERATORS, _LEAST_SHARE = 12, 0.01
_TWICE = 2.0

Sized = list[tuple[ModelCall, Arguments]]


class ModelTrials:
    """Runs the trials.

    Args:
        calls: of one iteration, at least one.
        batch: samples in it.
        optimizers: that update the modules' parameters.
        problem: told what could not be tried.
    """

    def __init__(
        self,
        calls: Sequence[ModelCall],
        batch: int,
        optimizers: Sequence[torch.optim.Optimizer],
        problem: Callable[[str], None],
    ) -> None:
        self._calls = calls
        self._batch = batch
        self._optimizers = optimizers
        self._problem = problem
        self._on_device = bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
        self._parameters = [
            p for optimizer in optimizers for g in optimizer.param_groups for p in g["params"]
        ]

    def run(self) -> ModelTrial:
        """Try all of it.

        Raises:
            Exception: the calls cannot even be made again as they were.
        """
        own = self._sized(1.0)
        self._pass_ns(own)
        result = ModelTrial(batch_size=self._batch, sizes=self._sizes(own))
        if not self._on_device:
            self._threads(result, own)
        else:
            result.optimizer_ns = self._updates_ns(own, [self._update_ns])[0]
        return result

    # Sizes of batch -----------------------------------------------------------------------------

    def _sizes(self, own: Sized) -> list[Resized]:
        batches = {1.0: own}
        for factor in (_TWICE, 0.5):
            if factor * self._batch == int(factor * self._batch):
                sized = self._tried(factor)
                if sized is not None:
                    batches[factor] = sized
        times = self._in_turn([partial(self._pass_ns, sized) for sized in batches.values()])
        rows = zip(batches, times, strict=True)
        return [Resized(factor=factor, pass_ns=spent) for factor, spent in rows]

    def _tried(self, factor: float) -> Sized | None:
        """Inputs with `factor` times the samples, after a pass; None where that does not work."""
        reason = ""
        if factor > 1 and not self._on_device and not _may_double():
            reason = "the process could not take as much memory again"
        else:
            try:
                sized = self._sized(factor)
                self._pass_ns(sized)
            except torch.cuda.OutOfMemoryError:
                reason = "the device has not the memory"
            except Exception as error:
                reason = in_a_line(error)
            else:
                return sized
        # Only now is nothing of the failed pass referred to any more.
        self._without_gradients()
        give_back_memory()
        self._problem(f"{factor:g} times the batch was not tried: {reason}")
        return None

    def _sized(self, factor: float) -> Sized:
        return [(call, call.arguments(self._batch, factor)) for call in self._calls]

    # Threads ------------------------------------------------------------------------------------

    def _threads(self, result: ModelTrial, own: Sized) -> None:
        now = torch.get_num_threads()
        counts = thread_counts(now)
        with _threads_as_now():
            one = partial(self._pass_ns, own)
            passes = self._in_turn([_with_threads(n, one) for n in counts])
            if len(counts) > 1:
                result.operators = self._operators(own, counts)
            updates = self._updates_ns(own, [_with_threads(n, self._update_ns) for n in counts])
        result.optimizer_ns = updates[counts.index(now)]
        result.threads = [
            Threaded(threads=n, pass_ns=spent, optimizer_ns=updating)
            for n, spent, updating in zip(counts, passes, updates, strict=True)
        ]

    def _operators(self, own: Sized, counts: list[int]) -> list[ThreadedOperator]:
        if another_profiler():
            return []
        one, most = (self._self_ns(own, threads) for threads in (counts[0], counts[-1]))
        least = _LEAST_SHARE * sum(spent for _, spent in most.values())
        rows = [
            ThreadedOperator(name=name, calls=calls, one_ns=one[name][1], most_ns=spent)
            for name, (calls, spent) in most.items()
            if spent >= least and name in one
        ]
        return sorted(rows, key=lambda row: -row.most_ns)[:_MAX_OPERATORS]

    def _self_ns(self, own: Sized, threads: int) -> dict[str, tuple[int, int]]:
        """Calls and self time of the operators of one pass."""
        torch.set_num_threads(threads)
        self._pass_ns(own)
        profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])
        with quiet_kineto(), profiler:
            self._pass_ns(own)
        return {
            row.key: (row.count, int(row.self_cpu_time_total * 1000))
            for row in profiler.key_averages()
            if row.key.startswith("aten::")
        }

    # Times --------------------------------------------------------------------------------------

    def _in_turn(self, timed: Sequence[Callable[[], int]]) -> list[list[int]]:
        """What each says, called in turn so that a busy machine is busy for all of them."""
        whole = sum(each() for each in timed) / 1e9  # not kept: they warm up
        rounds = max(1, min(_ROUNDS, int(_SECONDS / max(1e-9, whole))))
        times: list[list[int]] = [[] for _ in timed]
        for _ in range(rounds):
            for each, spent in zip(timed, times, strict=True):
                spent.append(each())
        return times

    def _pass_ns(self, sized: Sized) -> int:
        """Forward and backward once."""
        self._without_gradients()
        inputs = [(call, fresh(arguments)) for call, arguments in sized]
        self._synchronise()
        begin = time.perf_counter_ns()
        for call, arguments in inputs:
            call.run(arguments)
        self._synchronise()
        return time.perf_counter_ns() - begin

    def _updates_ns(self, own: Sized, timed: Sequence[Callable[[], int]]) -> list[list[int]]:
        """Times of updates; empty where an optimizer cannot be called like that."""
        self._pass_ns(own)  # so that there are gradients
        try:
            return self._in_turn(timed)
        except Exception as error:
            self._problem(f"the optimizer alone was not tried: {in_a_line(error)}")
            return [[] for _ in timed]

    def _update_ns(self) -> int:
        """All optimizers once."""
        self._synchronise()
        begin = time.perf_counter_ns()
        for optimizer in self._optimizers:
            optimizer.step()
        self._synchronise()
        return time.perf_counter_ns() - begin

    def _without_gradients(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    def _synchronise(self) -> None:
        if self._on_device:
            torch.cuda.synchronize()


def thread_counts(now: int) -> list[int]:
    """One, half and all of the usable cores, and what the program uses."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    most = max(1, int(min(usable or 1, cgroup.cpu_quota() or usable or 1)))
    return sorted({1, -(-most // 2), most, now})


def in_a_line(error: Exception) -> str:
    """What an error says, cut."""
    return (str(error) or repr(error)).splitlines()[0][:200]


def give_back_memory() -> None:
    """Let other programs have what the allocator of a device keeps for the next time."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


def _may_double() -> bool:
    """Whether there is memory for this process to grow to twice its size."""
    used = psutil.Process().memory_info().rss
    limit = cgroup.memory_limit()
    free = psutil.virtual_memory().available
    return used < (free if limit is None else min(free, limit - used))


def _with_threads(threads: int, timed: Callable[[], int]) -> Callable[[], int]:
    def call() -> int:
        torch.set_num_threads(threads)
        return timed()

    return call


@contextmanager
def _threads_as_now() -> Iterator[None]:
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
