"""The verdict: what holds the step, whether that can be mended, and what to do first."""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

from stepscope.advisor.advice import Finding, Place, PlanStep, Prediction, Verdict
from stepscope.advisor.bottleneck import bottleneck
from stepscope.advisor.causes import CAUSES
from stepscope.advisor.knowledge import Knowledge
from stepscope.advisor.measure import Measurement
from stepscope.advisor.plan import Plan
from stepscope.advisor.predict import model_error
from stepscope.advisor.rank_words import slow_rank_link_words, straggler_words
from stepscope.advisor.scaling.traffic import COLLECTIVE
from stepscope.advisor.wording import (
    MAY_LOSE,
    cause_label,
    duration,
    share,
    speedup,
    speedup_interval,
)
from stepscope.profiler.format import Ranks

HEALTHY_GAIN = 0.10
"""A run is healthy when nothing exact is predicted to gain this much, its usual error apart."""


class Gains(NamedTuple):
    """What leaves the mathematics as it is and gains most."""

    program: float
    """Speedup by a change of the program."""
    link: Prediction | None
    """By a link of twice the bandwidth; None where ranks exchange little, or none is known."""

    def healthy(self, cause: str, limit: float) -> bool:
        """Whether neither gains `limit`; a link matters where the exchange holds the step."""
        best = self.program
        if cause == COLLECTIVE and self.link is not None:
            best = max(best, self.link.speedup)
        return best / sqrt(model_error(best)) < 1 + limit  # by its usual error: half of the 90 %


def best_exact(findings: list[Finding], knowledge: Knowledge) -> float:
    """The largest speedup that an exact change of the program is predicted to give."""
    return max(
        (
            r.predicted.speedup
            for f in findings
            for r in f.recommendations
            if r.kind == "exact"
            and r.predicted is not None
            and not knowledge.methods[r.method].outside
        ),
        default=1.0,
    )


def verdict_of(
    measurement: Measurement,
    plan: Plan,
    gains: Gains,
    limit: float,
    places: dict[str, list[Place]],
    ranks: Ranks | None,
) -> Verdict:
    """The bottleneck in a sentence.

    Args:
        measurement: of the run.
        plan: what to do about it.
        gains: the best changes.
        limit: gain below which there is nothing to mend.
        places: of the program, by cause.
        ranks: what several ranks have told together.
    """
    cause = bottleneck(measurement.stages)
    interval = measurement.breakdown.causes.get(cause)
    part = interval.share if interval else 0.0
    step = measurement.breakdown.step_seconds
    where = (
        f"{share(part)} of each step ({duration(part * step)} of {duration(step)}) goes to "
        f"{cause_label(cause)}"
    )
    healthy = gains.healthy(cause, limit)
    if healthy:
        sentence = (
            f"Nothing to fix: {where}, and no exact change is predicted to gain "
            f"{share(limit)} or more"
        )
        if gains.program > 1.0:
            sentence += f" (the best one gains {share(gains.program - 1)})"
        sentence += "."
    else:
        sentence = f"{where[0].upper()}{where[1:]}."
        sentence += _about_ranks(cause, gains, ranks) + _first_of(plan)
    return Verdict(
        category=CAUSES[cause].category,
        cause=cause,
        healthy=healthy,
        sentence=sentence,
        share=part,
        places=places.get(cause, []),
    )


def _about_ranks(cause: str, gains: Gains, ranks: Ranks | None) -> str:
    words = []
    if cause == "communication.straggler" and ranks is not None and ranks.persistent:
        who = straggler_words(ranks, ranks.stragglers[0])
        words.append(f"{who[0].upper()}{who[1:]}.")
    if cause == COLLECTIVE and ranks is not None:
        words += slow_rank_link_words(ranks)
    if cause == COLLECTIVE and gains.link is not None and gains.link.speedup > gains.program:
        interval = speedup_interval(gains.link.low, gains.link.high)
        words.append(
            f"A link of twice the bandwidth is predicted to give {speedup(gains.link.speedup)}, "
            f"{interval}; no change of the program gives as much without touching the mathematics."
        )
    return "".join(f" {each}" for each in words)


def _first_of(plan: Plan) -> str:
    exact = [step for step in plan.steps if step.kind == "exact"]
    first = (exact or plan.steps)[0] if plan.steps else None
    return f" First: {_lower(first.title)} ({_promise(first)})." if first is not None else ""


def _promise(step: PlanStep) -> str:
    predicted = step.predicted
    if predicted.basis == "bound":
        worst = f", at worst {speedup(predicted.low)}" if predicted.low < MAY_LOSE else ""
        return f"predicted {speedup(predicted.speedup)}, at most {speedup(predicted.high)}{worst}"
    interval = speedup_interval(predicted.low, predicted.high)
    words = f"predicted {speedup(predicted.speedup)}, {interval}"
    return f"{predicted.assumes}: {words}" if "=" in predicted.assumes else words


def _lower(title: str) -> str:
    return title[:1].lower() + title[1:] if title[1:2].islower() else title


def left_words(plan: Plan, cause: str, left: float) -> str:
    """What could still be gained after the plan, by removing wholly what then holds the step."""
    begin = "After these steps" if plan.steps else "As it is"
    if left < 0.01:
        return f"{begin} no single cause holds the step back: removing any one gains nothing."
    return (
        f"{begin} the step is held by {cause_label(cause)}: what is left is at most {share(left)} "
        f"of it, {speedup(1 / (1 - left))} if that cost nothing at all."
    )
