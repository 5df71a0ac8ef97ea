"""The trace of one rank, as a summary.

A collective takes as long as its shortest rank: that one came last, and the others waited for it
(this needs no common clock; torch-tb-profiler has the same rule).
"""

from __future__ import annotations

import re
from pathlib import Path

from msgspec import structs

from stepscope.advisor.ranks.clocks import Clocks, clock
from stepscope.advisor.ranks.profiles import summary_of
from stepscope.advisor.ranks.summary import Group, Meeting, Summary
from stepscope.advisor.traces.legs import Legs, paths_of
from stepscope.advisor.traces.load import Analysed, analyse
from stepscope.advisor.traces.profile import NOT_RECORDED, profile_of, rank_of
from stepscope.profiler.format import Profile

_UNBOUNDED = 1 << 62
"""Traces have few steps, and their collectives are compared one by one."""
_MOST_HELD = 1 << 12
"""Collectives in a step."""
_HOST_IN_NAME = re.compile(r"(?P<host>.+)_\d+\.\d+\.pt\.trace\.json")
"""As `torch.profiler.tensorboard_trace_handler` names files: host, process, time."""


def summarise(path: Path, number: int = 0) -> Summary:
    """Read one rank's trace.

    Args:
        path: the trace.
        number: the rank to assume where neither the trace nor its name tells.

    Raises:
        TraceError: the file is no trace of torch.profiler, or holds nothing that we know.
    """
    trace = analyse(path, Legs)
    (legs,) = trace.sums.watchers
    assert isinstance(legs, Legs)
    profile, rank = profile_of(trace), rank_of(path, trace)
    profile.run.rank = number if rank is None else rank
    steps = profile.steady
    named = _HOST_IN_NAME.match(path.name)
    host = named["host"] if named else None
    exchange = steps.phases.get("collective", [0] * len(steps.first))
    summary = summary_of(profile, steps, exchange, capacity=_UNBOUNDED, host=host)
    return structs.replace(
        summary,
        meetings=_meetings(trace, profile),
        groups=_groups(trace, host),
        clocks=_clocks(trace, profile, host),
        paths=paths_of(legs, profile.run.rank, steps.first),
    )


def _meetings(trace: Analysed, profile: Profile) -> dict[int, dict[str, list[Meeting]]]:
    """Collectives of each step, by kind and group, in order; of unknown ones all together."""
    known = list(trace.columns.collectives)
    keys = [collective.key if collective else "" for collective in known]
    steps = {}
    for i, number in enumerate(profile.steady.first):
        held: dict[str, list[Meeting]] = {}
        for exchange in trace.sums.exchanges[i]:
            collective = known[exchange.collective]
            meeting = Meeting(1, exchange.duration, exchange.duration, profile.run.rank)
            meeting.bytes = collective.bytes if collective else 0
            held.setdefault(keys[exchange.collective], []).append(meeting)
        if held:
            steps[number] = held
    return steps


def _clocks(trace: Analysed, profile: Profile, host: str | None) -> Clocks:
    """When the collectives of all ranks ended; nothing where the trace has no calendar time."""
    if profile.run.started_at == NOT_RECORDED:
        return {}
    origin = trace.reader.metadata.base_ns + round(1000 * (trace.columns.origin_us or 0.0))
    known, run = list(trace.columns.collectives), profile.run
    at: dict[int, int] = {}
    for i, number in enumerate(profile.steady.first):
        held = [
            exchange.end
            for exchange in trace.sums.exchanges[i]
            if (collective := known[exchange.collective]) is None
            or collective.size == run.world_size
        ]
        # Where ranks have not held the same ones in a step, the numbers differ.
        first = (number * _MOST_HELD + min(len(held), _MOST_HELD - 1)) * _MOST_HELD
        at |= {first + place: origin + end for place, end in enumerate(held[: _MOST_HELD - 1])}
    return clock(f"host {host}" if host else f"rank {run.rank}", run.rank, host, at)


def _groups(trace: Analysed, host: str | None) -> dict[str, Group]:
    """Who takes part in them."""
    return {
        collective.key: Group(
            collective=collective.name,
            ranks=collective.ranks(),
            size=collective.size,
            hosts=[host] if host else [],
        )
        for collective in trace.columns.collectives
        if collective is not None
    }
