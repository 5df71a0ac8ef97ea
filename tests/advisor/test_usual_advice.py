"""The usual advice, where it is known to have gained and where it is known to have cost time."""

from __future__ import annotations

from typing import Any

import pytest
from builders import a_data_bound_run, a_run, even_samples

from stepscope.advisor.advice import Advice
from stepscope.advisor.advise import advise
from stepscope.advisor.facts import Facts
from stepscope.advisor.plan import in_use, possible
from stepscope.advisor.rule_files import load_knowledge
from stepscope.profiler.format import Optimizer, Profile

KNOWLEDGE = load_knowledge()


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
