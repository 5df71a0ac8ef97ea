"""From the events of a step whose operators' arguments were recorded to the work of each operator.

Operators call each other (`aten::linear` calls `aten::addmm`), and only one of them does the work:
of two of a kind that have a formula, the inner one. Its time is what it took without the inner
ones that have work of their own; what is in no such operator is in rows of the kind `other`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch._C._autograd import DeviceType

from stepscope.profiler.format import Counted, OperatorWork
from stepscope.profiler.kineto import USER_SCOPE, duration_ns, start_ns
from stepscope.profiler.operators import PhaseClock
from stepscope.profiler.tracing import CLOCK, Tracing
from stepscope.profiler.work import LAYERS, Work, has_formula, work_of

_MAX_OTHERS = 100
_NOTHING = Work("other", None, None, None)


@dataclass
class _Call:
    """A call of an operator that has not ended yet."""

    name: str
    start: int
    end: int
    work: Work | None
    recomputed: bool
    passed_on: bool = False
    """Whether one inside does the work."""
    inner: int = 0
    """Time in calls inside."""
    idle: list[tuple[str, int]] = field(default_factory=list)
    """Those of them that have no work of their own, and are in none that has: name, own time."""


def count(tracing: Tracing, phases: list[str], step: int) -> Counted:
    """The work of the operators of one step.

    Args:
        tracing: of the step, with shapes, stopped.
        phases: names of the recorder's phases by number.
        step: index of the step.
    """
    events = [
        event
        for event in tracing.profiler.profiler.kineto_results.events()
        if event.device_type() == DeviceType.CPU and not event.is_async()
    ]
    marks = [(start_ns(e), e.start_thread_id()) for e in events if e.name() == CLOCK]
    table = _Table(PhaseClock(phases, tracing, marks))
    threads = defaultdict(list)
    for event in events:
        if event.scope() != USER_SCOPE:
            start = start_ns(event)
            threads[event.start_thread_id()].append((start, -(start + duration_ns(event)), event))
    for calls in threads.values():
        calls.sort(key=lambda call: call[:2])
        table.add_thread(calls)
    rows = sorted(table.rows.values(), key=lambda row: -(row.time_ns or 0))
    others = [row for row in rows if row.kind == "other"]
    return Counted(
        first_step=step,
        steps=1,
        wall_ns=tracing.wall_ns,
        operators=[row for row in rows if row.kind != "other"] + others[:_MAX_OTHERS],
    )


class _Table:
    def __init__(self, clock: PhaseClock) -> None:
        self.rows: dict[tuple[Any, ...], OperatorWork] = {}
        self._clock = clock

    def add_thread(self, calls: Sequence[tuple[int, int, Any]]) -> None:
        """Calls of one thread, an outer one before the inner ones: start, minus end, event."""
        open_: list[_Call] = []
        for start, minus_end, event in calls:
            while open_ and open_[-1].end <= start:
                self._close(open_)
            name = event.name()
            work = _work(event, name) if has_formula(name) else None
            if work is not None and work.flops is None and _is_known(open_, work):
                work = None
            if work is not None:
                for outer in open_:
                    outer.passed_on |= outer.work is not None and outer.work.kind == work.kind
            recomputed = name in LAYERS or bool(open_ and open_[-1].recomputed)
            open_.append(_Call(name, start, -minus_end, work, recomputed))
        while open_:
            self._close(open_)

    def _close(self, open_: list[_Call]) -> None:
        call = open_.pop()
        wall = call.end - call.start
        own = max(0, wall - call.inner)
        if call.work is not None and not call.passed_on:
            spent = own + sum(time for _, time in call.idle)
            self._add(call, call.name, call.work, spent)
            call.idle.clear()
        else:
            call.idle.append((call.name, own))
        if open_:
            open_[-1].inner += wall
            open_[-1].idle += call.idle
        else:
            for name, time in call.idle:
                self._add(call, name, _NOTHING, time)

    def _add(self, call: _Call, name: str, work: Work, own: int) -> None:
        phase = self._clock.phase(call.start)
        if phase is None:
            return
        # What is not known of one call is known of none: a sum of some would look like all.
        key = (name, phase, work.dtype, work.flops is None, work.bytes is None)
        row = self.rows.get(key)
        if row is None:
            row = self.rows[key] = OperatorWork(
                name=name,
                phase=phase,
                dtype=work.dtype,
                kind=work.kind,
                calls=0,
                time_ns=0,
                flops=None if work.flops is None else 0,
                bytes=None if work.bytes is None else 0,
            )
        row.calls += 1
        row.time_ns = (row.time_ns or 0) + own
        if row.flops is not None and work.flops is not None:
            row.flops += work.flops
            row.recomputed_flops += work.flops * (call.recomputed and phase == "backward")
            row.misaligned_flops += work.flops * (not work.aligned)
        if row.bytes is not None and work.bytes is not None:
            row.bytes += work.bytes


def _is_known(around: Sequence[_Call], inner: Work) -> bool:
    """Whether one around a call of unknown work tells what it is."""
    known = (outer.work for outer in around if outer.work is not None)
    return any(work.kind == inner.kind and work.flops is not None for work in known)


def _work(event: Any, name: str) -> Work | None:
    # Older versions tell no shapes of tensors in lists.
    shapes = event.structured_input_shapes if _tells_lists(event) else event.shapes
    return work_of(name, shapes(), event.dtypes(), event.concrete_inputs())


def _tells_lists(event: Any) -> bool:
    return hasattr(event, "structured_input_shapes")
