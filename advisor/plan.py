"""From findings to a plan: which fix first, what it gains, and what holds the step back next."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, log, sqrt
from typing import NamedTuple

from stepscope.advisor.advice import RISKS, Alternative, PlanStep, Prediction
from stepscope.advisor.bottleneck import bottleneck
from stepscope.advisor.engine import holds
from stepscope.advisor.facts import Facts
from stepscope.advisor.knowledge import Knowledge, Method
from stepscope.advisor.measure import Measurement
from stepscope.advisor.outcome import Outcome, ratio, remembered, then
from stepscope.advisor.predict import gain, outcome, predict
from stepscope.advisor.stages import Stages
from stepscope.profiler.format import Profile

WORTHWHILE = 1.03
"""A step of the plan gains at least this; less could not be told from noise."""
EQUAL = 1.05
"""Speedups within this ratio count as equal, and then the exact method goes first."""
MAX_STEPS = 6
_ORDER = {"exact": 0, "numerics": 1, "algorithmic": 2}


class Candidate(NamedTuple):
    """A method with what it does to the stages, and the speedup that follows."""

    method: Method
    outcome: Outcome
    speedup: float
    worst: float
    """Speedup in the worst case of the change; below 1 it may lose."""

    @property
    def worthwhile(self) -> bool:
        """Whether it gains enough to be told, and more than it may lose: a gamble is no plan."""
        return self.speedup >= WORTHWHILE and self.speedup * self.worst >= 1


class Whole(NamedTuple):
    """Speedup of several steps, with the squared widths of its interval on a logarithmic scale."""

    speedup: float
    below: float
    above: float

    def with_step(self, step: Prediction) -> Whole:
        """One step more; that all turn out worst, or best, is unlikely: their errors add up."""
        return Whole(
            self.speedup * step.speedup,
            self.below + log(step.speedup / step.low) ** 2,
            self.above + log(step.high / step.speedup) ** 2,
        )

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.speedup / exp(sqrt(self.below))

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.speedup * exp(sqrt(self.above))


class Diagnosis(NamedTuple):
    """What a run, as it is or as it would be, calls for."""

    facts: Facts
    advised_by: dict[str, str]
    """Methods that rules advise, each with the id of the first such rule; best rules first."""


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
    first: Diagnosis,
    again: Callable[[Stages], Diagnosis],
    knowledge: Knowledge,
    profile: Profile,
    measurement: Measurement,
) -> Plan:
    """Take the best method, apply it to the stages, diagnose again; until little is left.

    Args:
        first: of the run as it was measured.
        again: diagnoses the run as it would be with other stages.
        knowledge: the catalogue.
        profile: the run.
        measurement: its stages.
    """
    done, whole = remembered(_unchanged), Whole(1.0, 0.0, 0.0)
    facts, advised_by = first
    steps: list[PlanStep] = []
    taken: list[Method] = []
    while len(steps) < MAX_STEPS:
        methods = [knowledge.methods[name] for name in advised_by]
        candidates = _candidates(methods, profile, facts, done(measurement.stages))
        if not candidates:
            break
        best = _best(candidates)
        before, done = done, then(done, best.outcome.likely)
        after = done(measurement.stages)
        predicted = predict(best.outcome, before, measurement)
        whole = whole.with_step(predicted)
        step = _plan_step(best, advised_by[best.method.id], predicted, whole, after)
        step.kappa = best.speedup / _alone(best.method, profile, measurement.stages)
        step.alternatives = [
            Alternative(
                method=other.method.id,
                title=other.method.name,
                predicted=predict(other.outcome, before, measurement),
            )
            for other in _alternatives(best, candidates, knowledge)
        ]
        steps.append(step)
        taken.append(best.method)
        facts, more = again(after)
        advised_by = {
            name: rule
            for name, rule in {**more, **advised_by}.items()
            if not _ruled_out(knowledge.methods[name], taken, knowledge)
        }
    return Plan(steps, done(measurement.stages))


def _plan_step(
    best: Candidate, rule: str, predicted: Prediction, whole: Whole, after: Stages
) -> PlanStep:
    """A step of the plan, as far as it does not depend on the steps before it."""
    next_cause = bottleneck(after)
    return PlanStep(
        method=best.method.id,
        title=best.method.name,
        kind=best.method.kind,
        risk=RISKS[best.method.kind],
        effort=best.method.effort,
        rule=rule,
        how_to=best.method.how_to,
        predicted=predicted,
        kappa=1.0,
        cumulative=whole.speedup,
        cumulative_low=whole.low,
        cumulative_high=whole.high,
        measured=None,
        next_cause=next_cause,
        left_share=left_share(after, next_cause),
        alternatives=[],
    )


def left_share(stages: Stages, cause: str) -> float:
    """Part of a step that would go if `cause` were gone: all that is left to gain there."""
    return 1 - 1 / (1 + max(0.0, gain(stages, cause)))


class Evaluator:
    """Speedups by single methods, applied to the run as it is; same predictor, same answer."""

    def __init__(self, profile: Profile, measurement: Measurement) -> None:
        self._profile = profile
        self._measurement = measurement
        self._known: dict[tuple[str, ...], Prediction | None] = {}

    def __call__(self, method: Method) -> Prediction | None:
        """Its prediction; None without a predictor."""
        key = (method.predictor.name, *method.predictor.causes)
        if key not in self._known:
            change = outcome(method.predictor, self._profile, self._measurement.stages)
            self._known[key] = (
                None if change is None else predict(change, _unchanged, self._measurement)
            )
        return self._known[key]


def _candidates(
    methods: list[Method], profile: Profile, facts: Facts, stages: Stages
) -> list[Candidate]:
    """Methods that are possible and worthwhile as things are."""
    now = bottleneck(stages)
    found = []
    for method in methods:
        if method.outside or now in method.loads or not possible(method, facts):
            continue
        change = outcome(method.predictor, profile, stages)
        if change is not None:
            likely, worst = change.likely(stages), change.worst(stages)
            found.append(Candidate(method, change, ratio(stages, likely), ratio(stages, worst)))
    return [candidate for candidate in found if candidate.worthwhile]


def _best(candidates: list[Candidate]) -> Candidate:
    """The candidate with the largest gain; exact before numerics before algorithmic at equals."""
    top = max(c.speedup for c in candidates)
    equal = [c for c in candidates if c.speedup * EQUAL >= top]
    # Among equals the rule's own order decides, which is the order of the candidates.
    return min(equal, key=lambda c: _ORDER[c.method.kind])


def _alternatives(
    best: Candidate, candidates: list[Candidate], knowledge: Knowledge
) -> list[Candidate]:
    """The candidates that do what the best one does, the next best first."""
    rivals = knowledge.rivals(best.method.id)
    same = [
        candidate
        for candidate in candidates
        if candidate.method.id in rivals
        or (candidate is not best and _same_remedy(candidate.method, best.method))
    ]
    return sorted(same, key=lambda candidate: -candidate.speedup)


def _alone(method: Method, profile: Profile, stages: Stages) -> float:
    """Speedup by a method of the run as it was measured; 1 where it would have been none."""
    change = outcome(method.predictor, profile, stages)
    return 1.0 if change is None else ratio(stages, change.likely(stages))


def _ruled_out(method: Method, taken: list[Method], knowledge: Knowledge) -> bool:
    """Whether what was taken leaves no place for a method."""
    return any(
        method.id in knowledge.excluded(other.id) or _same_remedy(method, other) for other in taken
    )


def _same_remedy(one: Method, other: Method) -> bool:
    """Two bounds on the same cause: having taken one, half of the other is a guess on a guess."""
    a, b = one.predictor, other.predictor
    return bool(a.causes) and a.name == b.name and a.causes == b.causes


def _unchanged(stages: Stages) -> Stages:
    return stages
