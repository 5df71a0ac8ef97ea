"""From findings to a plan: which fix first, what it gains, and what holds the step back next."""

from __future__ import annotations

from typing import NamedTuple

from stepscope.advisor.advice import PlanStep, Prediction
from stepscope.advisor.bottleneck import bottleneck
from stepscope.advisor.engine import holds
from stepscope.advisor.facts import Facts
from stepscope.advisor.knowledge import Knowledge, Method
from stepscope.advisor.measure import Measurement
from stepscope.advisor.predict import Change, Outcome, outcome, predict
from stepscope.advisor.stages import Stages
from stepscope.profiler.format import Profile

WORTHWHILE = 1.03
"""A step of the plan gains at least this; less could not be told from noise."""
EQUAL = 1.05
"""Speedups within this ratio count as equal, and then the exact method goes first."""
MAX_STEPS = 6
_ORDER = {"exact": 0, "numerics": 1, "algorithmic": 2}


class Candidate(NamedTuple):
    """A method with its effect on this profile."""

    method: Method
    outcome: Outcome
    predicted: Prediction


class Plan(NamedTuple):
    """The steps, and the stages after the last of them."""

    steps: list[PlanStep]
    after: Stages


def possible(method: Method, facts: Facts) -> bool:
    """Whether a method can be applied here and is not in use already."""
    required = method.requires is None or holds(method.requires, facts, unknown=True)
    return required and not in_use(method, facts)


def in_use(method: Method, facts: Facts) -> bool:
    """Whether the program does it already."""
    return method.already_on is not None and holds(method.already_on, facts, unknown=False)


def make_plan(
    methods: list[str],
    knowledge: Knowledge,
    profile: Profile,
    measurement: Measurement,
    facts: Facts,
) -> Plan:
    """Take the best method, apply it to the stages, diagnose again; until little is left.

    Args:
        methods: ids of candidate methods, advised by the rules that fired.
        knowledge: the catalogue.
        profile: the run.
        measurement: its stages.
        facts: its facts.
    """
    state: Change = _unchanged
    cumulative = 1.0
    steps: list[PlanStep] = []
    left = [knowledge.methods[name] for name in dict.fromkeys(methods)]
    while len(steps) < MAX_STEPS:
        best = _best(left, profile, measurement, facts, state)
        if best is None:
            break
        state = _then(state, best.outcome.likely)
        after = state(measurement.stages)
        cumulative *= best.predicted.speedup
        steps.append(
            PlanStep(
                method=best.method.id,
                title=best.method.name,
                kind=best.method.kind,
                predicted=best.predicted,
                cumulative=cumulative,
                measured=None,
                next_cause=bottleneck(after),
            )
        )
        taken = {best.method.id, *best.method.conflicts_with}
        left = [
            m
            for m in left
            if m.id not in taken
            and best.method.id not in m.conflicts_with
            and not _same_remedy(m, best.method)
        ]
    return Plan(steps, state(measurement.stages))


def evaluate(
    method: Method, profile: Profile, measurement: Measurement, state: Change | None = None
) -> Candidate | None:
    """A method with its prediction, on top of what `state` changes; None without a predictor."""
    state = state or _unchanged
    change = outcome(method.predictor, profile, state(measurement.stages))
    if change is None:
        return None
    return Candidate(method, change, predict(change, state, measurement))


def _best(
    methods: list[Method],
    profile: Profile,
    measurement: Measurement,
    facts: Facts,
    state: Change,
) -> Candidate | None:
    """The candidate with the largest gain; exact before numerics before algorithmic at equals."""
    now = bottleneck(state(measurement.stages))
    candidates = [
        candidate
        for method in methods
        if not method.outside and possible(method, facts) and now not in method.loads
        for candidate in [evaluate(method, profile, measurement, state)]
        if candidate is not None and candidate.predicted.speedup >= WORTHWHILE
    ]
    if not candidates:
        return None
    top = max(c.predicted.speedup for c in candidates)
    equal = [c for c in candidates if c.predicted.speedup * EQUAL >= top]
    # Among equals the rule's own order decides, which is the order of `methods`.
    return min(equal, key=lambda c: _ORDER[c.method.kind])


def _same_remedy(one: Method, other: Method) -> bool:
    """Two bounds on the same cause: having taken one, half of the other is a guess on a guess."""
    a, b = one.predictor, other.predictor
    return bool(a.causes) and a.name == b.name and a.causes == b.causes


def _unchanged(stages: Stages) -> Stages:
    return stages


def _then(first: Change, second: Change) -> Change:
    return lambda stages: second(first(stages))
