"""The scheduled short torch.profiler window: a few steps, for the operator table.

Recording slows a step, so these steps are kept out of the timeline, and starting and stopping
are charged to the profiler, not to a step.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

from stepscope.profiler.format import Window, WindowPhase
from stepscope.profiler.operators import PhaseClock, operator_table
from stepscope.profiler.recorder import Recorder

_CLOCK = "stepscope.clock"
_CLOCK_MARKS = 5
_LOG_LEVEL = "KINETO_LOG_LEVEL"


class OperatorWindow:
    """Records steps `first` to `first + steps - 1` once.

    Args:
        recorder: whose steps are counted.
        after: how many steady steps go before the window.
        steps: how many to record; 0 switches the window off.
        problem: told if the window could not be recorded.
    """

    def __init__(
        self, recorder: Recorder, after: int, steps: int, problem: Callable[[str], None]
    ) -> None:
        self.result: Window | None = None
        self.own_ns = 0
        self._recorder = recorder
        self._after, self._steps = after, steps
        self._first = -1
        self._problem = problem
        self._profiler: Any = None
        self._began_ns = 0
        if steps > 0:
            recorder.on_step.append(self._step)
            recorder.on_restart.append(self._begin_anew)

    def _step(self) -> bool:
        """Called after each step: begin or end at the boundary."""
        index = self._recorder.step_index
        if self._profiler is not None:
            last = index == self._first + self._steps
            self._guard(self._stop if last else self._note_phases)
        elif self._first < 0 and index == self._recorder.warmup_steps + self._after:
            self._first = index
            self._guard(self._start)
        else:
            return False
        return True

    def _guard(self, action: Callable[[], None]) -> None:
        begin = time.perf_counter_ns()
        try:
            action()
        except Exception as error:  # another profiler may be running; training goes on
            self._forget_switches()
            self._profiler = None
            self._problem(f"the operator window could not be recorded: {error!r}")
        self.own_ns += time.perf_counter_ns() - begin

    def _start(self) -> None:
        if _another_profiler():
            self._problem("the program uses torch.profiler itself: no operator table")
            return
        activities = [torch.profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self._profiler = torch.profiler.profile(activities=activities)
        with _quiet_kineto():
            self._profiler.start()
        self._marks_ns = [_mark() for _ in range(_CLOCK_MARKS)]
        recorder = self._recorder
        recorder.in_window = True
        self._phase_ns: dict[str, int] = {}
        self._began_ns = time.perf_counter_ns()
        recorder.switches = [(self._began_ns, recorder.current)]

    def _note_phases(self) -> None:
        for name, spent in zip(self._recorder.phases, self._recorder.spent, strict=True):
            if spent:
                self._phase_ns[name] = self._phase_ns.get(name, 0) + spent

    def _stop(self) -> None:
        self._note_phases()
        wall = time.perf_counter_ns() - self._began_ns
        profiler, self._profiler = self._profiler, None
        switches = self._forget_switches()
        with _quiet_kineto():
            profiler.stop()
        events = list(profiler.events())
        marks = [event for event in events if event.name == _CLOCK]
        clock = PhaseClock(list(self._recorder.phases), switches, marks, self._marks_ns)
        phases = {
            name: WindowPhase(wall_ns=spent, operator_ns=0)
            for name, spent in self._phase_ns.items()
        }
        self.result = Window(
            first_step=self._first,
            steps=self._steps,
            wall_ns=wall,
            phases=phases,
            operators=operator_table(events, clock, phases),
        )

    def _forget_switches(self) -> list[tuple[int, int]]:
        self._recorder.in_window = False
        switches, self._recorder.switches = self._recorder.switches or [], None
        return switches

    def _begin_anew(self) -> None:
        """Forget the window: its steps turned out to be none."""
        self.close()
        self._first, self.result = -1, None

    def close(self) -> None:
        """Stop a window that the end of the loop has cut; it is not used."""
        if self._profiler is not None:
            self._forget_switches()
            with suppress(Exception):
                self._profiler.stop()
            self._profiler = None


def _another_profiler() -> bool:
    """Whether one is running, or may yet be started: starting it inside ours would break both."""
    if torch.autograd._profiler_enabled():  # type: ignore[attr-defined]
        return True
    for x in gc.get_objects():
        if issubclass(type(x), torch.profiler.profile):
            inner = getattr(x, "profiler", None)
            if x.record_steps or getattr(inner, "kineto_results", None) is None:
                return True
    return False


@contextmanager
def _quiet_kineto() -> Iterator[None]:
    """Some versions of PyTorch's tracer greet on standard error; this loop did not ask for it."""
    if _LOG_LEVEL in os.environ:
        yield
        return
    os.environ[_LOG_LEVEL] = "6"
    try:
        yield
    finally:
        os.environ.pop(_LOG_LEVEL, None)


def _mark() -> tuple[int, int]:
    """Leave a mark in the trace; returns the clock before and after."""
    before = time.perf_counter_ns()
    with torch.profiler.record_function(_CLOCK):
        return before, time.perf_counter_ns()
