"""Many ranks as one job: each trace becomes a summary, and two summaries become one.

Merging is associative and commutative up to the tables of operators and kernels, of which the
largest are kept; a summary's size depends on the steps and collectives of a rank, not on the
number of ranks. A collective takes as long as its shortest rank: that one came last, and the
others waited for it (this needs no common clock; torch-tb-profiler has the same rule).
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from msgspec import Struct, field, structs

from stepscope.advisor.traces.legs import Legs, paths_of
from stepscope.advisor.traces.load import Analysed, analyse
from stepscope.advisor.traces.profile import profile_of, rank_of
from stepscope.advisor.traces.rank_paths import Paths, job_path, joined
from stepscope.advisor.traces.sums import histogram_of
from stepscope.profiler.format import (
    Annotation,
    Copies,
    Kernel,
    KernelCategory,
    Operator,
    Profile,
    Ranks,
    RuntimeCalls,
    Steps,
    Straggler,
    Trace,
    Window,
)

_MOST = 100
_MOST_STRAGGLERS = 5
_NOTEWORTHY = 0.02
"""Part of the time below which waiting for a rank is the usual noise."""
Row = TypeVar("Row", Operator, Kernel, KernelCategory, Copies, RuntimeCalls, Annotation)


class Meeting(Struct):
    """One collective over the ranks that took part."""

    ranks: int
    total_ns: int
    shortest_ns: int
    last: int
    """The rank for which it was shortest: the last to come."""


class Step(Struct):
    """One step over the ranks that recorded it: sums."""

    ranks: int
    phases: dict[str, int]
    meetings: list[Meeting] = field(default_factory=list)


class Summary(Struct):
    """What is kept of one rank, or of many."""

    profile: Profile
    """Of the lowest rank, its tables summed over all of them."""
    steps: dict[int, Step]
    files: list[tuple[int, int]]
    """Rank and first step of each trace."""
    own_ns: int
    """Time devices worked, collectives left out, summed over the ranks."""
    most: tuple[int, int]
    """The longest such time, and its rank."""
    paths: Paths


def summarise(path: Path, fallback: int = 0) -> Summary:
    """Read one rank's trace.

    Args:
        path: the trace.
        fallback: the rank to assume where neither the trace nor its name tells.
    """
    trace = analyse(path, Legs)
    (legs,) = trace.sums.watchers
    assert isinstance(legs, Legs)
    profile, rank = profile_of(trace), rank_of(path, trace)
    profile.run.rank = fallback if rank is None else rank
    busy = profile.trace.busy_ns if profile.trace else None
    own = (busy or 0) - ((profile.trace.communication_ns or 0) if profile.trace else 0)
    return Summary(
        profile=profile,
        steps=_steps(trace, profile),
        files=[(profile.run.rank, profile.steady.first[0])],
        own_ns=own,
        most=(own, profile.run.rank),
        paths=paths_of(legs, profile.run.rank, profile.steady.first),
    )


def _steps(trace: Analysed, profile: Profile) -> dict[int, Step]:
    steady = profile.steady
    return {
        number: Step(
            ranks=1,
            phases={name: column[i] for name, column in steady.phases.items()},
            meetings=[
                Meeting(1, exchange.duration, exchange.duration, profile.run.rank)
                for exchange in trace.sums.exchanges[i]
            ],
        )
        for i, number in enumerate(steady.first)
    }


def merge(one: Summary, other: Summary) -> Summary:
    """Both together; a trace that is there twice counts once."""
    if set(other.files) <= set(one.files):
        return one
    first, second = sorted((one, other), key=lambda each: each.profile.run.rank)
    steps = dict(first.steps)
    for number, step in second.steps.items():
        steps[number] = _both(steps[number], step) if number in steps else step
    return Summary(
        profile=structs.replace(
            first.profile,
            trace=_traces(first.profile.trace, second.profile.trace),
            window=_windows(first.profile.window, second.profile.window),
            problems=list(dict.fromkeys(first.profile.problems + second.profile.problems)),
        ),
        steps=steps,
        files=sorted(first.files + second.files),
        own_ns=first.own_ns + second.own_ns,
        most=max(first.most, second.most),
        paths=joined(first.paths, second.paths),
    )


def _both(a: Step, b: Step) -> Step:
    phases = {name: a.phases.get(name, 0) + b.phases.get(name, 0) for name in a.phases | b.phases}
    meetings = []
    # Ranks that did not hold the same collectives cannot be compared.
    if len(a.meetings) == len(b.meetings):
        for x, y in zip(a.meetings, b.meetings, strict=True):
            shortest, last = min((x.shortest_ns, x.last), (y.shortest_ns, y.last))
            meetings.append(Meeting(x.ranks + y.ranks, x.total_ns + y.total_ns, shortest, last))
    return Step(a.ranks + b.ranks, phases, meetings)


def _traces(a: Trace | None, b: Trace | None) -> Trace | None:
    if a is None or b is None:
        return a or b
    return structs.replace(
        a,
        busy_ns=_sum(a.busy_ns, b.busy_ns),
        communication_ns=_sum(a.communication_ns, b.communication_ns),
        categories=_rows(a.categories, b.categories, ("name",)),
        kernels=_rows(a.kernels, b.kernels, ("name",)),
        copies=_rows(a.copies, b.copies, ("direction", "memory")),
        runtime=_rows(a.runtime, b.runtime, ("name",)),
        annotations=_rows(a.annotations, b.annotations, ("name",)),
        peak_allocated_bytes=_largest(a.peak_allocated_bytes, b.peak_allocated_bytes),
        peak_reserved_bytes=_largest(a.peak_reserved_bytes, b.peak_reserved_bytes),
        lost_events=a.lost_events + b.lost_events,
    )


def _windows(a: Window | None, b: Window | None) -> Window | None:
    if a is None or b is None:
        return a or b
    return structs.replace(
        a,
        steps=a.steps + b.steps,
        wall_ns=a.wall_ns + b.wall_ns,
        operators=_rows(a.operators, b.operators, ("name", "phase")),
    )


_ADDED = (
    "calls",
    "time_ns",
    "device_ns",
    "bytes",
    "tensor_core_ns",
    "self_cpu_ns",
    "self_device_ns",
)


def _rows(one: list[Row], other: list[Row], keys: tuple[str, ...]) -> list[Row]:
    """The rows of both tables, added where their keys agree, the largest first."""
    found: dict[tuple[str, ...], Row] = {}
    for row in one + other:
        key = tuple(getattr(row, name) for name in keys)
        known = found.get(key)
        if known is None:
            found[key] = row
        else:
            both = {
                name: _sum(getattr(known, name), getattr(row, name))
                for name in _ADDED
                if hasattr(row, name)
            }
            found[key] = structs.replace(known, **both)
    return sorted(found.values(), key=_time, reverse=True)[: 2 * _MOST]


def _time(row: Operator | Kernel | KernelCategory | Copies | RuntimeCalls | Annotation) -> int:
    return row.self_cpu_ns + row.self_device_ns if isinstance(row, Operator) else row.time_ns


def _sum(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else a + b


def _largest(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else max(a, b)


def job_of(summary: Summary) -> Profile:
    """The profile of a job: times are means of its ranks."""
    if len(summary.files) == 1:
        return summary.profile
    steps = dict(sorted(summary.steps.items()))
    phases = [_means(step) for step in steps.values()]
    names = list(dict.fromkeys(name for step in phases for name in step))
    wall = [sum(step.values()) for step in phases]
    ranks = _ranks(summary)
    return structs.replace(
        summary.profile,
        steady=Steps(
            first=list(steps),
            count=[1] * len(steps),
            wall_ns=wall,
            wall_max_ns=wall,
            phases={name: [step.get(name, 0) for step in phases] for name in names},
            calls=summary.profile.steady.calls
            if len(steps) == summary.profile.steady.total
            else {},
        ),
        step_time=histogram_of(wall),
        trace=_mean_trace(summary),
        ranks=ranks,
        problems=summary.profile.problems + _words(ranks, sum(wall)),
    )


def _means(step: Step) -> dict[str, int]:
    """Phases of a step, means of the ranks; waiting for others taken out of the exchange."""
    phases = {name: time // step.ranks for name, time in step.phases.items()}
    waited = sum(m.total_ns - m.ranks * m.shortest_ns for m in step.meetings) // step.ranks
    waited = min(waited, phases.get("collective", 0))
    if waited:
        phases["collective"] -= waited
        phases["straggler"] = waited
    return phases


def _mean_trace(summary: Summary) -> Trace | None:
    """Sums over ranks and steps stay sums, but what is compared with the wall time is a mean."""
    trace, count = summary.profile.trace, len({rank for rank, _ in summary.files})
    if trace is not None:
        trace = structs.replace(trace, critical_path=job_path(summary.paths))
    if trace is None or trace.busy_ns is None:
        return trace
    return structs.replace(
        trace,
        busy_ns=trace.busy_ns // count,
        communication_ns=(trace.communication_ns or 0) // count,
    )


def _ranks(summary: Summary) -> Ranks:
    count = len({rank for rank, _ in summary.files})
    transfer = waiting = 0
    late: dict[int, Straggler] = {}
    for step in summary.steps.values():
        for meeting in step.meetings:
            waited = meeting.total_ns // meeting.ranks - meeting.shortest_ns
            transfer += meeting.shortest_ns
            waiting += waited
            last = late.setdefault(
                meeting.last, Straggler(rank=meeting.last, collectives=0, waited_for_ns=0)
            )
            last.collectives += 1
            last.waited_for_ns += waited
    mean = summary.own_ns / count
    return Ranks(
        count=count,
        missing=max(0, summary.profile.run.world_size - count),
        transfer_ns=transfer,
        waiting_ns=waiting,
        imbalance=summary.most[0] / mean if mean > 0 else None,
        slowest=summary.most[1] if mean > 0 else None,
        stragglers=sorted(late.values(), key=lambda s: -s.waited_for_ns)[:_MOST_STRAGGLERS],
    )


def _words(ranks: Ranks, wall: int) -> list[str]:
    words = [f"Times are means of {ranks.count} ranks."]
    if ranks.missing:
        words.append(f"{ranks.missing} ranks of the job have no trace here.")
    if not ranks.stragglers:
        return words
    first = ranks.stragglers[0]
    if first.waited_for_ns < _NOTEWORTHY * wall:
        return [*words, "No rank keeps the others waiting."]
    words.append(
        f"The others wait for rank {first.rank}: it comes last to {first.collectives} collectives, "
        f"for which they wait {first.waited_for_ns / max(1, wall):.0%} of the time."
    )
    return words
