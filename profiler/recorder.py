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

from stepscope.profiler.clock import RunDelay
from stepscope.profiler.columns import GROWTH, LogHistogram, SummedRows
from stepscope.profiler.format import Histogram, Mark, Steps

PYTHON = "python"
WAIT = "data_wait"
ABSORBING = frozenset({"validation", "checkpoint", "worker_startup"})
"""Phases that keep everything that happens inside them."""

_FIXED = (
    "first",
    "count",
    "wall_ns",
    "wall_max_ns",
    "cpu_ns",
    "process_cpu_ns",
    "run_delay_ns",
    "wait_cpu_ns",
    "wait_run_delay_ns",
)
_MAX_MARKS = 2000


class Recorder:
    """Accumulates the phases of the running step and the table of finished ones.

    All methods but `steps` and `step_time` are called from the training thread only. In any other
    thread, in a forked child and after `close`, `active` is False and probes pass through.

    Args:
        warmup_steps: leading steps to keep apart from the steady state.
    """

    def __init__(self, warmup_steps: int) -> None:
        self.thread = threading.get_ident()
        self.warmup_steps = warmup_steps
        self.step_index = 0
        self.phases: dict[str, int] = {}
        self.absorbing: list[bool] = []
        self.spent: list[int] = []
        self.counters: dict[str, int] = {}
        self.counted: list[int] = []
        self.marks: list[Mark] = []
        self.on_step: list[Callable[[], bool]] = []
        """Called after each step; True means that it took time, which then is in no step."""
        self.in_window = False
        self.lock = threading.Lock()
        self._run_delay = RunDelay()
        self._delay_measured = self._run_delay.available
        self._tables = {kind: _step_table() for kind in ("warmup", "steady")}
        self._histogram = LogHistogram()
        self.python = self.phase(PYTHON)
        self.wait = self.phase(WAIT)
        self.current = self.python
        self.started_ns = self.last_ns = time.perf_counter_ns()
        self.restart_step()
        _LIVE.add(self)

    # Phases -----------------------------------------------------------------------------------

    def phase(self, name: str) -> int:
        """The number of phase `name`, made on first use."""
        number = self.phases.get(name)
        if number is None:
            with self.lock:
                number = self.phases[name] = len(self.phases)
                self.absorbing.append(name in ABSORBING)
                self._insert_column(len(_FIXED) + number, f"phases.{name}")
                self.spent.append(0)
        return number

    def counter(self, name: str) -> int:
        """The number of the per-step counter `name`, made on first use."""
        number = self.counters.get(name)
        if number is None:
            with self.lock:
                number = self.counters[name] = len(self.counters)
                self._insert_column(len(_FIXED) + len(self.phases) + number, f"calls.{name}")
                self.counted.append(0)
        return number

    def _insert_column(self, position: int, name: str) -> None:
        for table in self._tables.values():
            table.insert_column(position, name)

    @property
    def active(self) -> bool:
        """Whether the caller is the training thread of an open recording."""
        return self.thread == threading.get_ident()

    def enter(self, phase: int) -> int:
        """Switch to `phase`; returns the phase to hand to `leave`."""
        previous = self.current
        if not self.absorbing[previous]:
            now = time.perf_counter_ns()
            self.spent[previous] += now - self.last_ns
            self.last_ns = now
            self.current = phase
        return previous

    def leave(self, previous: int) -> None:
        """Switch back to what `enter` returned."""
        if previous != self.current:
            now = time.perf_counter_ns()
            self.spent[self.current] += now - self.last_ns
            self.last_ns = now
            self.current = previous

    def enter_wait(self, *, at_boundary: bool = False) -> int:
        """Begin waiting for a batch; like `enter`, and notes processor time and run delay.

        Args:
            at_boundary: right after `end_step`, whose readings then serve here too.
        """
        previous = self.enter(self.wait)
        if previous != self.wait and self.current == self.wait:
            if at_boundary:
                self._wait_cpu -= self._cpu_at_start
                self._wait_delay -= self._delay_at_start
            else:
                self._wait_cpu -= time.thread_time_ns()
                self._wait_delay -= self._run_delay.nanoseconds()
        return previous

    def leave_wait(self, previous: int) -> None:
        """End what `enter_wait` began."""
        if previous != self.current and self.current == self.wait:
            self._wait_cpu += time.thread_time_ns()
            self._wait_delay += self._run_delay.nanoseconds()
        self.leave(previous)

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
        now = time.perf_counter_ns()
        self.spent[self.current] += now - self.last_ns
        self.last_ns = now
        cpu, process_cpu = time.thread_time_ns(), time.process_time_ns()
        delay = self._run_delay.nanoseconds()
        if not self.in_window:
            wall = now - self._step_started_ns
            row = [
                self.step_index,
                1,
                wall,
                wall,
                cpu - self._cpu_at_start,
                process_cpu - self._process_cpu_at_start,
                delay - self._delay_at_start,
                self._wait_cpu,
                self._wait_delay,
            ]
            self._store(row + self.spent + self.counted, wall)
        self.step_index += 1
        used_time = False
        for callback in self.on_step:
            used_time |= callback()
        if used_time:
            self.restart_step()
        else:
            self._begin_step(now, cpu, process_cpu, delay)

    def restart_step(self) -> None:
        """Forget what has run since the last step: it belongs to no step."""
        self.last_ns = time.perf_counter_ns()
        self._begin_step(
            self.last_ns,
            time.thread_time_ns(),
            time.process_time_ns(),
            self._run_delay.nanoseconds(),
        )

    def _begin_step(self, now: int, cpu: int, process_cpu: int, delay: int) -> None:
        self._step_started_ns = now
        self._cpu_at_start, self._process_cpu_at_start = cpu, process_cpu
        self._delay_at_start = delay
        self._wait_cpu = self._wait_delay = 0
        self.spent[:] = [0] * len(self.spent)
        self.counted[:] = [0] * len(self.counted)

    def _store(self, row: list[int], wall: int) -> None:
        warm = self.step_index >= self.warmup_steps
        with self.lock:
            self._tables["steady" if warm else "warmup"].append(row)
        if warm:
            self._histogram.add(wall)

    # Results ----------------------------------------------------------------------------------

    def steps(self, kind: str) -> Steps:
        """The finished steps of `kind` (`warmup` or `steady`); safe from any thread."""
        with self.lock:
            columns = self._tables[kind].as_lists()
        measured = self._delay_measured
        return Steps(
            **{name: columns[name] for name in _FIXED if "delay" not in name},
            run_delay_ns=columns["run_delay_ns"] if measured else None,
            wait_run_delay_ns=columns["wait_run_delay_ns"] if measured else None,
            phases=_prefixed(columns, "phases."),
            calls=_prefixed(columns, "calls."),
        )

    def step_time(self) -> Histogram:
        """Distribution of the wall time of steady steps; safe from any thread."""
        with self.lock:
            counts = sorted(self._histogram.counts.items())
        return Histogram(
            growth=GROWTH, bins=[bin_ for bin_, _ in counts], counts=[count for _, count in counts]
        )

    def close(self) -> None:
        """Stop recording: from now on probes that are still referenced pass through."""
        self.thread = -1
        self._run_delay.close()


def _step_table() -> SummedRows:
    return SummedRows(_FIXED, maxima=("wall_max_ns",), firsts=("first",))


def _prefixed(columns: dict[str, list[int]], prefix: str) -> dict[str, list[int]]:
    return {
        name.removeprefix(prefix): column
        for name, column in columns.items()
        if name.startswith(prefix)
    }


_LIVE: weakref.WeakSet[Recorder] = weakref.WeakSet()


def _silence_in_child() -> None:
    # A forked loader worker inherits the probes and the thread's identity, but not the job.
    for recorder in list(_LIVE):
        recorder.thread = -1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_silence_in_child)
