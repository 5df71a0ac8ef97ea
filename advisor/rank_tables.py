"""The report's section on ranks: a heat map, and tables of ranks, hosts and collectives."""

from __future__ import annotations

import statistics
from bisect import bisect_right
from itertools import groupby
from typing import NamedTuple

from stepscope.advisor import wording
from stepscope.advisor.rank_words import ranks_in_words
from stepscope.profiler.format import Clock, HeatMap, Ranks, RankTimes

_EDGES = (0.9, 1.05, 1.15, 1.3, 1.6, 2.2, 4.0)
"""Borders between the colours, in times the median cell: what is usual has the second of them."""
_MOST_CELLS = 20
_MOST_ROWS = 80
_LABELS = 8


class Shade(NamedTuple):
    """All cells of one colour."""

    number: int
    path: str
    words: str


class HotCell(NamedTuple):
    """A line of the table behind the heat map."""

    rank: str
    steps: str
    mean: str
    longest: str
    ratio: str


class HeatPicture(NamedTuple):
    """The heat map in units of a cell."""

    rows: int
    columns: int
    shades: list[Shade]
    ranks: list[str]
    """Labels from top to bottom, evenly spread."""
    first: str
    last: str
    own: bool
    median: str
    hottest: list[HotCell]
    ranks_per_row: int
    steps_per_column: int


class RankLine(NamedTuple):
    """A rank in words."""

    rank: int
    host: str
    step: str
    own: str
    exchange: str
    waiting: str
    data: str
    core: str
    clock: str
    link: str
    cause: str


class RankTable(NamedTuple):
    """The ranks that are worth a look."""

    lines: list[RankLine]
    typical: RankLine
    total: int
    hosts: bool
    clocks: bool
    links: bool


class HostLine(NamedTuple):
    """A host in words."""

    host: str
    ranks: int
    own: str
    exchange: str
    slowest: int
    clock: str
    """How far it is from the usual one; empty where that is not known."""


def heat_picture(map_: HeatMap | None) -> HeatPicture | None:
    """Cells by colour; each as hot as its longest time, so that no spike is lost."""
    values = [value for value in (map_.longest_ns if map_ else ()) if value is not None]
    if map_ is None or not values:
        return None
    median = max(1.0, statistics.median(value for value in map_.mean_ns if value is not None))
    columns, rows = map_.columns, len(map_.mean_ns) // map_.columns
    paths: list[list[str]] = [[] for _ in range(len(_EDGES) + 1)]
    for y in range(rows):
        cells = map_.longest_ns[y * columns : (y + 1) * columns]
        shades = [None if v is None else bisect_right(_EDGES, v / median) for v in cells]
        x = 0
        for shade, run in groupby(shades):
            width = len(list(run))
            if shade is not None:
                paths[shade].append(f"M{x} {y}h{width}v1h-{width}z")
            x += width
    return HeatPicture(
        rows=rows,
        columns=columns,
        shades=[
            Shade(i, "".join(path), _shade_words(i, median)) for i, path in enumerate(paths) if path
        ],
        ranks=_labels(map_, rows),
        first=f"step {map_.first_step:,}",
        last=f"{map_.first_step + columns * map_.steps_per_column - 1:,}",
        own=map_.kind == "own",
        median=wording.duration(median / 1e9),
        hottest=_hottest(map_, median),
        ranks_per_row=map_.ranks_per_row,
        steps_per_column=map_.steps_per_column,
    )


def rank_table(ranks: Ranks | None) -> RankTable | None:
    """The slowest ranks and those that wait least, beside the median one."""
    if ranks is None or not ranks.rows:
        return None
    steps = max(row.steps for row in ranks.rows)
    transfer = ranks.transfer_ns / max(1, steps)
    usual = RankTimes(
        rank=0,
        steps=steps,
        step_ns=ranks.typical.get("step", 0),
        own_ns=ranks.typical.get("own", 0),
        exchange_ns=ranks.typical.get("exchange"),
        data_wait_ns=ranks.typical.get("data_wait", 0),
        core_wait_ns=ranks.typical.get("core_wait"),
        clock_mhz=ranks.typical["clock_khz"] / 1000 if "clock_khz" in ranks.typical else None,
    )
    links = {link.rank: wording.bit_rate(link.bytes_per_s) for link in ranks.rank_links}
    return RankTable(
        lines=[_line(row, transfer, links.get(row.rank, "")) for row in ranks.rows[:_MOST_ROWS]],
        typical=_line(usual, transfer, ""),
        total=ranks.count,
        hosts=any(row.host for row in ranks.rows),
        clocks=any(row.clock_mhz is not None for row in ranks.rows),
        links=bool(links),
    )


def host_rows(ranks: Ranks | None) -> list[HostLine]:
    """The hosts; times are means per step."""
    if ranks is None:
        return []
    clocks = {clock.host: _clock(clock) for clock in ranks.clocks}
    return [
        HostLine(
            host.host,
            host.ranks,
            _time(host.own_ns),
            _time(host.exchange_ns),
            host.slowest,
            clocks.get(host.host, ""),
        )
        for host in ranks.hosts
    ]


def _clock(clock: Clock) -> str:
    if not clock.offset_ns and not clock.uncertainty_ns:
        return "the usual one"
    off, sure = (wording.duration(abs(ns) / 1e9) for ns in (clock.offset_ns, clock.uncertainty_ns))
    if abs(clock.offset_ns) <= clock.uncertainty_ns:
        return f"right within {sure}"
    return f"{off} {'ahead' if clock.offset_ns > 0 else 'behind'}, within {sure}"


def link_rows(ranks: Ranks | None) -> list[tuple[str, ...]]:
    """Collective, group, hosts, calls, size, time, algorithm and bus bandwidth."""
    return [
        (
            link.collective,
            ranks_in_words(link.ranks, link.size),
            ", ".join(link.hosts) or "not known",
            f"{link.calls:,}",
            wording.size(link.bytes),
            _time(link.time_ns),
            f"{wording.size(link.algorithm_bytes_per_s)}/s",
            f"{wording.size(link.bus_bytes_per_s)}/s",
        )
        for link in (ranks.links if ranks else ())
    ]


def _line(row: RankTimes, transfer: float, link: str) -> RankLine:
    waiting = None if row.exchange_ns is None else max(0, round(row.exchange_ns - transfer))
    cause = max(row.causes, key=lambda name: row.causes[name], default=None)
    return RankLine(
        rank=row.rank,
        host=row.host or "",
        step=_time(row.step_ns),
        own=_time(row.own_ns),
        exchange=_time(row.exchange_ns),
        waiting=_time(waiting),
        data=_time(row.data_wait_ns),
        core=_time(row.core_wait_ns),
        clock="not measured" if row.clock_mhz is None else f"{row.clock_mhz:.0f} MHz",
        link=link,
        cause=wording.cause_label(cause) if cause else "",
    )


def _time(nanoseconds: int | None) -> str:
    return "not measured" if nanoseconds is None else wording.duration(nanoseconds / 1e9)


def _shade_words(number: int, median: float) -> str:
    if number == 0:
        return f"below {wording.duration(_EDGES[0] * median / 1e9)}"
    if number == len(_EDGES):
        return f"over {wording.duration(_EDGES[-1] * median / 1e9)}"
    return f"to {wording.duration(_EDGES[number] * median / 1e9)}"


def _labels(map_: HeatMap, rows: int) -> list[str]:
    shown = sorted({round(i * (rows - 1) / (_LABELS - 1)) for i in range(_LABELS)})
    if rows <= _LABELS:
        shown = list(range(rows))
    return [str(map_.first_rank + row * map_.ranks_per_row) for row in shown]


def _hottest(map_: HeatMap, median: float) -> list[HotCell]:
    """The cells with the longest times."""
    known = [(value, i) for i, value in enumerate(map_.longest_ns) if value is not None]
    found = []
    for value, i in sorted(known, key=lambda cell: (-cell[0], cell[1]))[:_MOST_CELLS]:
        first = map_.first_step + i % map_.columns * map_.steps_per_column
        last = first + map_.steps_per_column - 1
        found.append(
            HotCell(
                rank=str(map_.longest_rank[i]),
                steps=f"{first:,}" if last == first else f"{first:,} to {last:,}",
                mean=_time(map_.mean_ns[i]),
                longest=_time(value),
                ratio=wording.speedup(value / median),
            )
        )
    return found
