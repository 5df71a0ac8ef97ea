"""What is kept of one rank, or of many, and how two of them become one.

Every part adds up in any grouping and order to the same bytes; `tests/advisor/test_rank_merging.py`
holds that. The summaries must be of different files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce

from msgspec import Struct, field, structs

from stepscope.advisor.ranks.calls import Table
from stepscope.advisor.ranks.calls import joined as joined_calls
from stepscope.advisor.ranks.clocks import Clocks
from stepscope.advisor.ranks.clocks import joined as joined_clocks
from stepscope.advisor.ranks.connections import Connections
from stepscope.advisor.ranks.connections import joined as joined_connections
from stepscope.advisor.ranks.heat import Heat, overlaid
from stepscope.advisor.ranks.paths import Paths
from stepscope.advisor.ranks.paths import joined as joined_paths
from stepscope.advisor.ranks.sketches import Counts, added, kept
from stepscope.advisor.ranks.tables import Tables, summed
from stepscope.advisor.ranks.timeline import Timeline, joined
from stepscope.profiler.format import Collective, HostTimes, Profile, RankTimes

SLOWEST, QUICKEST = 64, 16
"""Ranks of which a row is kept: with most time of their own, and least in collectives."""
_HOSTS = 1024
_HOSTS_OF_A_GROUP = 16
_WORDS = 64
_JOBS = 2


class Meeting(Struct):
    """One collective over the ranks that took part."""

    ranks: int
    total_ns: int
    shortest_ns: int
    last: int
    """The rank for which it was shortest: the last to come."""
    bytes: int = 0


class Group(Struct):
    """The ranks that hold a kind of collective."""

    collective: str
    ranks: list[int]
    """Empty where they are not known."""
    size: int
    hosts: list[str]


class Exchange(Struct):
    """What DistributedDataParallel says of one model, summed over the ranks."""

    first: Collective
    """Of the lowest rank."""
    rank: int
    ranks: int
    communication_ns: int
    overlap_ns: int
    backward_ns: int


class Summary(Struct, kw_only=True):
    """What is kept of one rank, or of many."""

    base: Profile
    """Of the rank that was fastest by itself; its steps and tables are left out."""
    base_key: tuple[int, int, int, int]
    """Its own time per step; and what tells it from any other: rank, first step, a check sum."""
    ranks: int
    """A bit for each."""
    files: int
    world_sizes: list[int]
    jobs: list[str]
    """What recorders have called it; two at most, for there should be one."""
    started_at: tuple[str, str]
    """Of the first and the last rank to start."""
    steps: int
    """Summed over the ranks, like the next."""
    own_ns: int
    exchange_ns: int
    exchange_known: bool
    """Whether every rank has timed its collectives."""
    timeline: Timeline
    meetings: dict[int, dict[str, list[Meeting]]] = field(default_factory=dict)
    """Collectives one by one, by step and by group and kind; only of traces."""
    groups: dict[str, Group] = field(default_factory=dict)
    connections: Connections = field(default_factory=dict)
    """Between ranks; only of profiles."""
    paths: Paths = field(default_factory=dict)
    """Critical paths of the steps; only of traces."""
    clocks: Clocks = field(default_factory=dict)
    heat: Heat
    slowest: list[RankTimes]
    quickest: list[RankTimes]
    hosts: dict[str, HostTimes]
    spreads: dict[str, Counts]
    """How times per step are distributed over the ranks, by name."""
    step_time: Counts
    """Steps of all ranks by their time."""
    phases: list[str]
    """Those that were told apart, whether or not any time was spent in them."""
    calls: dict[str, int]
    """The most calls that a rank has counted."""
    exchanges: list[Exchange]
    called: Table = field(default_factory=dict)
    """Collectives that the program calls itself, by kind and size; only of recorded profiles."""
    tables: Tables
    problems: dict[str, tuple[int, int]]
    """What could not be measured, with the number of ranks and the lowest of them."""


def merge(one: Summary, other: Summary) -> Summary:
    """Both together."""
    first = min(one, other, key=lambda each: each.base_key)
    return Summary(
        base=first.base,
        base_key=first.base_key,
        ranks=one.ranks | other.ranks,
        files=one.files + other.files,
        world_sizes=sorted({*one.world_sizes, *other.world_sizes}),
        jobs=sorted({*one.jobs, *other.jobs})[:_JOBS],
        started_at=(
            min(one.started_at[0], other.started_at[0]),
            max(one.started_at[1], other.started_at[1]),
        ),
        steps=one.steps + other.steps,
        own_ns=one.own_ns + other.own_ns,
        exchange_ns=one.exchange_ns + other.exchange_ns,
        exchange_known=one.exchange_known and other.exchange_known,
        timeline=joined(one.timeline, other.timeline),
        meetings=_met(one.meetings, other.meetings),
        groups=_groups(one.groups, other.groups),
        connections=joined_connections(one.connections, other.connections),
        paths=joined_paths(one.paths, other.paths),
        clocks=joined_clocks(one.clocks, other.clocks),
        heat=overlaid(one.heat, other.heat),
        slowest=slowest([*one.slowest, *other.slowest]),
        quickest=quickest([*one.quickest, *other.quickest]),
        hosts=_hosts(one.hosts, other.hosts),
        spreads={
            name: added(one.spreads.get(name, {}), other.spreads.get(name, {}))
            for name in sorted(one.spreads.keys() | other.spreads.keys())
        },
        step_time=added(one.step_time, other.step_time),
        phases=sorted({*one.phases, *other.phases}),
        calls={
            name: max(one.calls.get(name, 0), other.calls.get(name, 0))
            for name in sorted(one.calls.keys() | other.calls.keys())
        },
        exchanges=_exchanges(one.exchanges, other.exchanges),
        called=joined_calls(one.called, other.called),
        tables=summed(one.tables, other.tables),
        problems=_problems(one.problems, other.problems),
    )


def merged(summaries: Iterable[Summary]) -> Summary:
    """All together; there is at least one."""
    return reduce(merge, summaries)


def slowest(rows: list[RankTimes]) -> list[RankTimes]:
    """Those with most time of their own."""
    return sorted(rows, key=lambda row: (-row.own_ns, row.rank, row.steps))[:SLOWEST]


def quickest(rows: list[RankTimes]) -> list[RankTimes]:
    """Those that spend least in collectives: the others wait for them."""
    timed = [row for row in rows if row.exchange_ns is not None]
    return sorted(timed, key=lambda row: (row.exchange_ns or 0, row.rank, row.steps))[:QUICKEST]


def _met(
    one: Mapping[int, dict[str, list[Meeting]]], other: Mapping[int, dict[str, list[Meeting]]]
) -> dict[int, dict[str, list[Meeting]]]:
    steps = {}
    for number in sorted(one.keys() | other.keys()):
        a, b = one.get(number, {}), other.get(number, {})
        steps[number] = {
            key: _both(a[key], b[key]) if key in a and key in b else a.get(key) or b.get(key, [])
            for key in sorted(a.keys() | b.keys())
        }
    return steps


def _both(a: list[Meeting], b: list[Meeting]) -> list[Meeting]:
    if len(a) != len(b):  # ranks that did not hold the same collectives cannot be compared
        return []
    meetings = []
    for x, y in zip(a, b, strict=True):
        shortest, last = min((x.shortest_ns, x.last), (y.shortest_ns, y.last))
        total, size = x.total_ns + y.total_ns, max(x.bytes, y.bytes)
        meetings.append(Meeting(x.ranks + y.ranks, total, shortest, last, size))
    return meetings


def _groups(one: dict[str, Group], other: dict[str, Group]) -> dict[str, Group]:
    both = {**one}
    for key, group in other.items():
        known = both.get(key, group)
        hosts = sorted({*known.hosts, *group.hosts})[:_HOSTS_OF_A_GROUP]
        both[key] = structs.replace(group, hosts=hosts)
    return kept(both)


def _hosts(one: dict[str, HostTimes], other: dict[str, HostTimes]) -> dict[str, HostTimes]:
    """While merging, times are sums over the ranks, and `slowest` has its time in front."""
    hosts = {**one}
    for name, b in other.items():
        a = hosts.get(name)
        hosts[name] = (
            b
            if a is None
            else structs.replace(
                a,
                ranks=a.ranks + b.ranks,
                own_ns=a.own_ns + b.own_ns,
                exchange_ns=None
                if a.exchange_ns is None or b.exchange_ns is None
                else a.exchange_ns + b.exchange_ns,
                slowest=max(a.slowest, b.slowest),
            )
        )
    return kept(hosts, _HOSTS)


def _exchanges(one: list[Exchange], other: list[Exchange]) -> list[Exchange]:
    """By position: ranks wrap their models in the same order."""
    longer, shorter = (one, other) if len(one) >= len(other) else (other, one)
    both = []
    for a, b in zip(longer, shorter, strict=False):
        first = min(a, b, key=lambda each: each.rank)
        both.append(
            Exchange(
                first=first.first,
                rank=first.rank,
                ranks=a.ranks + b.ranks,
                communication_ns=a.communication_ns + b.communication_ns,
                overlap_ns=a.overlap_ns + b.overlap_ns,
                backward_ns=a.backward_ns + b.backward_ns,
            )
        )
    return both + longer[len(shorter) :]


def _problems(
    one: dict[str, tuple[int, int]], other: dict[str, tuple[int, int]]
) -> dict[str, tuple[int, int]]:
    both = {**one}
    for words, (ranks, lowest) in other.items():
        known = both.get(words, (0, lowest))
        both[words] = (known[0] + ranks, min(known[1], lowest))
    return kept(both, _WORDS)
