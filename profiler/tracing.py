"""torch.profiler switched on for some steps, its clock tied to the phases of the recorder."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from stepscope.profiler.recorder import Recorder

CLOCK = "stepscope.clock"
"""Name of the marks that are left in the trace."""
_MARKS = 5
_LOG_LEVEL = "KINETO_LOG_LEVEL"


class Tracing:
    """A torch.profiler that is running; these steps belong to no table of the recorder.

    Args:
        recorder: whose phases are followed.
        shapes: record the shapes of operators' arguments too.
    """

    def __init__(self, recorder: Recorder, *, shapes: bool) -> None:
        self._recorder = recorder
        activities = [torch.profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available() and not shapes:  # what runs on a device has been timed before
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self.profiler: Any = torch.profiler.profile(activities=activities, record_shapes=shapes)
        with quiet_kineto():
            self.profiler.start()
        self.marks_ns = [_mark() for _ in range(_MARKS)]
        self.phase_ns: dict[str, int] = {}
        """Time by phase, of the steps that `note_phases` was called after."""
        self.switches: list[tuple[int, int]] = []
        """Time and phase of every switch; complete when it has stopped."""
        self.step_ends_ns: list[int] = []
        self.wall_ns = 0
        recorder.in_window = True
        self._began_ns = time.perf_counter_ns()
        recorder.switches = [(self._began_ns, recorder.current)]

    def note_phases(self) -> None:
        """Add up the phases of the step that has just ended."""
        self.step_ends_ns.append(time.perf_counter_ns())
        for name, spent in zip(self._recorder.phases, self._recorder.spent, strict=True):
            if spent:
                self.phase_ns[name] = self.phase_ns.get(name, 0) + spent

    def stop(self) -> None:
        """End after a step."""
        self.note_phases()
        self.wall_ns = time.perf_counter_ns() - self._began_ns
        self.abandon()

    def abandon(self) -> None:
        """End anywhere."""
        self._recorder.in_window = False
        self.switches, self._recorder.switches = self._recorder.switches or [], None
        with quiet_kineto():
            self.profiler.stop()


@contextmanager
def quiet_kineto() -> Iterator[None]:
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
    with torch.profiler.record_function(CLOCK):
        return before, time.perf_counter_ns()
