"""Collectives that the programs of all ranks call, by kind and size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct, structs

from stepscope.advisor.ranks.sketches import kept
from stepscope.profiler.format import CollectiveCalls

_MOST = 400
"""Kinds and sizes; a recorder keeps half as many."""


class Calls(Struct):
    """Calls of one kind and size, summed over the ranks."""

    row: CollectiveCalls
    """`median_ns` and `usual_ns` are those of the ranks, times their calls."""
    median_of: int
    """Calls of the ranks that have told the median."""
    usual_of: int


Table = dict[str, Calls]


def calls_of(rows: Iterable[CollectiveCalls]) -> Table:
    """One rank's table."""
    return kept({_key(row): _weighted(row) for row in rows}, _MOST)


def joined(one: Mapping[str, Calls], other: Mapping[str, Calls]) -> Table:
    """Both together, in any order."""
    both = {**one}
    for key, b in other.items():
        both[key] = _both(one[key], b) if key in one else b
    return kept(both, _MOST)


def mean_calls(table: Table, ranks: int) -> list[CollectiveCalls]:
    """Means of the ranks, the costliest first.

    A call is as quick as on the quickest rank, the one that the others have waited for.
    """
    rows = [_mean(calls, ranks) for calls in table.values()]
    return sorted(rows, key=lambda row: -(row.time_ns or 0))


def _key(row: CollectiveCalls) -> str:
    size = "" if row.bytes is None else (row.bytes // max(1, row.calls)).bit_length()
    return f"{row.kind} {row.ranks} {row.device} {row.asynchronous} {size}"


def _weighted(row: CollectiveCalls) -> Calls:
    median, usual = row.median_ns, row.usual_ns
    return Calls(
        structs.replace(
            row, median_ns=(median or 0) * row.calls, usual_ns=(usual or 0) * row.calls
        ),
        median_of=0 if median is None else row.calls,
        usual_of=0 if usual is None else row.calls,
    )


def _both(a: Calls, b: Calls) -> Calls:
    x, y = a.row, b.row
    row = structs.replace(
        x,
        calls=x.calls + y.calls,
        bytes=_sum(x.bytes, y.bytes),
        time_ns=_sum(x.time_ns, y.time_ns),
        waits=x.waits + y.waits,
        median_ns=_sum(x.median_ns, y.median_ns),
        usual_ns=_sum(x.usual_ns, y.usual_ns),
        quick_ns=min((q for q in (x.quick_ns, y.quick_ns) if q is not None), default=None),
        quick_error_ns=max(
            (e for e in (x.quick_error_ns, y.quick_error_ns) if e is not None), default=None
        ),
    )
    return Calls(row, a.median_of + b.median_of, a.usual_of + b.usual_of)


def _mean(found: Calls, ranks: int) -> CollectiveCalls:
    row = found.row
    calls = max(1, round(row.calls / ranks))
    return structs.replace(
        row,
        calls=calls,
        bytes=None if row.bytes is None else round(row.bytes * calls / max(1, row.calls)),
        time_ns=None if row.time_ns is None else row.time_ns // ranks,
        waits=round(row.waits / ranks),
        median_ns=(row.median_ns or 0) // found.median_of if found.median_of else None,
        usual_ns=(row.usual_ns or 0) // found.usual_of if found.usual_of else None,
    )


def _sum(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else a + b
