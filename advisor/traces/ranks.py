"""The trace of one rank, as a summary.

A collective takes as long as its shortest rank: that one came last, and the others waited for it
(this needs no common clock; torch-tb-profiler has the same rule).
"""

from __future__ import annotations

import re
from pathlib import Path

from msgspec import structs

from stepscope.advisor.ranks.profiles import summary_of
from stepscope.advisor.ranks.summary import Group, Meeting, Summary
from stepscope.advisor.traces.legs import Legs, paths_of
from stepscope.advisor.traces.load import Analysed, analyse
from stepscope.advisor.traces.profile import profile_of, rank_of
from stepscope.profiler.format import Profile

_UNBOUNDED = 1 << 62
"""Traces have few steps, and their collectives are compared one by one."""
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
