"""Several methods at once: what each gains alone, on top of the others, and all together.

And of a trace: its steps with other durations and the same dependencies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from stepscope.advisor.advice import Factors, Interplay, Kind, Prediction, WhatIf
from stepscope.advisor.bottleneck import bottleneck
from stepscope.advisor.composition import factors_of, interplay
from stepscope.advisor.critical_path import SCENARIOS
from stepscope.advisor.critical_path import what_if as explained
from stepscope.advisor.device_path import on_device_path
from stepscope.advisor.engine import obstacle
from stepscope.advisor.facts import Facts, facts_of
from stepscope.advisor.inputs import is_trace
from stepscope.advisor.knowledge import Knowledge, KnowledgeError, Method
from stepscope.advisor.measure import Measurement, measure
from stepscope.advisor.outcome import Change, remembered, then
from stepscope.advisor.plan import Whole, in_use, left_share, possible
from stepscope.advisor.predict import outcome, predict
from stepscope.profiler.format import Profile
from stepscope.profiler.storage import ProfileError, load


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


def replayed(
    path: Path, faster: Sequence[str], launch_free: bool, hide_communication: bool
) -> WhatIf:
    """Replay a trace with changes.

    Args:
        path: the trace of one process.
        faster: `NAME=K` each: an operator, a kernel or an owner of the critical path, and how many
            times as fast it gets.
        launch_free: operators and launches on the host cost nothing.
        hide_communication: no collective is waited for.

    Raises:
        ProfileError: it is no trace, cannot be read, or has not what a change names; or a change
            is no `NAME=K`.
    """
    if not is_trace(path):
        if not path.is_dir():
            load(path)  # which tells what is wrong with the file
        raise ProfileError(
            f"{path}: only a trace of torch.profiler (one file) can be replayed; "
            "for a profile, name methods"
        )
    changes = [_change(text) for text in faster]
    titles = [
        f"{name} is {times:g} times as fast" if times < math.inf else f"{name} costs nothing"
        for name, times in changes
    ]
    titles += [SCENARIOS["launch_free"]] * launch_free
    titles += [SCENARIOS["communication_hidden"]] * hide_communication
    title = " and ".join(titles)
    try:
        from stepscope.advisor.traces.path_tables import replay  # noqa: PLC0415  # costs numpy
        from stepscope.advisor.traces.scenarios import Scenario  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ProfileError(
            f"{path}: reading a trace needs the package {error.name}; "
            "pip install 'stepscope[traces]'"
        ) from None
    scenario = Scenario(tuple(changes), launch_free, hide_communication)
    return explained(replay(path, scenario, title))


def _change(text: str) -> tuple[str, float]:
    name, _, times = text.rpartition("=")
    try:
        factor = float(times)
    except ValueError:
        factor = math.nan
    if not name or not factor > 0:
        raise ProfileError(f"--faster {text}: give NAME=K with a number above 0 (inf: for free)")
    return name, factor


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
