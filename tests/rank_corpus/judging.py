"""What the advisor makes of a case's profiles, beside what was planted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rank_corpus.case import FAST, MESSAGES, STRAGGLER, Case
from stepscope.advisor.advice import Prediction
from stepscope.advisor.advise import advise
from stepscope.advisor.inputs import load_input
from stepscope.advisor.knowledge import Knowledge, Predictor
from stepscope.advisor.link_rates import slow_links, slowest_link, with_link
from stepscope.advisor.measure import measure
from stepscope.advisor.outcome import Outcome
from stepscope.advisor.predict import outcome, predict
from stepscope.advisor.stages import Stages
from stepscope.profiler.format import Profile


@dataclass(frozen=True)
class Found:
    """What was said of a case."""

    cause: str
    """The cause that the verdict names; `healthy`, if it says that of another than the planted."""
    who: str
    """The slow rank and its cause, or the ranks whose links are slow."""
    right: bool
    bits_per_s: float | None
    """Of the slowest link, headers of packets included."""
    predicted: Prediction | None
    """Of taking the planted cause away; None of a healthy case."""


def judge(case: Case, folder: Path, knowledge: Knowledge) -> Found:
    """Advise on all ranks of a case together."""
    profile = load_input(folder)
    verdict = advise(profile, knowledge).verdict
    link = slowest_link(profile)
    # A verdict that names the cause and has no exact remedy for it is right all the same.
    cause = "healthy" if verdict.healthy and verdict.cause != case.cause else verdict.cause
    who, blamed = _who(case, profile)
    return Found(
        cause=cause,
        who=who,
        right=cause == (case.cause or "healthy") and blamed,
        bits_per_s=None if link is None else 8 * link.bytes_per_s,
        predicted=_predicted(case, profile),
    )


def _who(case: Case, profile: Profile) -> tuple[str, bool]:
    """Who is blamed, and whether rightly so."""
    ranks = profile.ranks
    if ranks is None:
        return "one rank only", False
    if case.cause == STRAGGLER:
        if not ranks.persistent:
            return "in turn", case.rank is None
        first = ranks.stragglers[0]
        return f"{first.rank}: {first.cause}", (
            first.rank == case.rank and first.cause in case.own_causes
        )
    slow = sorted(link.rank for link in slow_links(profile))
    expected = [] if case.rank is None else [case.rank]
    return ", ".join(map(str, slow)) or "nobody", slow == expected


def _predicted(case: Case, profile: Profile) -> Prediction | None:
    if case.cause is None:
        return None
    measurement = measure(profile)

    def unchanged(stages: Stages) -> Stages:
        return stages

    change: Outcome | None
    link = slowest_link(profile)
    if case.slow and link is None:
        return None
    if link is not None and case.slow:
        change = Outcome(lambda s: with_link(s, link, FAST / 8), "all links are fast")
    elif case.cause == MESSAGES:
        joined = Predictor(name="joined_messages")
        change = outcome(joined, profile, measurement.stages)
    else:
        change = Outcome(lambda s: s.without(STRAGGLER), "nobody is slow")
    return predict(change, unchanged, measurement) if change is not None else None
