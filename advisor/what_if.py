"""Several methods at once: what each gains alone, on top of the others, and all together."""

from __future__ import annotations

from msgspec import Struct

from stepscope.advisor.advice import Factors, Interplay, Kind, Prediction
from stepscope.advisor.bottleneck import bottleneck
from stepscope.advisor.composition import factors_of, interplay
from stepscope.advisor.device_path import on_device_path
from stepscope.advisor.engine import obstacle
from stepscope.advisor.facts import Facts, facts_of
from stepscope.advisor.knowledge import Knowledge, KnowledgeError, Method
from stepscope.advisor.measure import Measurement, measure
from stepscope.advisor.plan import Whole, in_use, left_share, possible, remembered, then
from stepscope.advisor.predict import Change, outcome, predict
from stepscope.profiler.format import Profile


class Part(Struct, kw_only=True):
    """One of the methods."""

    method: str
    title: str
    kind: Kind
    alone: Prediction | None
    """On the run as it is; None where only the literature speaks."""
    on_top: Prediction | None
    """On top of the methods before it."""
    factors: Factors | None
    reported: str
    """What others report, with the source."""
    remark: str
    """Why it cannot be done here, or that it is on already; empty where neither holds."""


class Together(Struct, kw_only=True):
    """All of them."""

    parts: list[Part]
    speedup: float
    """Of those that can be predicted."""
    low: float
    high: float
    kappa: float
    """That speedup over the product of the single ones: below 1 they share a part of the gain."""
    next_cause: str
    left_share: float
    interplay: list[Interplay]


def what_if(names: list[str], profile: Profile, knowledge: Knowledge) -> Together:
    """Apply methods one after another.

    Raises:
        KnowledgeError: a method does not exist, is named twice, or excludes another one.
        NoStepsError: the profile holds too few steps.
    """
    methods = _checked(names, knowledge)
    profile = on_device_path(profile)
    measurement = measure(profile)
    facts = facts_of(profile, measurement)
    start = state = remembered(lambda stages: stages)
    whole, product = Whole(1.0, 0.0, 0.0), 1.0
    parts = []
    for method in methods:
        alone = _predicted(method, profile, measurement, start)
        on_top = _predicted(method, profile, measurement, state)
        parts.append(
            Part(
                method=method.id,
                title=method.name,
                kind=method.kind,
                alone=alone,
                on_top=on_top,
                factors=factors_of(method, measurement.stages),
                reported=f"{method.effect.text} ({method.effect.source})",
                remark=_remark(method, facts),
            )
        )
        change = outcome(method.predictor, profile, state(measurement.stages))
        if change is not None and alone is not None and on_top is not None:
            whole, product = whole.with_step(on_top), product * alone.speedup
            state = then(state, change.likely)
    after = state(measurement.stages)
    on = {method.id for method in knowledge.methods.values() if in_use(method, facts)}
    cause = bottleneck(after)
    return Together(
        parts=parts,
        speedup=whole.speedup,
        low=whole.low,
        high=whole.high,
        kappa=whole.speedup / product,
        next_cause=cause,
        left_share=left_share(after, cause),
        interplay=interplay(names, on - set(names), knowledge),
    )


def _checked(names: list[str], knowledge: Knowledge) -> list[Method]:
    for i, name in enumerate(names):
        if name not in knowledge.methods:
            raise KnowledgeError(f"there is no method {name!r}; `advise rules list --kind method`")
        for other in names[:i]:
            if other == name:
                raise KnowledgeError(f"{name} is named twice")
            if name in knowledge.excluded(other):
                raise KnowledgeError(f"{other} and {name} exclude each other: name one of them")
    return [knowledge.methods[name] for name in names]


def _predicted(
    method: Method, profile: Profile, measurement: Measurement, state: Change
) -> Prediction | None:
    change = outcome(method.predictor, profile, state(measurement.stages))
    return None if change is None else predict(change, state, measurement)


def _remark(method: Method, facts: Facts) -> str:
    """Whether there is anything against using a method here."""
    if in_use(method, facts):
        return "it is on already"
    if possible(method, facts):
        return ""
    why = obstacle(method.requires, facts) if method.requires else None
    return f"not possible here: {why}" if why else "not possible here"
