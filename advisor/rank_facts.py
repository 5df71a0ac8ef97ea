"""Facts that only the records of several ranks tell together."""

from __future__ import annotations

from stepscope.advisor.knowledge import Draft
from stepscope.advisor.link_rates import slow_links, slowest_link
from stepscope.advisor.measure import Measurement
from stepscope.advisor.wording import cause_label
from stepscope.profiler.format import Profile


def rank_facts(facts: Draft, profile: Profile, measurement: Measurement) -> None:
    """Who waits for whom."""
    ranks = profile.ranks
    if ranks is None:
        return
    facts["ranks.count"] = ranks.count
    facts["ranks.missing"] = ranks.missing
    facts["ranks.imbalance"] = ranks.imbalance
    _link_facts(facts, profile)
    if ranks.heat is None or ranks.heat.kind != "own":  # collectives were not timed
        return
    facts["ranks.waiting_share"] = ranks.waiting_ns / max(1, sum(profile.steady.wall_ns))
    facts["ranks.one_straggler"] = ranks.persistent
    if ranks.persistent:
        first = ranks.stragglers[0]
        facts["ranks.straggler"] = str(first.rank)
        facts["ranks.straggler_part"] = first.waited_for_ns / max(1, ranks.waiting_ns)
        facts["ranks.straggler_cause"] = first.cause and cause_label(first.cause)
        if first.excess_ns is not None:
            facts["ranks.straggler_seconds"] = first.excess_ns / 1e9


def _link_facts(facts: Draft, profile: Profile) -> None:
    slowest, slow = slowest_link(profile), slow_links(profile)
    if slowest is None:
        return
    facts["ranks.link_bandwidth"] = slowest.bytes_per_s
    facts["ranks.slow_links"] = len(slow)
    if slow:
        facts["ranks.slow_link"] = ", ".join(str(rank) for rank in sorted(s.rank for s in slow))
        facts["ranks.usual_link_bandwidth"] = slow[0].usual_bytes_per_s
