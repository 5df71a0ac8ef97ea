"""The step clock: every nanosecond of the training thread belongs to exactly one phase.

Probes call `enter` and `leave` around what they watch. Nested phases are exclusive: the time of
the inner one is taken out of the outer one, so the phases of a step sum to its wall time, and
what no probe has named is `python`.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable

from msgspec.structs import replace

from stepscope.profiler.clock import RunDelay
from stepscope.profiler.format import Histogram, Mark, Steps
from stepscope.profiler.sites import CallSites
from stepscope.profiler.timeline import Timeline

_OF_ITS_OWN = ("python", "after_forward", "after_backward", "data_wait")
ABSORBING = frozenset({"validation", "checkpoint", "worker_startup", "compilation"})
"""Phases that keep everything that happens inside them."""
_END_BOTH = frozenset({"optimizer", "data_wait", "worker_startup", "validation"})
_ENDED_BY = {
    "after_forward": _END_BOTH | {"backward"},
    "after_backward": _END_BOTH | {"forward"},
}
"""Phases after which the code around them is no longer the loss that follows a forward pass, or
the update that follows a backward pass."""

_MAX_MARKS = 2000
_LOOK_AT_STEPS = (0, 1, 2, 10, 100)
_SINGLE_STEPS = 200
"""Steady steps that have a row each, however short they are."""
_ROW_NS = 10_000_000
"""Later, short steps share a row, because reading the kernel's clocks takes tens of microseconds
once a step has emptied the caches."""
_SHORT_WAIT_NS = 50_000
"""A wait this short was processor time: nothing is read at its end."""
_READ_WAITS = 16
"""So many waits after a longer one are read at both ends; then only their wall time is."""

Reading = tuple[int, int, int]
"""Processor time of the thread and of the process, and run delay of the thread, in ns."""


class Recorder:
    """Accumulates the phases of the running step and the table of finished ones.

    All methods but `steps` and `step_time` are called from the training thread only. In any other
    thread, in a forked child and after `close`, `active` is False and probes pass through.

    Args:
        warmup_steps: leading steps to keep apart from the steady state.
    """

    # Of the running step and row; `restart_step` fills them.
    _step_started_ns: int
    _row_started_ns: int
    _row_began: Reading
    _row_wall: int
    _row_wall_max: int
    _wait_cpu: int
    _wait_delay: int
    _fresh_reading: bool

    def __init__(self, warmup_steps: int) -> None:
        self.thread = threading.get_ident()
        self.warmup_steps = warmup_steps
        self.step_index = 0
        self.phases: dict[str, int] = {}
        self.absorbing: list[bool] = []
        self._ended_by: dict[int, set[int]] = {}
        self.spent: list[int] = []
        self.counters: dict[str, int] = {}
        self.counted: list[int] = []
        self.marks: list[Mark] = []
        self._discarded_marks: list[Mark] = []
        self.sites = CallSites()
        self.switches: list[tuple[int, int]] | None = None
        """Time and phase of every switch, while somebody wants to know them."""
        self.on_step: list[Callable[[], bool]] = []
        """Called after each step; True means that it took time, which then is in no step."""
        self.on_look: list[Callable[[], None]] = []
        """Called after some early steps, to look for what came up late; the time is in no step."""
        self.on_restart: list[Callable[[], None]] = []
        """Called when `discard` has begun the count of steps anew; the time is in no step."""
        self.steady_steps = 0
        """Steps recorded after warm-up, those of the operator window not counted."""
        self.in_window = False
        self.trial = False
        """Whether the user's code runs for a trial: no step begins or ends, none is recorded."""
        self.held = 0
        """Steps, the running one first, that are kept out of the tables."""
        self._run_delay = RunDelay()
        self._delay_measured = self._run_delay.available
        self._timeline = Timeline()
        self.python, self.after_forward, self.after_backward, self.wait = map(
            self.phase, _OF_ITS_OWN
        )
        self.current = self.python
        self._read_waits = _READ_WAITS
        self._wait_began: Reading | None = None
        self._row_steps = self._row_first = 0
        self._finished: tuple[list[int], list[int]] = ([], [])
        self.started_ns = self.last_ns = time.perf_counter_ns()
        self.restart_step()
        _LIVE.add(self)

    # Phases -----------------------------------------------------------------------------------

    def phase(self, name: str) -> int:
        """The number of phase `name`, made on first use."""
        number = self.phases.get(name)
        if number is None:
            number = self.phases[name] = len(self.phases)
            self.absorbing.append(name in ABSORBING)
            if name in _ENDED_BY:
                self._ended_by[number] = set()
            for ended, by in _ENDED_BY.items():
                if name in by:
                    self._ended_by[self.phases[ended]].add(number)
            self._timeline.add_phase(name)
            self.spent.append(0)
        return number

    def counter(self, name: str) -> int:
        """The number of the per-step counter `name`, made on first use."""
        number = self.counters.get(name)
        if number is None:
            number = self.counters[name] = len(self.counters)
            self._timeline.add_counter(name)
            self.counted.append(0)
        return number

    @property
    def active(self) -> bool:
        """Whether the caller is the training thread of an open recording."""
        return self.thread == threading.get_ident()

    @property
    def aside(self) -> bool:
        """Whether what runs now is kept out of the tables."""
        return self.in_window or self.trial or self.held > 0

    @property
    def steady(self) -> bool:
        """Whether what runs now belongs to a step of the steady table; safe from any thread."""
        return self.thread >= 0 and self.step_index >= self.warmup_steps and not self.aside

    def steady_phase(self) -> str | None:
        """Name of the running phase, None outside of steady steps; safe from any thread."""
        if self.thread < 0 or self.in_window or self.step_index < self.warmup_steps:
            return None
        return list(self.phases)[self.current]

    @property
    def idle(self) -> bool:
        """Whether what runs now has no name of its own."""
        return self.current == self.python or self.current in self._ended_by

    def enter(self, phase: int) -> int:
        """Switch to `phase`; returns the phase to hand to `leave`."""
        previous = self.current
        if not self.absorbing[previous]:
            now = time.perf_counter_ns()
            self.spent[previous] += now - self.last_ns
            self.last_ns = now
            self.current = phase
            if self.switches is not None:
                self.switches.append((now, phase))
            if previous in self._ended_by and phase in self._ended_by[previous]:
                return self.python
        return previous

    def begin_loss(self) -> None:
        """Call what follows `after_forward`, until something else begins or the step ends."""
        if self.current == self.python:
            self.leave(self.after_forward)

    def begin_update(self) -> None:
        """Call what follows `after_backward`, until something else begins or the step ends."""
        if self.current == self.python:
            self.leave(self.after_backward)

    def leave(self, previous: int) -> None:
        """Switch back to what `enter` returned."""
        if previous != self.current:
            now = time.perf_counter_ns()
            self.spent[self.current] += now - self.last_ns
            self.last_ns = now
            self.current = previous
            if self.switches is not None:
                self.switches.append((now, previous))

    def move(self, source: int, target: int, nanoseconds: int) -> None:
        """Charge to `target` what was charged to `source` in this row, as far as it was."""
        nanoseconds = min(nanoseconds, self.spent[source])
        self.spent[source] -= nanoseconds
        self.spent[target] += nanoseconds

    def enter_wait(self, *, at_boundary: bool = False) -> int:
        """Begin waiting for a batch; like `enter`, and notes processor time and run delay.

        Args:
            at_boundary: right after `end_step`, whose readings then serve here too.
        """
        previous = self.enter(self.wait)
        if previous != self.wait and self.current == self.wait:
            if at_boundary and self._fresh_reading:
                self._wait_began = self._row_began
            elif self._read_waits:
                self._wait_began = self._read()
            else:
                self._wait_began = None
        return previous

    def leave_wait(self, previous: int) -> None:
        """End what `enter_wait` began."""
        if previous != self.current and self.current == self.wait:
            self._end_wait(time.perf_counter_ns() - self.last_ns)
        self.leave(previous)

    def _end_wait(self, wall: int) -> None:
        began, self._wait_began = self._wait_began, None
        if wall < _SHORT_WAIT_NS:
            self._read_waits = max(0, self._read_waits - 1)
            self._wait_cpu += wall
            return
        self._read_waits = _READ_WAITS
        if began is not None:
            cpu, _, delay = self._read()
            self._wait_cpu += cpu - began[0]
            self._wait_delay += delay - began[2]

    def mark(self, kind: str, duration_ns: int = 0, detail: str | None = None) -> None:
        """Note a single event; the first 2,000 are kept."""
        if len(self.marks) < _MAX_MARKS:
            now = time.perf_counter_ns() - self.started_ns - duration_ns
            self.marks.append(
                Mark(
                    kind=kind,
                    step=self.step_index,
                    time_ns=now,
                    duration_ns=duration_ns,
                    detail=detail,
                )
            )

    # Steps ------------------------------------------------------------------------------------

    def end_step(self) -> None:
        """Close the running step and begin the next one."""
        if self.trial:
            self.restart_step()
            return
        reading = self._close_step()
        self.step_index += 1
        if self.step_index == self.warmup_steps:
            self.sites.clear()  # warm-up is kept apart here too
        used_time = self.step_index - 1 in _LOOK_AT_STEPS
        if used_time:
            self._look()
        for callback in self.on_step:
            used_time |= callback()
        if used_time:
            self.restart_step()
            return
        # What the boundary itself has cost is no part of any step.
        self.last_ns = self._step_started_ns = time.perf_counter_ns()
        if reading is not None:
            self._begin_row(self.last_ns, reading)
        else:
            self._fresh_reading = False

    def _look(self) -> None:
        for look in self.on_look:
            look()

    def _close_step(self, *, close_row: bool = False) -> Reading | None:
        """Keep the running step; returns what was read there if that ends a row."""
        now = time.perf_counter_ns()
        self.spent[self.current] += now - self.last_ns
        self.last_ns = now
        if self.current in self._ended_by:
            self.current = self.python
            if self.switches is not None:
                self.switches.append((now, self.python))
        aside = self.aside
        self._count_step(now - self._step_started_ns)
        self._step_started_ns = now
        single = self.step_index < self.warmup_steps + _SINGLE_STEPS
        if close_row or single or aside or now - self._row_started_ns >= _ROW_NS:
            reading = self._read()
            self._store(now, reading)
            return reading
        self._finished = self.spent[:], self.counted[:]
        return None

    def discard(self) -> None:
        """Begin anew with step 0, now: what was recorded so far belongs to no step."""
        self._close_step(close_row=True)
        self._timeline.discard()
        self._discarded_marks, self.marks = self._discarded_marks + self.marks, []
        self.step_index = self.steady_steps = 0
        for callback in self.on_restart:
            callback()
        self._look()
        self.restart_step()

    def take_back(self) -> None:
        """Undo all boundaries: what ran since the recording began is part of the running step."""
        self.discard()
        self.marks = [replace(mark, step=0) for mark in self._discarded_marks[:_MAX_MARKS]]
        row = self._timeline.take_discarded()
        self._step_started_ns -= row["wall_ns"]
        self._row_started_ns -= row["wall_ns"]
        cpu, process_cpu, delay = self._row_began
        self._row_began = (
            cpu - row["cpu_ns"],
            process_cpu - row["process_cpu_ns"],
            delay - row["run_delay_ns"],
        )
        self._wait_cpu += row["wait_cpu_ns"]
        self._wait_delay += row["wait_run_delay_ns"]
        for name, number in self.phases.items():
            self.spent[number] += row[f"phases.{name}"]
        for name, number in self.counters.items():
            self.counted[number] += row[f"calls.{name}"]

    def restart_step(self) -> None:
        """Forget what has run since the last step: it belongs to no step."""
        reading = self._read()
        if self._row_steps:
            self._only_finished()
            self._store(time.perf_counter_ns(), reading)
        self.last_ns = self._step_started_ns = time.perf_counter_ns()
        self._begin_row(self.last_ns, reading)

    def _only_finished(self) -> None:
        """Take out of the row what ran after its last finished step."""
        for running, finished in zip((self.spent, self.counted), self._finished, strict=True):
            running[:] = finished + [0] * (len(running) - len(finished))

    def _read(self) -> Reading:
        return time.thread_time_ns(), time.process_time_ns(), self._run_delay.nanoseconds()

    def _begin_row(self, now: int, reading: Reading) -> None:
        self._row_started_ns, self._row_began = now, reading
        self._fresh_reading = True
        self._row_wall = self._row_wall_max = 0
        self._wait_cpu = self._wait_delay = 0
        self.spent[:] = [0] * len(self.spent)
        self.counted[:] = [0] * len(self.counted)

    def _count_step(self, wall: int) -> None:
        if self.aside:
            self.held = max(0, self.held - 1)
            if self._row_steps:
                self._only_finished()
            return
        if not self._row_steps:
            self._row_first = self.step_index
        self._row_steps += 1
        self._row_wall += wall
        self._row_wall_max = max(self._row_wall_max, wall)
        if self.step_index >= self.warmup_steps:
            self.steady_steps += 1
            self._timeline.count(wall)

    def _store(self, now: int, reading: Reading) -> None:
        """Add the steps that were finished since the last row as one row."""
        if not self._row_steps:
            return
        # What was read may be later than the end of the last step.
        part = min(1.0, self._row_wall / max(1, now - self._row_started_ns))
        cpu, process_cpu, delay = (
            int(part * (after - before))
            for before, after in zip(self._row_began, reading, strict=True)
        )
        row = [
            self._row_first,
            max(0, self._row_started_ns - self.started_ns),
            self._row_steps,
            self._row_wall,
            self._row_wall_max,
            cpu,
            process_cpu,
            delay,
            min(cpu, self._wait_cpu),
            min(delay, self._wait_delay),
        ]
        kind = "steady" if self._row_first >= self.warmup_steps else "warmup"
        self._timeline.append(kind, row + self.spent + self.counted)
        self._row_steps = 0

    # Results ----------------------------------------------------------------------------------

    def steps(self, kind: str) -> Steps:
        """The finished steps of `kind` (`warmup` or `steady`); safe from any thread."""
        return self._timeline.steps(kind, delay_measured=self._delay_measured)

    def step_time(self) -> Histogram:
        """Distribution of the wall time of steady steps; safe from any thread."""
        return self._timeline.step_time()

    def close(self) -> None:
        """Stop recording: from now on probes that are still referenced pass through."""
        if self.active:
            self.restart_step()  # which completes the last row
        self.thread = -1
        self._run_delay.close()


_LIVE: weakref.WeakSet[Recorder] = weakref.WeakSet()


def _silence_in_child() -> None:
    # A forked loader worker inherits the probes and the thread's identity, but not the job.
    for recorder in list(_LIVE):
        recorder.thread = -1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_silence_in_child)
