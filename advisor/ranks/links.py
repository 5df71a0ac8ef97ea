"""Bandwidth of collectives, by group of ranks: which link is slow."""

from __future__ import annotations

from collections import defaultdict
from statistics import median

from stepscope.advisor.messages import bus_factor
from stepscope.advisor.ranks.summary import Meeting, Summary
from stepscope.profiler.format import Link

_MOST = 40
_LARGE = 1 << 20
"""Bytes: what is smaller takes its time for latency, whatever the bandwidth."""
_SLOW = 0.7
"""Of the usual bandwidth; between equal groups of one machine it varies by a few percent."""
_PEERS = 3


def links_of(summary: Summary) -> list[Link]:
    """The collectives of known size of which all ranks are there, the slowest first.

    Time is that of the rank that came last: the others' has waiting in it.
    """
    held: defaultdict[str, list[Meeting]] = defaultdict(list)
    for groups in summary.meetings.values():
        for key, meetings in groups.items():
            if key in summary.groups:
                whole = summary.groups[key].size
                held[key] += [m for m in meetings if m.ranks == whole > 1 and m.bytes >= _LARGE]
    links = [_link(summary, key, meetings) for key, meetings in held.items() if meetings]
    alike: defaultdict[tuple[str, int, int], list[Link]] = defaultdict(list)
    for link in links:
        alike[link.collective, link.size, len(link.hosts)].append(link)
    for peers in alike.values():
        usual = median(link.bus_bytes_per_s for link in peers)
        for link in peers:
            if len(peers) >= _PEERS and link.bus_bytes_per_s < _SLOW * usual:
                link.usual_bytes_per_s = usual
    links.sort(key=lambda link: (link.bus_bytes_per_s, link.collective, link.ranks))
    return links[:_MOST]


def _link(summary: Summary, key: str, meetings: list[Meeting]) -> Link:
    group = summary.groups[key]
    size, time = sum(m.bytes for m in meetings), sum(m.shortest_ns for m in meetings)
    algorithm = size / max(1, time) * 1e9
    return Link(
        collective=group.collective,
        ranks=group.ranks[:64],
        size=group.size,
        hosts=group.hosts,
        calls=len(meetings),
        bytes=size // len(meetings),
        time_ns=time // len(meetings),
        algorithm_bytes_per_s=algorithm,
        bus_bytes_per_s=algorithm * bus_factor(group.collective, group.size),
    )
