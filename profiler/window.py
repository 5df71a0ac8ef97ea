"""The scheduled short torch.profiler window: a few steps, for the operator table.

Recording slows a step, so these steps are kept out of the timeline, and starting and stopping
are charged to the profiler, not to a step. Recording the shapes of arguments slows it more, and
would shift what is dispatch and what is work, so that it is done in one more step by itself.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from contextlib import suppress

import torch

from stepscope.profiler.counting import count
from stepscope.profiler.format import Window, WindowPhase
from stepscope.profiler.kineto import calls
from stepscope.profiler.operators import PhaseClock, operator_table, span_steps
from stepscope.profiler.recorder import Recorder
from stepscope.profiler.tracing import CLOCK, Tracing

_GAP = 1
"""Steps between the two recordings. A step may end inside of an operator or annotation (of the
optimizer, of the loader), which then ends in the next one: if another recording ran by then,
PyTorch would write into memory of the first, which is freed, and the process would crash."""


class OperatorWindow:
    """Records steps `first` to `first + steps - 1` once, and the shapes in one soon after them.

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
        self._tracing: Tracing | None = None
        self._spanned = False
        """Whether annotations last for several steps, so that a gap of one does not do."""
        if steps > 0:
            recorder.on_step.append(self._step)
            recorder.on_restart.append(self._begin_anew)

    def _step(self) -> bool:
        """Called after each step: begin or end at the boundary."""
        index = self._recorder.step_index
        if self._tracing is not None:
            if index == self._first + self._steps:
                self._guard(self._read_times, "the operator window")
            elif index > self._first + self._steps:
                self._guard(self._read_shapes, "the shapes of operators' arguments")
            else:
                self._guard(self._tracing.note_phases, "the operator window")
        elif self._first < 0 and index == self._recorder.warmup_steps + self._after:
            self._first = index
            self._guard(self._start, "the operator window")
        elif self._first >= 0 and index == self._first + self._steps + _GAP:
            self._guard(self._start_counting, "the shapes of operators' arguments")
        else:
            return False
        return True

    def _guard(self, action: Callable[[], None], what: str) -> None:
        begin = time.perf_counter_ns()
        try:
            action()
        except Exception as error:  # another profiler may be running; training goes on
            self.close()
            self._problem(f"{what} could not be recorded: {error!r}")
        self.own_ns += time.perf_counter_ns() - begin

    def _start(self) -> None:
        if another_profiler():
            self._problem("the program uses torch.profiler itself: no operator table")
        else:
            self._tracing = Tracing(self._recorder, shapes=False)

    def _read_times(self) -> None:
        tracing, self._tracing = self._tracing, None
        assert tracing is not None
        tracing.stop()
        recorded = calls(tracing.profiler)
        marks = [(call.start, call.thread) for call in recorded if call.name == CLOCK]
        clock = PhaseClock(list(self._recorder.phases), tracing, marks)
        phases = {
            name: WindowPhase(wall_ns=spent, operator_ns=0)
            for name, spent in tracing.phase_ns.items()
        }
        self.result = Window(
            first_step=self._first,
            steps=self._steps,
            wall_ns=tracing.wall_ns,
            phases=phases,
            operators=operator_table(recorded, clock, phases),
        )
        self._spanned = span_steps(recorded, clock, tracing.step_ends_ns)

    def _start_counting(self) -> None:
        if self._spanned:
            self._problem("annotations last for several steps: operators' work is not counted")
        elif self.result is not None and not another_profiler():
            self._tracing = Tracing(self._recorder, shapes=True)

    def _read_shapes(self) -> None:
        tracing, self._tracing = self._tracing, None
        assert tracing is not None
        assert self.result is not None
        tracing.stop()
        step = self._recorder.step_index - 1
        self.result.counted = count(tracing, list(self._recorder.phases), step)

    def _begin_anew(self) -> None:
        """Forget the window: its steps turned out to be none."""
        self.close()
        self._first, self.result = -1, None

    def close(self) -> None:
        """Stop a window that the end of the loop has cut; it is not used."""
        tracing, self._tracing = self._tracing, None
        if tracing is not None:
            with suppress(Exception):
                tracing.abandon()


def another_profiler() -> bool:
    """Whether one is running, or may yet be started: starting it inside ours would break both."""
    if torch.autograd._profiler_enabled():  # type: ignore[attr-defined]
        return True
    for x in gc.get_objects():
        if issubclass(type(x), torch.profiler.profile):
            inner = getattr(x, "profiler", None)
            if x.record_steps or getattr(inner, "kineto_results", None) is None:
                return True
    return False
