"""From the summary of all ranks to the profile of the job."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from msgspec import structs

from stepscope.advisor.ranks.calls import mean_calls
from stepscope.advisor.ranks.clocks import offsets
from stepscope.advisor.ranks.connections import rank_links
from stepscope.advisor.ranks.heat import heat_map
from stepscope.advisor.ranks.links import links_of
from stepscope.advisor.ranks.paths import job_path
from stepscope.advisor.ranks.sketches import middle
from stepscope.advisor.ranks.summary import Exchange, Summary
from stepscope.advisor.ranks.tables import trace_of, window_of
from stepscope.advisor.ranks.timeline import NONE, value_and_rank
from stepscope.advisor.ranks.words import words_of
from stepscope.advisor.stages import STARVATION
from stepscope.profiler.format import (
    Collective,
    Histogram,
    HostTimes,
    Profile,
    Ranks,
    RankTimes,
    Steps,
    Straggler,
    Trace,
)

_MOST_STRAGGLERS = 5
_MOST_MISSING = 64
_MOST_HOSTS = 64
_PERSISTENT, _BY_CHANCE = 0.4, 1.5
"""One rank is *the* straggler if that part of the waiting is for it, and so many times what each
rank's part is by chance."""
_NOISE = 0.02
"""Of a phase: medians are known to 1 %."""
_MOSTLY = 0.5
"""If waiting for a core is that part of what a rank is slower by, it is the cause of the rest."""
_IN_COLLECTIVES = ("communication", "collective")


class _Wait(NamedTuple):
    """One meeting of the ranks: a collective, or those of some steps together."""

    bin: int
    times: int
    transfer_ns: int
    waiting_ns: int
    """Mean of the ranks."""
    last: int


def job_of(summary: Summary) -> Profile:
    """The profile of a job: times are means of its ranks.

    Two things are told apart that a single rank cannot tell: the time in collectives once all ranks
    are there, and the waiting for the last of them. What a slow rank spends beyond the median rank
    counts as waiting too, for that is what the others wait for: it sets the time of a step, and the
    step would be as much shorter without it.
    """
    waits = list(_waits(summary))
    ranks = _ranks(summary, waits)
    steps = _steps(summary, waits)
    return structs.replace(
        summary.base,
        steady=steps,
        step_time=_step_time(summary),
        collectives=[_collective(each) for each in summary.exchanges],
        collective_calls=mean_calls(summary.called, count_of(summary)),
        window=window_of(summary.tables, summary.base.window),
        trace=_trace(summary),
        ranks=ranks,
        problems=_problems(summary) + words_of(ranks, summary, sum(steps.wall_ns)),
    )


def _trace(summary: Summary) -> Trace | None:
    trace = trace_of(summary.tables, summary.base.trace)
    return trace and structs.replace(trace, critical_path=job_path(summary.paths))


def count_of(summary: Summary) -> int:
    """Number of ranks."""
    return summary.ranks.bit_count()


def _waits(summary: Summary) -> Iterator[_Wait]:
    timeline = summary.timeline
    if summary.meetings:
        for number, groups in summary.meetings.items():
            for meetings in groups.values():
                for m in meetings:
                    # Each rank is in it, or in one like it beside it.
                    part = m.ranks / max(1, timeline.columns["steps"][number - timeline.start])
                    waited = m.total_ns / m.ranks - m.shortest_ns
                    yield _Wait(
                        number - timeline.start,
                        1,
                        round(m.shortest_ns * part),
                        round(waited * part),
                        m.last,
                    )
    elif summary.exchange_known and count_of(summary) > 1:
        columns = timeline.columns
        for i, encoded in enumerate(columns["least.exchange_ns"]):
            if encoded != NONE and columns["steps"][i]:
                shortest, last = value_and_rank(encoded)
                count = _count(summary, i)
                mean = columns["exchange_ns"][i] // columns["steps"][i]
                transfer = min(shortest, mean)
                yield _Wait(i, count, transfer * count, (mean - transfer) * count, last)


def _count(summary: Summary, i: int) -> int:
    """Steps of the job in a bin."""
    return max(1, round(summary.timeline.columns["steps"][i] / count_of(summary)))


def _steps(summary: Summary, waits: list[_Wait]) -> Steps:
    timeline = summary.timeline
    columns = timeline.columns
    bins = [i for i, n in enumerate(columns["steps"]) if n]
    waiting = [0] * timeline.bins
    for wait in waits:
        waiting[wait.bin] += wait.waiting_ns
    names = [f"phases.{name}" for name in summary.phases]
    kept = _typical_parts(summary, sum(waiting))
    count = [_count(summary, i) for i in bins]

    def mean(name: str) -> list[int]:
        column, steps = columns.get(name), columns["steps"]
        if column is None:
            return [0] * len(bins)
        return [column[i] * n // steps[i] for i, n in zip(bins, count, strict=True)]

    phases = {name.removeprefix("phases."): mean(name) for name in names}
    straggler = [0] * len(bins)
    for row, i in enumerate(bins):
        straggler[row] = _take_waiting(phases, row, waiting[i])
    for name, part in kept.items():
        column = phases[name]
        for row, value in enumerate(column):
            column[row] = round(value * part)
            straggler[row] += value - column[row]
    if summary.exchange_known and count_of(summary) > 1:
        phases["straggler"] = straggler
    wall = [sum(column[row] for column in phases.values()) for row in range(len(bins))]
    optional = ("cpu_ns", "process_cpu_ns", "run_delay_ns", "wait_cpu_ns", "wait_run_delay_ns")
    return Steps(
        first=[columns["least.first"][i] for i in bins],
        count=count,
        wall_ns=wall,
        wall_max_ns=[columns["most.wall_ns"][i] for i in bins],
        phases=phases,
        calls=_calls(summary, bins),
        **{name: mean(name) for name in optional if name in columns},
    )


def _take_waiting(phases: dict[str, list[int]], row: int, waiting: int) -> int:
    """Take the waiting out of the phases in which collectives are; returns how much."""
    spent = {name: phases[name][row] for name in _IN_COLLECTIVES if name in phases}
    total = sum(spent.values())
    waiting = min(waiting, total)
    left = waiting
    for i, (name, value) in enumerate(spent.items()):
        part = left if i == len(spent) - 1 else waiting * value // max(1, total)
        phases[name][row] -= part
        left -= part
    return waiting


def _typical_parts(summary: Summary, waiting: int) -> dict[str, float]:
    """Which part of each phase the median rank has; the rest makes the others wait.

    There cannot be more of it than they wait for: a rank that is slow by `d` costs the others `d`
    each, and itself `d`.
    """
    columns, count = summary.timeline.columns, count_of(summary)
    if not waiting or count < 2:
        return {}
    excess, means = {}, {}
    for name in columns:
        phase = name.removeprefix("phases.")
        if phase == name or phase in _IN_COLLECTIVES:
            continue
        mean = sum(columns[name]) / max(1, summary.steps)
        beyond = mean - typical(summary, f"phase.{phase}")
        if beyond > _NOISE * mean:
            excess[phase], means[phase] = beyond, mean
    steps = summary.steps / summary.files
    most = waiting / max(1.0, steps) / (count - 1)
    scale = min(1.0, most / sum(excess.values())) if excess else 0.0
    return {phase: 1 - scale * beyond / means[phase] for phase, beyond in excess.items()}


def typical(summary: Summary, name: str) -> float:
    """The median over the ranks; those that have none of it count as well."""
    counts = summary.spreads.get(name, {})
    without = summary.files - sum(counts.values())
    if 2 * without >= summary.files:
        return 0.0
    return middle({0: without, **counts} if without and 0 not in counts else counts) or 0.0


def _calls(summary: Summary, bins: list[int]) -> dict[str, list[int]]:
    """As many as on the rank that has most: what only one rank does is done once."""
    found = {}
    for name, most in summary.calls.items():
        column = summary.timeline.columns.get(f"calls.{name}", [0] * summary.timeline.bins)
        total = max(1, sum(column))
        found[name] = [round(column[i] * most / total) for i in bins]
        found[name][0] += most - sum(found[name])
    return found


def _step_time(summary: Summary) -> Histogram:
    counts, ranks = summary.step_time, max(1, count_of(summary))
    return Histogram(
        growth=summary.base.step_time.growth,
        bins=list(counts),
        counts=[max(1, round(count / ranks)) for count in counts.values()],
    )


def _collective(found: Exchange) -> Collective:
    return structs.replace(
        found.first,
        communication_ns=found.communication_ns // found.ranks,
        overlap_ns=found.overlap_ns // found.ranks,
        backward_ns=found.backward_ns // found.ranks,
    )


def _ranks(summary: Summary, waits: list[_Wait]) -> Ranks:
    count, world = count_of(summary), max(summary.world_sizes)
    missing = [rank for rank in range(world) if not summary.ranks >> rank & 1]
    rows = _rows(summary)
    late: dict[int, Straggler] = {}
    for wait in waits:
        last = late.setdefault(wait.last, Straggler(rank=wait.last, collectives=0, waited_for_ns=0))
        last.collectives += wait.times
        last.waited_for_ns += wait.waiting_ns
    stragglers = sorted(late.values(), key=lambda s: (-s.waited_for_ns, s.rank))
    stragglers = [s for s in stragglers if s.waited_for_ns][:_MOST_STRAGGLERS]
    waiting = sum(wait.waiting_ns for wait in waits)
    mean = summary.own_ns / max(1, summary.steps)
    slowest = summary.slowest[0]
    for straggler in stragglers:
        _explain(straggler, rows, summary)
    return Ranks(
        count=count,
        missing=len(missing),
        missing_ranks=missing[:_MOST_MISSING],
        transfer_ns=sum(wait.transfer_ns for wait in waits),
        waiting_ns=waiting,
        imbalance=slowest.own_ns / mean if mean > 0 else None,
        slowest=slowest.rank if mean > 0 else None,
        stragglers=stragglers,
        persistent=bool(stragglers)
        and stragglers[0].waited_for_ns
        >= waiting * min(0.75, max(_PERSISTENT, _BY_CHANCE / count)),
        rows=rows,
        typical={name: round(typical(summary, name)) for name in summary.spreads},
        hosts=_hosts(summary),
        clocks=offsets(summary.clocks),
        heat=heat_map(summary.heat, "own" if summary.exchange_known else "step"),
        links=links_of(summary),
        rank_links=rank_links(summary.connections),
    )


def _rows(summary: Summary) -> list[RankTimes]:
    rows = {(row.rank, row.steps): row for row in summary.quickest + summary.slowest}
    return sorted(rows.values(), key=lambda row: (-row.own_ns, row.rank))


def _explain(straggler: Straggler, rows: list[RankTimes], summary: Summary) -> None:
    """What it spends its time on beyond the median rank."""
    row = next((row for row in rows if row.rank == straggler.rank), None)
    if row is None:
        return
    beyond = {cause: spent - typical(summary, cause) for cause, spent in row.causes.items()}
    if row.core_wait_ns is not None:  # which makes everything else slower
        core = row.core_wait_ns - typical(summary, "core_wait")
        if core > _MOSTLY * (row.own_ns - typical(summary, "own")):
            beyond[STARVATION] = core
    cause = max(beyond, key=lambda each: beyond[each], default=None)
    if cause is not None and beyond[cause] > _NOISE * row.step_ns:
        straggler.cause, straggler.excess_ns = cause, round(beyond[cause])


def _hosts(summary: Summary) -> list[HostTimes]:
    """The slowest hosts, where there are several."""
    if len(summary.hosts) < 2:
        return []
    found = [
        structs.replace(
            host,
            own_ns=host.own_ns // host.ranks,
            exchange_ns=None if host.exchange_ns is None else host.exchange_ns // host.ranks,
            slowest=value_and_rank(host.slowest, largest=True)[1],
        )
        for host in summary.hosts.values()
    ]
    return sorted(found, key=lambda host: (-host.own_ns, host.host))[:_MOST_HOSTS]


def _problems(summary: Summary) -> list[str]:
    """Each problem once, with the ranks that have it."""
    ordered = sorted(summary.problems.items(), key=lambda item: (-item[1][0], item[1][1], item[0]))
    found = []
    for words, (ranks, lowest) in ordered:
        several = f"On {ranks} ranks, e.g. {lowest}: " if ranks > 1 else f"On rank {lowest}: "
        found.append(words if ranks == summary.files else several + words)
    return found
