"""The usual advice, where it is known to have gained and where it is known to have cost time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builders import CALIBRATION, MS, a_data_bound_run, a_healthy_run, a_run, even_samples
from msgspec.structs import replace

from stepscope.advisor.advice import Advice, Prediction
from stepscope.advisor.advise import advise
from stepscope.advisor.facts import Facts
from stepscope.advisor.measure import measure
from stepscope.advisor.plan import in_use, possible
from stepscope.advisor.predict import outcome, predict
from stepscope.advisor.rule_files import load_knowledge
from stepscope.profiler.format import Operator, Optimizer, Profile, Window, WindowPhase
from stepscope.profiler.storage import load

KNOWLEDGE = load_knowledge()
RECORDED = Path(__file__).parent / "recorded"


def advice_for(profile: Profile) -> Advice:
    return advise(profile, KNOWLEDGE)


def fired(advice: Advice) -> set[str]:
    return {finding.rule for finding in advice.findings}


def advised(advice: Advice) -> set[str]:
    methods = {r.method for finding in advice.findings for r in finding.recommendations}
    return methods | {step.method for step in advice.plan}


@pytest.mark.parametrize(
    ("method", "facts", "expected"),
    [
        ("sy-workers", {"cpu.saturation": 0.95, "loader.handover_ratio": 0.01}, False),
        ("sy-workers", {"cpu.saturation": 0.3, "loader.handover_ratio": 0.6}, False),
        ("sy-workers", {"cpu.saturation": 0.3, "loader.handover_ratio": 0.01}, True),
        ("sy-workers", {"loader.num_workers": 2, "loader.best_workers": 0}, False),
        ("sy-workers", {"loader.num_workers": 2, "loader.best_workers": 5}, True),
        ("sy-fewer-workers", {"loader.num_workers": 2, "loader.best_workers": 5}, False),
        ("sy-fewer-workers", {"loader.num_workers": 8, "loader.best_workers": 2}, True),
        ("fp-amp", {"gpu.count": 1, "machine.bf16_speed": 0.2, "torch.autocast": "off"}, True),
        ("fp-amp", {"gpu.count": 0, "machine.bf16_speed": 0.2, "torch.autocast": "off"}, False),
        ("fp-amp", {"gpu.count": 0, "machine.bf16_speed": 2.0, "torch.autocast": "off"}, True),
        (
            "dd-quant",
            {"run.world_size": 4, "gpu.count": 0, "share.communication.collective": 0.6},
            False,
        ),
        (
            "dd-quant",
            {"run.world_size": 4, "gpu.count": 1, "share.communication.collective": 0.1},
            False,
        ),
        (
            "dd-quant",
            {"run.world_size": 4, "gpu.count": 1, "share.communication.collective": 0.6},
            True,
        ),
        ("sy-threads", {"gpu.count": 0, "cpu.saturation": 0.5, "cpu.spare_cores": 0.0}, False),
        ("sy-threads", {"gpu.count": 0, "cpu.saturation": 0.5, "cpu.spare_cores": 3.0}, True),
        (
            "sy-cap-threads",
            {"cpu.saturation": 0.4, "cpu.foreign_cores": 0.0, "torch.intra_op_threads": 4}
            | {"cpu.usable_cores": 8},
            False,
        ),
        (
            "sy-cap-threads",
            {"cpu.saturation": 0.4, "cpu.foreign_cores": 0.0, "torch.intra_op_threads": 32}
            | {"cpu.usable_cores": 8},
            True,
        ),
        (
            "sy-cap-threads",
            {"cpu.saturation": 0.9, "cpu.foreign_cores": 2.0, "torch.intra_op_threads": 1}
            | {"cpu.usable_cores": 8, "fetch.helper_cpu_share": 0.0},
            False,
        ),
        ("sy-debug-off", {"env.debug_variables": 1}, True),
        (
            "sy-debug-off",
            {"torch.anomaly_mode": False, "env.cuda_launch_blocking": False}
            | {"env.debug_variables": 0},
            False,
        ),
        ("sy-ovl", {"run.world_size": 1, "model.distributed": "DataParallel"}, True),
        ("sy-ovl", {"run.world_size": 1, "model.distributed": "off"}, False),
        (
            "sy-nondeterministic",
            {"torch.deterministic": False, "gpu.count": 1, "torch.cudnn_benchmark": False},
            True,
        ),
        ("sy-nondeterministic", {"torch.deterministic": False, "gpu.count": 0}, False),
        ("sy-nondeterministic", {"torch.deterministic": True, "gpu.count": 0}, True),
    ],
)
def test_a_method_is_possible_where_it_can_gain(method: str, facts: Facts, expected: bool) -> None:
    assert possible(KNOWLEDGE.methods[method], facts) is expected


def test_a_run_on_a_processor_is_as_nondeterministic_as_it_gets() -> None:
    facts: Facts = {"torch.deterministic": False, "gpu.count": 0}

    assert in_use(KNOWLEDGE.methods["sy-nondeterministic"], facts)


def test_samples_that_cost_nothing_are_vectorised_and_get_no_workers() -> None:
    tiny = {"wall": 1.0, "cpu": 1.0, "items": 64}

    advice = advice_for(a_run({"data_wait": 1.0, "forward": 4.0}, fetch=tiny))

    assert {"slow_transform", "samples_one_by_one"} <= fired(advice)
    assert "sy-vectorise" in advised(advice)
    assert "sy-workers" not in advised(advice)


def test_full_cores_call_for_less_work_and_not_for_workers() -> None:
    full = a_data_bound_run(
        cores=1, steps={"cpu": 12.0, "process_cpu": 15.0, "wait_cpu": 0.5, "run_delay": 2.0}
    )

    advice = advice_for(full)

    assert "full_cores" in fired(advice)
    assert "sy-predecode" in advised(advice)
    assert "sy-workers" not in advised(advice)


def test_workers_are_advised_where_they_gain() -> None:
    none = advice_for(
        a_run(
            {"data_wait": 100.0, "forward": 11.0},
            fetch={"wall": 100.0, "cpu": 97.0, "items": 64},
            steps={"cpu": 108.0, "process_cpu": 108.0, "wait_cpu": 97.0},
        )
    )

    assert "no_workers" in fired(none)
    assert "too_few_workers" in fired(advice_for(a_data_bound_run()))
    assert "sy-workers" in advised(none)


def test_too_many_workers_are_taken_away() -> None:
    crowded = a_run(
        {"data_wait": 4.0, "forward": 60.0},
        workers=8,
        fetch={"wall": 60.0, "cpu": 12.0, "run_delay": 44.0, "items": 64},
        cores=2,
        steps={
            "cpu": 30.0,
            "process_cpu": 56.0,
            "wait_cpu": 0.5,
            "run_delay": 30.0,
            "wait_run_delay": 1.0,
        },
        samples=even_samples(system_busy_cores=2.0, job_busy_cores=2.0, steal_cores=0.0),
    )

    advice = advice_for(crowded)

    assert "too_many_workers" in fired(advice)
    assert "sy-fewer-workers" in advised(advice)
    assert "sy-workers" not in advised(advice)


def test_an_unfused_optimizer_is_fused() -> None:
    profile = a_run(
        {"data_wait": 0.1, "forward": 10.0, "optimizer": 10.0}, fetch={"wall": 0.1, "cpu": 0.1}
    )
    profile.configuration.optimizers = [
        Optimizer(class_name="AdamW", parameters=10_000, tensors=400, fused=False)
    ]

    advice = advice_for(profile)

    assert "slow_optimizer" in fired(advice)
    step = next(step for step in advice.plan if step.method == "sy-fused-optimizer")
    assert 1.5 < step.predicted.speedup < 2.1


@pytest.mark.parametrize(
    ("phase", "counter", "rule", "method"),
    [
        ("checkpoint", "checkpoints", "frequent_checkpoints", "sy-rarer-ckpt"),
        ("validation", "validations", "frequent_validation", "sy-rarer-validation"),
    ],
)
def test_what_is_done_too_often_is_done_more_rarely(
    phase: str, counter: str, rule: str, method: str
) -> None:
    phases = {"data_wait": 0.1, "forward": 10.0, phase: 20.0}
    steps: dict[str, Any] = {"calls": {counter: 50}}

    advice = advice_for(a_run(phases, fetch={"wall": 0.1, "cpu": 0.1}, steps=steps))

    assert rule in fired(advice)
    planned = next(step for step in advice.plan if step.method == method)
    assert planned.predicted.speedup > 2.5


def test_compiling_the_model_is_no_answer_to_python_around_it() -> None:
    profile = a_run({"data_wait": 0.1, "forward": 10.0, "python": 20.0})

    advice = advice_for(profile)

    assert "python_between_phases" in fired(advice)
    assert "sy-fuse" not in advised(advice)


def test_channels_last_promises_nothing() -> None:
    # What a layout gains depends on every kernel: half of the arithmetic was never it.
    assert KNOWLEDGE.methods["sy-chlast"].predictor.name == "literature"


def predicted(advice: Advice, method: str) -> Prediction:
    """What a method is predicted to gain on the run as it is."""
    offered = [r for finding in advice.findings for r in finding.recommendations]
    found = next(r.predicted for r in offered if r.method == method)
    assert found is not None
    return found


def test_compiling_few_large_operators_may_lose_and_is_not_planned() -> None:
    profile = a_healthy_run()
    change = outcome(KNOWLEDGE.methods["sy-fuse"].predictor, profile, measure(profile).stages)
    assert change is not None

    found = predict(change, lambda stages: stages, measure(profile))

    assert found.low < 0.87 < found.high  # 0.87 times as fast, as measured
    assert found.speedup < 1
    assert found.high < 1.15
    assert "sy-fuse" not in advised(advice_for(profile))


def test_compiling_is_planned_where_dispatching_takes_the_time() -> None:
    tiny = [Operator(name="aten::add", calls=20_000, self_cpu_ns=60 * MS)]
    phase = WindowPhase(wall_ns=500 * MS, operator_ns=60 * MS, gap_ns=420 * MS, calls=20_000)
    window = Window(
        first_step=120, steps=5, wall_ns=500 * MS, phases={"forward": phase}, operators=tiny
    )

    advice = advice_for(a_run({"data_wait": 0.1, "forward": 99.0}, window=window))

    assert "small_operators" in fired(advice)
    step = next(step for step in advice.plan if step.method == "sy-fuse")
    assert step.predicted.speedup > 1.3


def test_autocast_gains_where_the_processor_has_fast_bf16() -> None:
    profile = a_healthy_run()
    fp32 = CALIBRATION.gemm_fp32_flops
    profile.environment.calibration = replace(CALIBRATION, gemm_bf16_flops=1.7 * fp32)
    profile.configuration.autocast = None

    advice = advice_for(profile)

    step = next(step for step in advice.plan if step.method == "fp-amp")
    assert 1.2 < step.predicted.speedup < 1.8
    assert step.risk == "numerics"


def test_autocast_is_told_useless_where_bf16_is_emulated() -> None:
    profile = a_healthy_run()
    fp32 = CALIBRATION.gemm_fp32_flops
    profile.environment.calibration = replace(CALIBRATION, gemm_bf16_flops=0.02 * fp32)
    profile.configuration.autocast = None

    advice = advice_for(profile)

    assert "fp-amp" not in advised(advice)
    reason = next(useless.reason for useless in advice.tempting if useless.method == "fp-amp")
    assert "0.02, needs more than 1.10" in reason


def test_more_workers_are_told_useless_where_the_cores_are_full() -> None:
    full = a_data_bound_run(
        cores=1, steps={"cpu": 12.0, "process_cpu": 15.0, "wait_cpu": 0.5, "run_delay": 2.0}
    )

    useless = {each.method: each.reason for each in advice_for(full).tempting}

    assert useless["sy-workers"].startswith("cannot help: ")


@pytest.mark.parametrize(
    ("loop", "method", "truth"),
    [
        # pictures that are stored at the size they are used, a small set in memory without workers,
        # and rarer checkpoints; each loop was timed with and without its cause
        ("jpeg_decode", "sy-predecode", 3.76),
        ("unstacked", "sy-serial-loading", 3.49),
        ("checkpoints", "sy-rarer-ckpt", 2.31),
    ],
)
def test_recorded_loops_get_the_advice_that_made_them_faster(
    loop: str, method: str, truth: float
) -> None:
    advice = advice_for(load(RECORDED / f"{loop}.json"))

    assert advice.plan[0].method == method
    assert advice.plan[0].predicted.low <= truth <= advice.plan[0].predicted.high
    assert "sy-workers" not in advised(advice)
    assert "sy-fuse" not in advised(advice) or predicted(advice, "sy-fuse").low < 1
