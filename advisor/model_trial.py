"""What the model alone says with other sizes of batch and other numbers of threads, where tried.

Rounds in which all variants ran one after another are compared with each other, so that what the
rest of the machine did meanwhile was much the same for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median, quantiles
from typing import NamedTuple

from stepscope.advisor.knowledge import Draft
from stepscope.profiler.format import (
    ModelTrial,
    Profile,
    Resized,
    Threaded,
    ThreadedOperator,
)

TWICE = 2.0
_AS_GOOD = 1.03
"""Times within this ratio are the same: the smaller number of threads will do."""
_SCALES = 0.25
"""An operator that gains less than this part of what more threads could give does not scale."""
_NAMED = 3


class Spread(NamedTuple):
    """Median and quartiles of the ratios in single rounds."""

    low: float
    middle: float
    high: float


class ThreadChoice(NamedTuple):
    """The number of intra-op threads to take, and what becomes of the model with it."""

    now: int
    best: int
    passes: Spread
    """Time of forward and backward over the present one."""
    updates: float
    """The same of the optimizer."""


def model_trial(profile: Profile) -> ModelTrial | None:
    """What was tried, if anything."""
    return profile.ceilings.model if profile.ceilings else None


def pass_ratio(profile: Profile, factor: float) -> Spread | None:
    """Time of forward and backward with `factor` times the batch over that with the present one."""
    times = {size.factor: size.pass_ns for size in _sizes(profile)}
    return _spread(times.get(factor, []), times.get(1.0, []))


def step_ratio(profile: Profile, factor: float) -> float | None:
    """The same with the optimizer's part of a step, which no batch changes."""
    found, tried = pass_ratio(profile, factor), model_trial(profile)
    if found is None or tried is None:
        return None
    own = next(size.pass_ns for size in tried.sizes if size.factor == 1.0)
    update = _update_share(profile) * median(tried.optimizer_ns or [0])
    return (found.middle * median(own) + update) / (median(own) + update)


def batch_growth(profile: Profile) -> float | None:
    """Time that as many samples again add to forward and backward, over their present time."""
    found = pass_ratio(profile, TWICE)
    return None if found is None else max(0.0, found.middle - 1)


def thread_choice(profile: Profile) -> ThreadChoice | None:
    """The smallest number of threads with which the model is as fast as with any that was tried."""
    tried, now = _threads(profile), profile.configuration.intra_op_threads
    present = next((each for each in tried if each.threads == now), None)
    if present is None or len(tried) < 2:
        return None
    share = _update_share(profile)
    seconds = [_seconds(each, share) for each in tried]
    best = next(
        each
        for each, s in zip(tried, seconds, strict=True)
        if s <= _AS_GOOD * min(seconds)  # they are in order
    )
    passes = _spread(best.pass_ns, present.pass_ns)
    updates = _spread(best.optimizer_ns, present.optimizer_ns)
    if passes is None:
        return None
    return ThreadChoice(
        present.threads, best.threads, passes, updates.middle if updates is not None else 1.0
    )


def parallel_efficiency(profile: Profile) -> float | None:
    """Time with one thread over that with the most, times their number."""
    tried, share = _threads(profile), _update_share(profile)
    if len(tried) < 2 or tried[0].threads != 1:
        return None
    return _seconds(tried[0], share) / (tried[-1].threads * _seconds(tried[-1], share))


def unscaled_operators(profile: Profile) -> list[ThreadedOperator]:
    """Operators that hardly gain by more threads, the most expensive first."""
    tried, trial = _threads(profile), model_trial(profile)
    if trial is None or len(tried) < 2:
        return []
    enough = 1 + _SCALES * (tried[-1].threads - 1)
    return [row for row in trial.operators if row.one_ns < enough * row.most_ns]


def trial_facts(facts: Draft, profile: Profile) -> None:
    """Ratios of times with other batches, and what threads do."""
    facts["probe.batch_ratio"] = step_ratio(profile, TWICE)
    facts["probe.half_batch_ratio"] = step_ratio(profile, 0.5)
    facts["probe.thread_efficiency"] = parallel_efficiency(profile)
    choice, trial = thread_choice(profile), model_trial(profile)
    if choice is not None:
        facts["probe.best_threads"] = choice.best
    if trial is not None and trial.operators:
        rows = unscaled_operators(profile)
        whole = sum(row.most_ns for row in trial.operators)
        facts["probe.unscaled_share"] = sum(row.most_ns for row in rows) / max(1, whole)
        names = [row.name.removeprefix("aten::") for row in rows[:_NAMED]]
        facts["probe.unscaled_operators"] = ", ".join(names) or "none"


def _sizes(profile: Profile) -> list[Resized]:
    tried = model_trial(profile)
    return tried.sizes if tried is not None else []


def _threads(profile: Profile) -> list[Threaded]:
    tried = model_trial(profile)
    rows = tried.threads if tried is not None else []
    return sorted((row for row in rows if row.pass_ns), key=lambda row: row.threads)


def _seconds(row: Threaded, update_share: float) -> float:
    return (median(row.pass_ns) + update_share * median(row.optimizer_ns or [0])) / 1e9


def _update_share(profile: Profile) -> float:
    """Updates of the weights per batch."""
    updates = sum(profile.steady.calls.get("optimizer_steps", []))
    return min(1.0, updates / profile.steady.total) if profile.steady.total else 1.0


def _spread(changed: Sequence[int], present: Sequence[int]) -> Spread | None:
    ratios = [after / before for after, before in zip(changed, present, strict=False) if before]
    if not ratios:
        return None
    if len(ratios) == 1:
        return Spread(ratios[0], ratios[0], ratios[0])
    low, middle, high = quantiles(ratios, n=4, method="inclusive")
    return Spread(low, middle, high)
