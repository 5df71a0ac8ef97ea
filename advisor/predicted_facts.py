"""Facts from the pipeline model: what a change would gain, so that rules need no rule of thumb."""

from __future__ import annotations

from typing import Literal

from stepscope.advisor.fetch import fetch_totals, training_loader
from stepscope.advisor.knowledge import Draft, Predictor
from stepscope.advisor.measure import Measurement
from stepscope.advisor.model_trial import thread_choice
from stepscope.advisor.outcome import ratio
from stepscope.advisor.predict import outcome, with_best_threads
from stepscope.advisor.stages import RECEIVE_SECONDS, Stages
from stepscope.profiler.format import Profile


def predicted_facts(facts: Draft, profile: Profile, measurement: Measurement) -> None:
    """Gains of changes that many rules of thumb are about, for this run."""
    stages = measurement.stages
    facts["step.batch_gain"] = 2 * ratio(stages, stages.with_batch(2)) - 1
    if thread_choice(profile) is not None:
        facts["probe.threads_gain"] = ratio(stages, with_best_threads(profile, stages)) - 1
    calibration = profile.environment.calibration
    on_device = bool(profile.environment.gpus)
    if on_device or (calibration is not None and calibration.gemm_bf16_flops):
        facts["torch.autocast_gain"] = _gain("bf16", profile, stages)
    if profile.configuration.optimizers and (on_device or calibration is not None):
        facts["optimizer.fused_gain"] = _gain("fused_optimizer", profile, stages)
    _loading(facts, profile, stages)


def _loading(facts: Draft, profile: Profile, stages: Stages) -> None:
    loader = training_loader(profile)
    if loader is None or stages.service <= 0:
        return
    best = stages.with_workers(stages.best_workers())
    facts["loader.workers_gain"] = ratio(stages, best) - 1
    receive = max(stages.receive, RECEIVE_SECONDS)  # without workers nobody has measured it
    facts["loader.handover_ratio"] = (receive + stages.packing) / stages.service
    totals, calibration = fetch_totals(loader), profile.environment.calibration
    if totals.items and calibration is not None:
        facts["loader.item_operators"] = totals.wall_ns / totals.items / calibration.eager_op_ns


def _gain(
    predictor: Literal["bf16", "fused_optimizer"], profile: Profile, stages: Stages
) -> float | None:
    change = outcome(Predictor(name=predictor), profile, stages)
    return None if change is None else ratio(stages, change.likely(stages)) - 1
