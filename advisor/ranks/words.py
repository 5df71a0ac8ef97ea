"""What many ranks tell together, in sentences."""

from __future__ import annotations

from datetime import datetime

from stepscope.advisor.rank_words import (
    ranks_in_words,
    slow_rank_link_words,
    straggler_words,
)
from stepscope.advisor.ranks.summary import Summary
from stepscope.advisor.wording import duration, plural, share, size
from stepscope.profiler.format import Clock, HostTimes, Link, Ranks

_NOTEWORTHY = 0.02
"""Part of the time below which waiting for a rank is the usual noise."""
_SLOW_HOST = 1.1
_APART_SECONDS = 600
_SHOWN = 8
_BADLY_SET = 10_000_000
"""Nanoseconds: by network time, clocks of machines in one place agree to a few milliseconds."""
_DRIFTING = 2e-5
"""What a quartz that nothing corrects may gain or lose: 70 ms in an hour."""
_SURELY = 3


def words_of(ranks: Ranks, summary: Summary, wall: int) -> list[str]:
    """The sentences.

    Args:
        ranks: all ranks together.
        summary: what they were made of.
        wall: nanoseconds of all steps of the job.
    """
    words = [f"Times are means of {ranks.count} ranks."]
    if ranks.missing:
        words.append(_missing(ranks))
    apart = _seconds_apart(*summary.started_at)
    if apart > _APART_SECONDS and not summary.jobs:
        words.append(
            f"The ranks started up to {duration(apart)} apart: are they of one run? "
            "If not, remove the files of the other."
        )
    else:
        words += _clocks(ranks.clocks)
    if ranks.count < 2:
        return words
    if not summary.exchange_known:
        words.append(
            "Not every rank has timed its collectives, so that waiting for a slow rank cannot be "
            "told from the exchange itself."
        )
        return words
    words += _stragglers(ranks, wall, _noun(summary))
    words += _slow_hosts(ranks.hosts) + _slow_links(ranks.links)
    return words + slow_rank_link_words(ranks)


def _missing(ranks: Ranks) -> str:
    numbers = ", ".join(str(rank) for rank in ranks.missing_ranks[:_SHOWN])
    more = ", ..." if ranks.missing > _SHOWN else ""
    what = "rank of the job has" if ranks.missing == 1 else "ranks of the job have"
    return (
        f"{ranks.missing} {what} no record here: {numbers}{more}. "
        "What they did is not guessed; others may have waited for them."
    )


def _clocks(clocks: list[Clock]) -> list[str]:
    """Clocks that are set badly, or drift: what is read on them cannot be put side by side."""
    others = "the other's" if len(clocks) == 2 else "the others'"
    words = []
    for clock in clocks[:_SHOWN]:
        wrong = abs(clock.offset_ns) > max(_BADLY_SET, _SURELY * clock.uncertainty_ns)
        drift = clock.drift or 0.0
        said = []
        if wrong:
            said.append(
                f"is {duration(abs(clock.offset_ns) / 1e9)} "
                f"{'ahead of' if clock.offset_ns > 0 else 'behind'} {others}"
            )
        if abs(drift) > _DRIFTING:
            said.append(
                f"{'gains' if drift > 0 else 'loses'} {duration(3600 * abs(drift))} an hour"
            )
        if said:
            whose = f"host {clock.host}" if clock.host else f"rank {clock.rank}"
            words.append(
                f"The clock of {whose} {' and '.join(said)} (within "
                f"{duration(clock.uncertainty_ns / 1e9)}, by the ends of {clock.meetings} "
                "collectives): beware of comparing times in its logs with those of other hosts."
            )
    return words


def _noun(summary: Summary) -> str:
    """What ranks are seen to meet in."""
    return "collective" if summary.meetings else "step"


def _stragglers(ranks: Ranks, wall: int, noun: str) -> list[str]:
    part = ranks.waiting_ns / max(1, wall)
    if part < _NOTEWORTHY:
        return ["No rank keeps the others waiting."]
    if not ranks.persistent:
        others = ", ".join(str(straggler.rank) for straggler in ranks.stragglers)
        return [
            f"Ranks wait for each other for {share(part)} of the time, but for no single one: "
            f"different ranks come last in turn (most often {others})."
        ]
    first = ranks.stragglers[0]
    waited = share(first.waited_for_ns / max(1, wall))
    return [
        f"The others wait for rank {first.rank}: it comes last in "
        f"{plural(first.collectives, noun)}, and they wait {waited} of the time; "
        f"{straggler_words(ranks, first)}."
    ]


def _slow_hosts(hosts: list[HostTimes]) -> list[str]:
    """A host all of whose ranks are slow is to blame, rather than one of them."""
    others = hosts[1:]
    if not others or hosts[0].ranks < 2:
        return []
    usual = sum(host.own_ns * host.ranks for host in others) / sum(host.ranks for host in others)
    first = hosts[0]
    if usual <= 0 or first.own_ns < _SLOW_HOST * usual:
        return []
    return [
        f"The {first.ranks} ranks of host {first.host} need {duration(first.own_ns / 1e9)} a step "
        f"outside of collectives, those of the other hosts {duration(usual / 1e9)}."
    ]


def _slow_links(links: list[Link]) -> list[str]:
    """Groups whose bus is slower than that of others which do the same."""
    return [
        f"Slow link: {link.collective} of {ranks_in_words(link.ranks, link.size)}"
        f"{' on ' + ', '.join(link.hosts) if link.hosts else ''} moves "
        f"{size(link.bus_bytes_per_s)}/s over its slowest link, other groups of {link.size} ranks "
        f"{size(link.usual_bytes_per_s)}/s ({plural(link.calls, 'call')} of {size(link.bytes)})."
        for link in links
        if link.usual_bytes_per_s is not None
    ][:_SHOWN]


def _seconds_apart(first: str, last: str) -> float:
    try:
        return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()
    except ValueError:  # a trace need not tell
        return 0.0
