"""How fast each rank's link is, from the counters of TCP connections at both of their ends.

A collective ends for all ranks at the same time, so that its duration does not tell whose link is
slow. The kernel of each rank tells how long its own bytes were on their way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from statistics import median

from msgspec import Struct

from stepscope.advisor.ranks.sketches import kept
from stepscope.profiler.format import Connection, Profile, RankLink

HEADER_BYTES = 66
"""Of each packet: Ethernet 14, IPv4 20, TCP with time stamps 32; rates of links count them."""
_FULL = 0.8
"""Packets are that full on average where messages take longer for their bytes than for latency."""
_LEAST_BUSY_NS = 40_000_000
"""A few ticks of the kernel's clock; what took less counts as so long, so that it seems slower."""
_SLOW = 1 / 3
"""Of the others' rate: between links of one kind the estimates differed by up to twice."""
_AS_SLOW = 2.0
"""Times the rate of the slowest."""
_MOST = 40
_LOCAL = ("127.", "::1:")


class Sent(Struct):
    """What a rank has sent over a connection."""

    steps: int
    bytes: int
    """Headers included; 0 where packets were not full, so that nothing is told of bandwidth."""
    busy_ns: int


Connections = dict[str, dict[int, Sent]]
"""By both ends; then by the rank that sent."""


def connections_of(profile: Profile) -> Connections:
    """Those of one rank."""
    host, rank = profile.environment.host or "", profile.run.rank
    return kept({_name(each, host): {rank: _sent(each)} for each in profile.connections})


def joined(one: Connections, other: Connections) -> Connections:
    """Both together: of a connection between two ranks each has told what it has sent."""
    keys = one.keys() | other.keys()
    both = {key: {**one.get(key, {}), **other.get(key, {})} for key in keys}
    return kept({key: dict(sorted(ends.items())) for key, ends in both.items()})


def rank_links(connections: Connections) -> list[RankLink]:
    """The links of the ranks, the slowest first.

    A rank's link is as fast as the fastest connection that it has with another rank, for what it
    exchanges with a slow one is slow at both ends. Of a slow one the slower direction counts.
    """
    rates: defaultdict[int, list[float]] = defaultdict(list)
    ways: defaultdict[tuple[int, bool], list[Sent]] = defaultdict(list)
    for ends in connections.values():
        if len(ends) != 2:  # not between two ranks of this job
            continue
        for sender, receiver in (tuple(ends), tuple(ends)[::-1]):
            sent = ends[sender]
            if sent.bytes:
                rate = sent.bytes / max(_LEAST_BUSY_NS, sent.busy_ns) * 1e9
                rates[sender].append(rate)
                rates[receiver].append(rate)
                ways[sender, True].append(sent)
                ways[receiver, False].append(sent)
    best = {rank: max(each) for rank, each in rates.items()}
    usual = {rank: median(best[other] for other in best if other != rank) for rank in best}
    slow = _slow(best, usual)
    links = [
        RankLink(
            rank=rank,
            bytes_per_s=min(rates[rank]) if rank in slow else rate,
            busy_ns=round(max(_per_step(ways[rank, True]), _per_step(ways[rank, False]))),
            usual_bytes_per_s=usual[rank] if rank in slow else None,
        )
        for rank, rate in best.items()
    ]
    return sorted(links, key=lambda link: (link.bytes_per_s, link.rank))[:_MOST]


def _slow(best: dict[int, float], usual: dict[int, float]) -> set[int]:
    """The ranks with much slower links; where those are half of all, nothing is usual.

    Ranks that are far from the slowest may only seem slow, for they exchange with it.
    """
    lowest = min(best.values(), default=0.0)
    slow = {rank for rank in best if best[rank] < min(_SLOW * usual[rank], _AS_SLOW * lowest)}
    return slow if 2 * len(slow) < len(best) else set()


def _per_step(sent: Iterable[Sent]) -> float:
    return sum(each.busy_ns / max(1, each.steps) for each in sent)


def _name(each: Connection, host: str) -> str:
    """The same at both ends; addresses of a machine's own are those of many machines."""
    here = f"{host} " if each.local.startswith(_LOCAL) else ""
    return here + " ".join(sorted((each.local, each.peer)))


def _sent(each: Connection) -> Sent:
    full = each.sent_bytes >= _FULL * each.segments * each.segment_bytes
    size = each.sent_bytes + HEADER_BYTES * each.segments
    return Sent(each.steps, size if full and each.segments else 0, each.busy_ns)
