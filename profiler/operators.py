"""From the events of torch.profiler to operators by the phase of the training thread.

An operator belongs to the phase in which it began. Those of the autograd threads of a device,
which work while the training thread is in `backward`, are told by time too.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from stepscope.profiler.format import Operator, WindowPhase
from stepscope.profiler.kineto import USER_SCOPE, Call
from stepscope.profiler.tracing import Tracing

_MAX_OPERATORS = 200
_LONG_GAP_NS = 100_000
"""Between two operators that follow each other at once lies less."""


class PhaseClock:
    """Which phase the training thread was in, by the clock of the profiler.

    Args:
        names: of the phases by number.
        tracing: which has stopped.
        marks: nanoseconds and thread of the marks that it left in the trace.

    Raises:
        ValueError: the trace holds none of the marks.
    """

    def __init__(
        self, names: list[str], tracing: Tracing, marks: Sequence[tuple[int, int]]
    ) -> None:
        if not marks:
            raise ValueError("the trace has lost its marks")
        self._names = names
        self._times = [time for time, _ in tracing.switches]
        self._phases = [number for _, number in tracing.switches]
        # The mark that took least time tells best: the event began between the two readings.
        (before, after), (start, self.thread) = min(
            zip(tracing.marks_ns, sorted(marks), strict=False),
            key=lambda pair: pair[0][1] - pair[0][0],
        )
        self._origin_ns = (before + after) // 2 - start

    def interval(self, call: Call) -> Interval:
        """Begin and end of a call by `perf_counter_ns`, with the stretch that it began in."""
        start, end = call.start + self._origin_ns, call.end + self._origin_ns
        return Interval(start, end, self._stretch(call.start))

    def phase(self, start: int) -> str | None:
        """Name of the phase at this time by the profiler's clock; None before the first switch."""
        return self.name(self._stretch(start))

    def name(self, stretch: int) -> str | None:
        """Name of the phase of a stretch."""
        return self._names[self._phases[stretch]] if stretch >= 0 else None

    def _stretch(self, start: int) -> int:
        return bisect_right(self._times, start + self._origin_ns) - 1


def span_steps(calls: Iterable[Call], clock: PhaseClock, step_ends_ns: Sequence[int]) -> bool:
    """Whether something, an annotation most likely, lasts from before a step to after it."""
    steps = list(pairwise(step_ends_ns))
    intervals = (clock.interval(call) for call in calls)
    return any(i.start < begin and i.end > end for i in intervals for begin, end in steps)


class Interval(NamedTuple):
    """From when to when, and in which stretch between two switches of phase."""

    start: int
    end: int
    stretch: int


def operator_table(
    calls: Iterable[Call], clock: PhaseClock, phases: dict[str, WindowPhase]
) -> list[Operator]:
    """The operators by name and phase, the most expensive first.

    Args:
        calls: of operators and of annotations.
        clock: tells their phases.
        phases: completed here with the time in operators and between them.
    """
    rows: dict[tuple[str, str], Operator] = {}
    outermost: dict[str, list[Interval]] = {}
    others: dict[str, list[Interval]] = {}
    for call in calls:
        if call.scope == USER_SCOPE or not call.ended:
            continue
        interval = clock.interval(call)
        phase = clock.name(interval.stretch)
        if phase not in phases:
            continue
        row = rows.setdefault(
            (call.name, phase), Operator(name=call.name, calls=0, self_cpu_ns=0, phase=phase)
        )
        row.calls += 1
        row.self_cpu_ns += call.own_ns
        row.self_device_ns += call.own_device_ns
        if _is_outermost(call):
            threads = outermost if call.thread == clock.thread else others
            threads.setdefault(phase, []).append(interval)
    for name, totals in phases.items():
        intervals = sorted(outermost.get(name, []))
        gaps = _gaps(intervals)
        if name == "backward":
            intervals = sorted([*intervals, *others.get(name, [])])
        totals.calls = len(intervals)
        totals.operator_ns = min(totals.wall_ns, _union(intervals))
        totals.gap_ns = min(totals.wall_ns - totals.operator_ns, gaps)
    table = sorted(rows.values(), key=lambda r: r.self_cpu_ns + r.self_device_ns, reverse=True)
    return table[:_MAX_OPERATORS]


def _is_outermost(call: Call) -> bool:
    caller = call.caller
    while caller is not None and caller.scope == USER_SCOPE:
        caller = caller.caller
    return caller is None


def _gaps(intervals: list[Interval]) -> int:
    gaps = (
        after.start - before.end
        for before, after in pairwise(intervals)
        if before.stretch == after.stretch
    )
    return sum(gap for gap in gaps if 0 < gap < _LONG_GAP_NS)


def _union(intervals: list[Interval]) -> int:
    total = covered = 0
    for start, end, _ in intervals:
        total += max(0, end - max(start, covered))
        covered = max(covered, end)
    return total
