"""Ranks in words."""

from __future__ import annotations

from collections.abc import Iterable

from stepscope.advisor.wording import bit_rate, cause_label, duration
from stepscope.profiler.format import Ranks, RankTimes, Straggler

_SLOW_CLOCK = 0.95


def straggler_words(ranks: Ranks, straggler: Straggler) -> str:
    """Which rank it is, where, and what it spends its time on."""
    row = next((row for row in ranks.rows if row.rank == straggler.rank), None)
    name = f"rank {straggler.rank}"
    if row is not None and row.host and ranks.hosts:
        name += f" on {row.host}"
    if row is None or straggler.cause is None or straggler.excess_ns is None:
        return f"{name} comes last"
    words = (
        f"{name} spends {duration(straggler.excess_ns / 1e9)} a step more than the median rank on "
        f"{cause_label(straggler.cause)}"
    )
    return words + _clock(row, ranks)


def _clock(row: RankTimes, ranks: Ranks) -> str:
    usual = ranks.typical.get("clock_khz", 0) / 1000
    if row.clock_mhz is None or row.clock_mhz > _SLOW_CLOCK * usual:
        return ""
    return f"; its GPU runs at {row.clock_mhz:.0f} MHz, the median one at {usual:.0f}"


def slow_rank_link_words(ranks: Ranks) -> list[str]:
    """Which ranks' links are slower than those of the others."""
    slow = [link for link in ranks.rank_links if link.usual_bytes_per_s is not None]
    if not slow:
        return []
    numbers = ", ".join(str(rank) for rank in sorted(link.rank for link in slow))
    return [
        f"The link of rank {numbers} carries {bit_rate(slow[0].bytes_per_s)}, those of the others "
        f"{bit_rate(slow[0].usual_bytes_per_s or 0.0)}."
    ]


def ranks_in_words(ranks: Iterable[int], size: int) -> str:
    """Ranks as spans: `0 to 3, 8`."""
    spans: list[list[int]] = []
    for rank in ranks:
        if spans and rank == spans[-1][-1] + 1:
            spans[-1][1:] = [rank]
        else:
            spans.append([rank])
    words = ", ".join(
        f"{span[0]} to {span[-1]}" if len(span) > 1 else str(span[0]) for span in spans
    )
    return f"ranks {words}" if words else f"{size} ranks"
