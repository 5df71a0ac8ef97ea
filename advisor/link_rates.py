"""Links between ranks: what the kernel has seen of them, and what faster ones would save."""

from __future__ import annotations

from stepscope.advisor.stages import Stages
from stepscope.profiler.format import Profile, RankLink

EXCHANGES = ("communication.collective", "communication.messages")


def slowest_link(profile: Profile) -> RankLink | None:
    """Of all ranks' links the slowest; None where the kernel did not tell."""
    links = profile.ranks.rank_links if profile.ranks else []
    return links[0] if links else None


def slow_links(profile: Profile) -> list[RankLink]:
    """Those that are slower than the others."""
    links = profile.ranks.rank_links if profile.ranks else []
    return [link for link in links if link.usual_bytes_per_s is not None]


def with_link(stages: Stages, link: RankLink, bytes_per_s: float) -> Stages:
    """The stages with so fast a link instead of the slowest.

    Bytes take as much less time as the link is faster. What of that time the step has waited for
    gets shorter in proportion; what backward hides, stays hidden.
    """
    exposed = sum(stages.main.get(cause, 0.0) for cause in EXCHANGES)
    if exposed <= 0:
        return stages
    saved = min(exposed, link.busy_ns / 1e9) * max(0.0, 1 - link.bytes_per_s / bytes_per_s)
    for cause in EXCHANGES:
        stages = stages.scaled(cause, 1 - saved / exposed)
    return stages
