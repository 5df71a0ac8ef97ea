"""Predictors: what a method does to the stages, and the speedup that follows.

A method's file names one of these functions. None of them contains a gain: they change stages
that were measured, and the model says what comes of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import ceil, exp, inf, isfinite, log

from stepscope.advisor import messages
from stepscope.advisor.advice import Prediction
from stepscope.advisor.ceilings import serial_fraction
from stepscope.advisor.config_facts import micro_batches
from stepscope.advisor.contention import Contention
from stepscope.advisor.device_facts import clock_share, link_share
from stepscope.advisor.knowledge import Predictor
from stepscope.advisor.link_rates import slow_links, with_link
from stepscope.advisor.measure import Measurement
from stepscope.advisor.model_trial import ThreadChoice, thread_choice
from stepscope.advisor.outcome import Change, Outcome, ratio
from stepscope.advisor.scaling.overlap import overlapped
from stepscope.advisor.scaling.traffic import COLLECTIVE
from stepscope.advisor.stages import Stages
from stepscope.advisor.trainer import collectives_cause
from stepscope.profiler.format import Profile

DEEP_QUEUE = 8
"""Batches per worker: enough to even out what can be evened out, and still bounded memory."""
_ERROR_FLOOR, _ERROR_GROWTH = 0.10, 0.20
"""Part of a prediction's logarithm by which the model errs, fitted on the tuned corpus."""
_LEFT_OUT = {"no_pickles": "object", "no_barriers": "barrier"}
"""What the kinds of collectives have in their names that go away."""
RARE_SHARE = 0.01
"""What is done rarely enough may cost this part of the present step."""


def outcome(predictor: Predictor, profile: Profile, stages: Stages) -> Outcome | None:
    """What a method's predictor says for this profile; None where only the literature speaks."""
    function = PREDICTORS[predictor.name]
    return function(predictor, profile, stages)


def predict(change: Outcome, state: Change, measurement: Measurement) -> Prediction:
    """Speedup of `change` on top of what `state` has changed before, with a 90 % interval.

    The interval covers the spread of the measured steps (bootstrap), the best and worst case of
    the change, and how far the model itself was off on loops whose gain was measured.
    """
    before = state(measurement.stages)
    likely = ratio(before, change.likely(before))
    resamples = [state(resample) for resample in measurement.resamples]
    lows = [ratio(stages, change.worst(stages)) for stages in resamples]
    highs = lows
    if change.best is not change.worst:
        highs = [ratio(stages, change.best(stages)) for stages in resamples]
    # Resamples have no course of steps: their spread counts, not their middle.
    low = _quantile(lows, 0.05) / _quantile(lows, 0.5) * ratio(before, change.worst(before))
    high = _quantile(highs, 0.95) / _quantile(highs, 0.5) * ratio(before, change.best(before))
    return Prediction(
        speedup=likely,
        low=min(low, likely) / model_error(low),
        high=max(high, likely) * model_error(high),
        basis="bound" if change.bound else "model",
        assumes=change.assumes,
    )


def model_error(speedup: float) -> float:
    """Factor by which 90 % of predictions of this size were off at most (`bench/accuracy.py`)."""
    size = abs(log(max(1e-9, speedup)))
    return exp(_ERROR_FLOOR * min(1.0, size / 0.1) + _ERROR_GROWTH * size)


def gain(stages: Stages, cause: str) -> float:
    """Predicted speedup minus one if `cause` were gone."""
    return ratio(stages, stages.without(cause)) - 1


def _quantile(values: list[float], q: float) -> float:
    return sorted(values)[round(q * (len(values) - 1))]


def _remove(predictor: Predictor, profile: Profile, stages: Stages) -> Outcome:
    return Outcome(lambda s: s.without(*predictor.causes), "the cause goes away entirely")


def _at_most(predictor: Predictor, profile: Profile, stages: Stages) -> Outcome:
    """Only the bound is known: the likely case is half of the time that could be saved."""

    def half(s: Stages) -> Stages:
        for cause in predictor.causes:
            s = s.scaled(cause, 0.5)
        return s

    return Outcome(
        half,
        "half of the cause goes away; the bounds are none of it and all of it",
        best=lambda s: s.without(*predictor.causes),
        bound=True,
    )


def _overlap(predictor: Predictor, profile: Profile, stages: Stages) -> Outcome | None:
    """What link and backward allow; a bound where only the time of the exchange is known."""
    bound = _at_most(Predictor(name="at_most", causes=[COLLECTIVE]), profile, stages)
    return overlapped(profile, stages, micro_batches(profile) or 1.0) or bound


def _rarer(predictor: Predictor, profile: Profile, stages: Stages) -> Outcome:
    """Less often, until it costs a hundredth of the step: what to do, not how much it gains."""
    seconds = sum(stages.main.get(cause, 0.0) for cause in predictor.causes)
    if seconds <= 0:
        return Outcome(lambda s: s, "it takes no time as it is")
    times = max(1, ceil(seconds / (RARE_SHARE * stages.seconds())))

    def rarer(s: Stages) -> Stages:
        for cause in predictor.causes:
            s = s.scaled(cause, 1 / times)
        return s

    return Outcome(rarer, f"it is done {times} times less often, and costs a hundredth of the step")


def _workers(predictor: Predictor, profile: Profile, stages: Stages) -> Outcome | None:
    """At worst storage serves one worker at a time, unless the solo probe has tried it."""
    if stages.service <= 0 or not profile.loaders:
        return None
    best = stages.best_workers()
    if best == 0:
        return _serial(predictor, profile, stages)

    def one_by_one(s: Stages) -> Stages:
        # What so many workers share already does not have to be had one by one.
        share = s.serial_share if serial_fraction(profile) is not None else 1 / max(1, s.workers)
        return replace(s.with_workers(best), serial_share=share)

    return Outcome(lambda s: s.with_workers(best), f"num_workers={best}", worst=one_by_one)


def _serial(predictor: Predictor, profile: Profile, stages: Stages) -> Outcome | None:
    if not stages.workers:
        return None

    def as_crowded(s: Stages) -> Stages:
        # What slows the trainer now may be its own threads: that workers leave is not counted on.
        return replace(
            s.with_workers(0),
            contention_main=Contention(fixed=s.slowdowns.main - 1),
        )

    return Outcome(as_crowded, "num_workers=0", best=lambda s: s.with_workers(0))


def _smooth(predictor: Predictor, profile: Profile, stages: Stages) -> Outcome | None:
    """A deeper queue evens out batches of unequal cost; it makes none of them cheaper."""
    if not stages.workers or stages.prefetch >= DEEP_QUEUE:
        return None
    return Outcome(
        lambda s: s.with_prefetch(DEEP_QUEUE),
        f"prefetch_factor={DEEP_QUEUE}",
        best=lambda s: s.with_prefetch(DEEP_QUEUE).with_any_order(),
    )


def _any_order(predictor: Predictor, profile: Profile, stages: Stages) -> Outcome | None:
    """Finished batches overtake slow ones; none of them gets cheaper."""
    if stages.workers < 2 or not stages.in_order:
        return None
    return Outcome(lambda s: s.with_any_order(), "in_order=False")


def _threads(predictor: Predictor, profile: Profile, stages: Stages) -> Outcome | None:
    """More intra-op threads: arithmetic and bandwidth at best divide by the ratio of threads."""
    choice = thread_choice(profile)
    if choice is not None:
        return _tried_threads(choice) if choice.best > choice.now else None
    if not isfinite(stages.cores):
        return None
    threads = int(stages.cores + 0.25)  # a core that others use a little still counts
    ratio = threads / max(1, stages.threads)
    if ratio <= 1.0 or profile.environment.gpus:
        return None

    def faster(s: Stages, k: float) -> Stages:
        wall = s.scaled("compute.arithmetic", 1 / k).scaled("memory.bandwidth", 1 / k)
        return replace(wall, width=min(s.width * k, max(s.width, s.cores)))

    return Outcome(
        lambda s: faster(s, 1 + (ratio - 1) / 2),
        f"torch.set_num_threads({threads}); half of the ideal scaling",
        best=lambda s: faster(s, ratio),
        bound=True,
    )


def _fewer_threads(predictor: Predictor, profile: Profile, stages: Stages) -> Outcome | None:
    """Fewer intra-op threads, where they were tried and found to be as fast or faster."""
    choice = thread_choice(profile)
    return _tried_threads(choice) if choice is not None and choice.best < choice.now else None


def _tried_threads(choice: ThreadChoice) -> Outcome:
    return Outcome(
        lambda s: _rethreaded(s, choice, choice.passes.middle),
        f"torch.set_num_threads({choice.best}), as tried on this machine with the model alone",
        best=lambda s: _rethreaded(s, choice, choice.passes.low),
        worst=lambda s: _rethreaded(s, choice, choice.passes.high),
    )


def with_best_threads(profile: Profile, stages: Stages) -> Stages:
    """The stages with the number of intra-op threads that was fastest, where some were tried."""
    choice = thread_choice(profile)
    return stages if choice is None else _rethreaded(stages, choice, choice.passes.middle)


def _rethreaded(stages: Stages, choice: ThreadChoice, passes: float) -> Stages:
    wall = stages.scaled("compute.optimizer", choice.updates)
    for cause in ("compute.arithmetic", "compute.launch", "memory.bandwidth"):
        wall = wall.scaled(cause, passes)
    width = stages.width * choice.best / choice.now
    return replace(wall, width=max(1.0, min(width, max(stages.width, stages.cores))))


def _fused_optimizer(predictor: Predictor, profile: Profile, stages: Stages) -> Outcome | None:
    """A fused step is bound by memory: parameter, gradient and states, read and written once.

    Parameters, gradients and n state tensors are read, all but the gradient written:
    (2 n + 3) values per parameter, at the copy bandwidth measured on this machine.
    """
    calibration = profile.environment.calibration
    optimizers = profile.configuration.optimizers
    now = stages.main.get("compute.optimizer", 0.0)
    if calibration is None or not optimizers or now <= 0 or profile.environment.gpus:
        return _at_most(Predictor(name="at_most", causes=["compute.optimizer"]), profile, stages)
    traffic = sum(
        4 * o.parameters * (2 * (o.state_tensors_per_parameter or 0) + 3) for o in optimizers
    )
    floor = traffic / calibration.copy_bytes_per_s + calibration.eager_op_ns * 1e-9
    k = min(1.0, floor / now)
    return Outcome(
        lambda s: s.scaled("compute.optimizer", k),
        "the step runs at the memory bandwidth measured on this machine",
    )


def _bf16(predictor: Predictor, profile: Profile, stages: Stages) -> Outcome | None:
    """bfloat16 on a processor: arithmetic goes as the matrix products measured on this machine."""
    calibration = profile.environment.calibration
    if profile.environment.gpus or calibration is None or not calibration.gemm_bf16_flops:
        return _at_most(
            Predictor(name="at_most", causes=["compute.arithmetic", "memory.bandwidth"]),
            profile,
            stages,
        )
    k = calibration.gemm_fp32_flops / calibration.gemm_bf16_flops
    return Outcome(
        lambda s: s.scaled("compute.arithmetic", k),
        f"a bf16 matrix product runs {1 / k:.2f} times as fast as fp32, measured on this machine",
    )


GENERATED_SLOWER = 1.15
"""Large operators have been up to so much slower from a compiler than from a library: whole
training steps of programs with few of the small ones took up to 13 % longer when compiled."""


def _compile(predictor: Predictor, profile: Profile, stages: Stages) -> Outcome:
    """Less to dispatch and fewer passes over memory, at the risk of slower large operators."""

    def compiled(saved: float, slower: float) -> Change:
        kept = {"compute.launch": 1 - saved, "memory.bandwidth": 1 - saved}

        def change(s: Stages) -> Stages:
            for cause, k in {**kept, "compute.arithmetic": slower}.items():
                s = s.scaled(cause, k)
            return s

        return change

    return Outcome(
        compiled(0.5, (1 + GENERATED_SLOWER) / 2),
        "half of dispatching and memory traffic goes, large operators get a little slower; at "
        "worst nothing goes and they get 15 % slower; compiling itself is left out",
        best=compiled(1.0, 1.0),
        worst=compiled(0.0, GENERATED_SLOWER),
        bound=True,
    )


def _clock(predictor: Predictor, profile: Profile, stages: Stages) -> Outcome | None:
    """Arithmetic goes as the clock; half of what is lost of it is counted on."""
    share = clock_share(profile)
    if share is None or share >= 1:
        return None
    return Outcome(
        lambda s: s.scaled("compute.arithmetic", (1 + share) / 2),
        f"half of what the clock has lost comes back; now it is {share:.0%} of the highest",
        best=lambda s: s.scaled("compute.arithmetic", share),
        bound=True,
    )


def _link(predictor: Predictor, profile: Profile, stages: Stages) -> Outcome | None:
    """Copies that are as long as the link is slow; at worst they are slow for other reasons."""
    share = link_share(profile)
    if share is None or share >= 1:
        return None
    return Outcome(
        lambda s: s.scaled("data_loading.host_to_device", share),
        f"copies go as the link, which runs at {share:.0%} of its rate",
        worst=lambda s: s,
    )


def _even_links(predictor: Predictor, profile: Profile, stages: Stages) -> Outcome | None:
    """The slow links get the rate of the others; that is seen on small parts, so it may be more."""
    slow = slow_links(profile)
    if not slow:
        return None
    link, usual = slow[0], slow[0].usual_bytes_per_s or slow[0].bytes_per_s
    return Outcome(
        lambda s: with_link(s, link, usual),
        f"the link is {usual / link.bytes_per_s:.3g} times as fast, like those of the other ranks",
        best=lambda s: with_link(s, link, inf),
    )


def _joined_messages(predictor: Predictor, profile: Profile, stages: Stages) -> Outcome | None:
    """The program's own messages go together, one of each size."""
    saving = messages.joined(profile)
    if saving is None:
        return None
    return Outcome(
        _less(profile, saving.likely),
        "one message of each size carries all bytes, and all other meetings of the ranks go",
        best=_less(profile, saving.high),
        worst=_less(profile, saving.low),
    )


def _without_calls(predictor: Predictor, profile: Profile, stages: Stages) -> Outcome | None:
    """Some of the program's own collectives are not needed, or not as they are."""
    seconds = messages.seconds_in(profile, _LEFT_OUT[predictor.name])
    if not seconds:
        return None
    return Outcome(
        _less(profile, 0.5 * seconds),
        "half of the time in these calls goes away; the bounds are none of it and all of it",
        best=_less(profile, seconds),
        bound=True,
    )


def _less(profile: Profile, seconds: float) -> Change:
    """So much time per step less in the program's own collectives."""
    cause = collectives_cause(profile)

    def change(stages: Stages) -> Stages:
        present = stages.main.get(cause, 0.0)
        return stages.scaled(cause, max(0.0, 1 - seconds / present)) if present > 0 else stages

    return change


def _literature(predictor: Predictor, profile: Profile, stages: Stages) -> None:
    return None


PREDICTORS: dict[str, Callable[[Predictor, Profile, Stages], Outcome | None]] = {
    "remove": _remove,
    "at_most": _at_most,
    "overlap": _overlap,
    "rarer": _rarer,
    "workers": _workers,
    "serial": _serial,
    "smooth": _smooth,
    "any_order": _any_order,
    "threads": _threads,
    "fewer_threads": _fewer_threads,
    "fused_optimizer": _fused_optimizer,
    "bf16": _bf16,
    "compile": _compile,
    "clock": _clock,
    "link": _link,
    "even_links": _even_links,
    "joined_messages": _joined_messages,
    "no_pickles": _without_calls,
    "no_barriers": _without_calls,
    "literature": _literature,
}
