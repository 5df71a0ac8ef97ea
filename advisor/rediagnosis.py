"""The run as it would be once some of the plan is done: the model's stages, read as facts again."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from stepscope.advisor.facts import Facts, facts_of
from stepscope.advisor.measure import Breakdown, Interval, Measurement
from stepscope.advisor.stages import HANDOVER, STARVATION, Seconds, Stages
from stepscope.profiler.format import Profile


class _Step(NamedTuple):
    """A modelled step: the training thread's own work, and its waiting for batches."""

    work: Seconds
    wait: Seconds


def facts_after(profile: Profile, measurement: Measurement, stages: Stages) -> Facts:
    """Facts of a run whose stages are `stages`; what the model does not change is as measured."""
    step = _step(stages)
    seconds = {c: step.work.get(c, 0.0) + step.wait.get(c, 0.0) for c in {**step.work, **step.wait}}
    total = max(1e-12, sum(seconds.values()))
    shares = {c: Interval(s / total, s / total, s / total) for c, s in seconds.items() if s > 0}
    changed = replace(measurement, breakdown=Breakdown(total, shares), stages=stages)
    facts = facts_of(profile, changed)
    modelled: Facts = {
        "data.wait_share": sum(step.wait.values()) / total,
        "loader.num_workers": stages.workers,
        "loader.prefetch_factor": stages.prefetch,
        "loader.in_order": stages.in_order,
    }
    facts |= {name: value for name, value in modelled.items() if name in facts}
    return facts


def _step(stages: Stages) -> _Step:
    """What the model says of a step, by cause; contention is the causes' own, or by others."""
    slow = stages.slowdowns.main
    own = slow / (1 + stages.contention_main.fixed)
    work: Seconds = {}
    for cause, seconds in stages.main.items():
        blocked = stages.main_blocked.get(cause, 0.0)
        work[cause] = blocked + (seconds - blocked) * own
        work[STARVATION] = work.get(STARVATION, 0.0) + (seconds - blocked) * (slow - own)
    making: Seconds = {}
    for part in (stages.fetch_cpu, stages.fetch_blocked, {HANDOVER: stages.receive}):
        for cause, seconds in part.items():
            making[cause] = making.get(cause, 0.0) + seconds
    whole = sum(making.values())
    waited = max(0.0, stages.seconds() / stages.factor - sum(work.values()))
    wait = {cause: waited * seconds / whole for cause, seconds in making.items()} if whole else {}
    return _Step(
        {cause: seconds * stages.factor for cause, seconds in work.items()},
        {cause: seconds * stages.factor for cause, seconds in wait.items()},
    )
