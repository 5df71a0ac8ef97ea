"""Ranks times steps: what each rank did when, in a matrix whose size is bounded both ways."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from stepscope.advisor.ranks.timeline import (
    Timeline,
    binned,
    joined,
    value_and_rank,
    with_rank,
)
from stepscope.profiler.format import HeatMap

ROWS, COLUMNS = 64, 128


class Heat(Struct, kw_only=True):
    """Rows of 2**level neighbouring ranks; each a timeline of at most `COLUMNS` bins."""

    level: int
    rows: dict[int, Timeline]


def heat_of(rank: int, first: Sequence[int], count: Sequence[int], spent: Sequence[int]) -> Heat:
    """One rank's row.

    Args:
        rank: its number.
        first: the first step of each row of its table.
        count: the steps of each.
        spent: nanoseconds in each.
    """
    longest = [
        with_rank(s // max(1, n), rank, largest=True) for s, n in zip(spent, count, strict=True)
    ]
    columns = {"steps": count, "ns": spent, "most.ns": longest}
    return Heat(level=0, rows={rank: binned(first, columns, COLUMNS)})


def overlaid(one: Heat, other: Heat) -> Heat:
    """Both matrices as one; ranks are joined where there are too many."""
    level = max(one.level, other.level)
    numbers = [n >> (level - each.level) for each in (one, other) for n in each.rows]
    more = 0
    while (max(numbers) >> more) - (min(numbers) >> more) >= ROWS:
        more += 1
    level += more
    rows: dict[int, Timeline] = {}
    for each in (one, other):
        for number, row in each.rows.items():
            at = number >> (level - each.level)
            rows[at] = joined(rows[at], row) if at in rows else row
    return Heat(level=level, rows=dict(sorted(rows.items())))


def heat_map(heat: Heat, kind: str) -> HeatMap | None:
    """As the profile's type; None of a single rank or step."""
    level = max(row.level for row in heat.rows.values())
    rows = {number: row.at_level(level) for number, row in heat.rows.items()}
    start = min(row.start for row in rows.values())
    stop = max(row.start + row.bins for row in rows.values())
    if len(rows) < 2 or stop - start < 2:
        return None
    map_ = HeatMap(
        kind=kind,
        first_rank=min(rows) << heat.level,
        ranks_per_row=1 << heat.level,
        first_step=start << level,
        steps_per_column=1 << level,
        columns=stop - start,
        mean_ns=[],
        longest_ns=[],
        longest_rank=[],
    )
    for number in range(min(rows), max(rows) + 1):
        _add_row(map_, rows.get(number), start)
    return map_


def _add_row(map_: HeatMap, row: Timeline | None, start: int) -> None:
    """A row of cells; where nothing was measured there is none."""
    for i in range(map_.columns):
        at = -1 if row is None else start + i - row.start
        steps = row.columns["steps"][at] if row is not None and 0 <= at < row.bins else 0
        if row is None or not steps:
            map_.mean_ns.append(None)
            map_.longest_ns.append(None)
            map_.longest_rank.append(None)
            continue
        value, rank = value_and_rank(row.columns["most.ns"][at], largest=True)
        map_.mean_ns.append(row.columns["ns"][at] // steps)
        map_.longest_ns.append(value)
        map_.longest_rank.append(rank)
