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

from stepscope.profiler.format import Operator, Window
from stepscope.profiler.recorder import Recorder

_MAX_OPERATORS = 200
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
            self._recorder.in_window = False
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
        self._recorder.in_window = True
        self._forward_backward_ns = 0
        self._began_ns = time.perf_counter_ns()

    def _note_phases(self) -> None:
        recorder = self._recorder
        for name in ("forward", "backward"):
            self._forward_backward_ns += recorder.spent[recorder.phase(name)]

    def _stop(self) -> None:
        self._note_phases()
        wall = time.perf_counter_ns() - self._began_ns
        profiler, self._profiler = self._profiler, None
        self._recorder.in_window = False
        with _quiet_kineto():
            profiler.stop()
        self.result = Window(
            first_step=self._first,
            steps=self._steps,
            wall_ns=wall,
            forward_backward_ns=self._forward_backward_ns,
            **_operators(profiler),
        )

    def close(self) -> None:
        """Stop a window that the end of the loop has cut; it is not used."""
        if self._profiler is not None:
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


def _operators(profiler: Any) -> dict[str, Any]:
    """The operator table, without what the data loader called."""
    rows: dict[tuple[str, bool], Operator] = {}
    top_level_us = 0.0
    for event in profiler.events():
        ancestors = _ancestors(event)
        if any(name.startswith("enumerate(DataLoader)") for name in ancestors):
            continue
        in_optimizer = any(name.startswith("Optimizer.") for name in ancestors)
        if not in_optimizer and event.cpu_parent is None:
            top_level_us += event.cpu_time_total
        row = rows.setdefault(
            (event.name, in_optimizer),
            Operator(name=event.name, calls=0, self_cpu_ns=0, in_optimizer=in_optimizer),
        )
        row.calls += 1
        row.self_cpu_ns += int(event.self_cpu_time_total * 1000)
        row.self_device_ns += int(_device_us(event) * 1000)
    table = sorted(rows.values(), key=lambda r: r.self_cpu_ns + r.self_device_ns, reverse=True)
    return {"operators": table[:_MAX_OPERATORS], "top_level_cpu_ns": int(top_level_us * 1000)}


def _ancestors(event: Any) -> list[str]:
    names = []
    while event is not None:
        names.append(event.name)
        event = event.cpu_parent
    return names


def _device_us(event: Any) -> float:
    # torch < 2.4 calls it by the device's name
    value = getattr(event, "self_device_time_total", None)
    return float(value if value is not None else getattr(event, "self_cuda_time_total", 0.0))
