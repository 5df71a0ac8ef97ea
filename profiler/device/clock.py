"""When the device reaches the places at which the training thread changes its phase.

An event is recorded at each change and read a few steps later, once the device has passed it:
nothing here waits for the device. Steps are left out as often as it takes to stay below a fixed
part of the run.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, NamedTuple

import torch

from stepscope.profiler.columns import SummedRows
from stepscope.profiler.device.division import ClockBridge, Moment, divide
from stepscope.profiler.format import DeviceTimes, Steps

OWN_SHARE = 0.004
"""Part of the steps' time that recording and reading events may take: 40 us of 10 ms."""
_EVENTS = 24
"""Most events in a step; beyond, its last stretch is one."""
_IN_FLIGHT = 8
"""Steps by which the device may be behind and still be followed."""
_SAME_NS = 10_000
"""Changes that follow each other within this time share an event."""
_MOST_SKIPPED = 200
_FIXED = ("first", "count", "wall_ns", "wall_max_ns")


class _Mark(NamedTuple):
    host_ns: int
    event: Any
    phase: str


class _Step(NamedTuple):
    number: int | None
    """None where only the clocks are to be compared."""
    marks: list[_Mark]


class DeviceClock:
    """Follows one device from the training thread.

    Args:
        device: number of the device.
        problem: told once why it is not followed any longer.
    """

    # Of the steps that were followed so far; `begin_anew` fills them.
    _table: SummedRows
    _skip: int
    _wall_ns: int
    _own_ns: int
    _events: int
    _lost: int

    def __init__(self, device: int, problem: Callable[[str], None]) -> None:
        self._device = device
        self._problem = problem
        self._broken = False
        self._free: list[Any] = []
        self._made = 0
        self._marks: list[_Mark] = []
        """Of the running step; empty where it is left out."""
        self._crowded = False
        self._waiting: deque[_Step] = deque()
        self._last: tuple[Any, int] | None = None
        """The last event that was read, and its time on the device's clock."""
        self._bridge = ClockBridge()
        self._lock = threading.Lock()
        self.begin_anew()

    # Called at each change of phase -------------------------------------------------------------

    def switch(self, now_ns: int, phase: str) -> None:
        """The training thread changes to `phase`."""
        marks = self._marks
        if not marks:
            return
        if now_ns - marks[-1].host_ns < _SAME_NS:
            marks[-1] = marks[-1]._replace(phase=phase)
        elif len(marks) < _EVENTS:
            self._mark(now_ns, phase)
        else:
            self._crowded = True
        self._own_ns += time.perf_counter_ns() - now_ns

    def begin_step(self, phase: str) -> None:
        """A step begins that may be followed; one in so many is."""
        if self._skip:
            self._skip -= 1
        elif not self._broken and len(self._waiting) < _IN_FLIGHT:
            now = time.perf_counter_ns()
            self._mark(now, phase)
            self._own_ns += time.perf_counter_ns() - now

    def end_step(self, index: int | None) -> None:
        """The running step ends; `read` comes next.

        Args:
            index: of the step; None for one of the warm-up, of which only the clocks are compared:
                that goes best at the start of a run, before the device is behind.
        """
        begin = time.perf_counter_ns()
        if self._marks:
            self._mark(begin, "")
        marks, self._marks = self._marks, []
        if marks and not self._crowded:
            self._waiting.append(_Step(index, marks))
        elif marks:
            self._recycle(marks)
            self._lost += 1
        self._crowded = False
        self._own_ns += time.perf_counter_ns() - begin
        if marks:
            self._wall_ns += begin - marks[0].host_ns
            share = self._own_ns / max(1, self._wall_ns)
            self._skip = min(_MOST_SKIPPED, int(share / OWN_SHARE))

    def read(self) -> None:
        """Read what the device has passed; the rest is not waited for."""
        if self._waiting:
            begin = time.perf_counter_ns()
            self._guarded(self._read)
            self._own_ns += time.perf_counter_ns() - begin

    def begin_anew(self) -> None:
        """Forget the steps that were followed so far."""
        self._waiting = deque(step._replace(number=None) for step in self._waiting)
        self._skip = self._wall_ns = self._own_ns = self._events = self._lost = 0
        with self._lock:
            self._table = SummedRows(_FIXED, maxima=("wall_max_ns",), firsts=("first",))

    def drop_step(self) -> None:
        """Forget the running step."""
        self._recycle(self._marks)
        self._marks = []
        self._crowded = False

    # Events -------------------------------------------------------------------------------------

    def _mark(self, now_ns: int, phase: str) -> None:
        self._guarded(lambda: self._record(now_ns, phase))

    def _record(self, now_ns: int, phase: str) -> None:
        if torch.cuda.is_current_stream_capturing():  # an event would become part of the graph
            self._lost += 1
            self.drop_step()
            return
        if not self._free:
            if self._made >= _EVENTS * _IN_FLIGHT:
                self._lost += 1
                self.drop_step()
                return
            self._free.append(torch.cuda.Event(enable_timing=True))  # type: ignore[no-untyped-call]
            self._made += 1
        event = self._free.pop()
        event.record(torch.cuda.current_stream(self._device))
        self._marks.append(_Mark(now_ns, event, phase))
        self._events += 1

    def _recycle(self, marks: Iterable[_Mark]) -> None:
        self._free += [mark.event for mark in marks]

    def _guarded(self, action: Callable[[], None]) -> None:
        """An error of the driver ends the following, never the loop."""
        try:
            action()
        except Exception as error:
            self._broken = True
            self._marks, self._free = [], []
            self._waiting.clear()
            self._problem(f"the device's time was not followed to the end: {error!r}")

    # What the device has passed -----------------------------------------------------------------

    def _read(self) -> None:
        if torch.cuda.is_current_stream_capturing():
            return
        while self._waiting and self._waiting[0].marks[-1].event.query():
            seen = time.perf_counter_ns()
            self._add(self._waiting.popleft(), seen)

    def _add(self, step: _Step, seen_ns: int) -> None:
        marks = step.marks
        reached = [0]
        if self._last is not None:
            event, at = self._last
            reached = [at + _nanoseconds(event, marks[0].event)]
            self._free.append(event)
        for one, next_ in pairwise(marks):
            reached.append(reached[-1] + _nanoseconds(one.event, next_.event))
        self._last = marks[-1].event, reached[-1]
        self._recycle(marks[:-1])
        on_host = self._bridge.on_host([mark.host_ns for mark in marks], reached, seen_ns)
        moments = [
            Moment(mark.host_ns, at, mark.phase) for mark, at in zip(marks, on_host, strict=True)
        ]
        spent = divide(moments)
        if step.number is not None and sum(spent.values()) > 0:
            self._store(step.number, spent)

    def _store(self, index: int, spent: dict[str, int]) -> None:
        wall = sum(spent.values())
        with self._lock:
            names = self._table.names
            for name in spent:
                if name not in names[len(_FIXED) :]:
                    self._table.insert_column(len(names), name)
            phases = [spent.get(name, 0) for name in names[len(_FIXED) :]]
            self._table.append([index, 1, wall, wall, *phases])

    def result(self) -> DeviceTimes | None:
        """What was read so far, if anything; safe from any thread."""
        with self._lock:
            columns = self._table.as_lists()
        if not columns["first"]:
            return None
        first, count, wall, longest = (columns.pop(name) for name in _FIXED)
        return DeviceTimes(
            device=self._device,
            steps=Steps(
                first=first, count=count, wall_ns=wall, wall_max_ns=longest, phases=columns
            ),
            events=self._events,
            own_ns=self._own_ns,
            lost_steps=self._lost,
        )


def _nanoseconds(one: Any, next_: Any) -> int:
    milliseconds: float = one.elapsed_time(next_)
    return round(milliseconds * 1e6)
