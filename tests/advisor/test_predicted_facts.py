from __future__ import annotations

from typing import Any

import pytest
from builders import CALIBRATION, a_data_bound_run, a_healthy_run, a_run
from msgspec.structs import replace

from stepscope.advisor.facts import Facts, facts_of
from stepscope.advisor.measure import measure
from stepscope.profiler.format import Optimizer, Profile

DISPATCHING = {"data_wait": 0.2, "forward": 2.0, "optimizer": 40.0}


def facts(profile: Profile) -> Facts:
    return facts_of(profile, measure(profile))


def test_a_larger_batch_gains_where_costs_are_per_step() -> None:
    per_step = a_run(DISPATCHING, fetch={"wall": 0.2, "cpu": 0.2})

    assert facts(per_step)["step.batch_gain"] > 0.8  # type: ignore[operator]
    assert facts(a_healthy_run())["step.batch_gain"] < 0.1  # type: ignore[operator]
    assert facts(a_data_bound_run())["step.batch_gain"] == pytest.approx(0, abs=0.05)


def test_the_best_number_of_workers_has_a_gain() -> None:
    bound, healthy = facts(a_data_bound_run()), facts(a_healthy_run())

    assert bound["loader.workers_gain"] > 4  # type: ignore[operator]
    assert abs(healthy["loader.workers_gain"]) < 0.05  # type: ignore[arg-type]
    assert "loader.workers_gain" not in facts(a_run({"forward": 10.0}))


def test_handing_over_is_set_against_making() -> None:
    cheap = a_run({"data_wait": 1.0, "forward": 5.0}, fetch={"wall": 1.0, "cpu": 1.0, "items": 64})

    assert facts(cheap)["loader.handover_ratio"] == pytest.approx(0.5)
    assert facts(a_data_bound_run())["loader.handover_ratio"] < 0.02  # type: ignore[operator]
    # 1 ms for 64 samples, where an operator takes 2.1 microseconds
    assert facts(cheap)["loader.item_operators"] == pytest.approx(1e6 / 64 / 2100, rel=0.01)


def test_bf16_gains_what_the_machine_gains() -> None:
    def gain(bf16_flops: float | None) -> Any:
        profile = a_healthy_run()
        profile.environment.calibration = replace(CALIBRATION, gemm_bf16_flops=bf16_flops)
        return facts(profile).get("torch.autocast_gain")

    assert gain(2 * CALIBRATION.gemm_fp32_flops) > 0.5
    assert gain(CALIBRATION.gemm_fp32_flops / 2) < 0
    assert gain(None) is None


def test_a_fused_optimizer_gains_what_memory_allows() -> None:
    profile = a_run(DISPATCHING)
    profile.configuration.optimizers = [
        Optimizer(class_name="SGD", parameters=1000, tensors=500, fused=False)
    ]
    assert facts(profile)["optimizer.fused_gain"] > 5  # type: ignore[operator]

    profile.configuration.optimizers[0].parameters = 10**9  # 40 ms are less than it can take
    assert facts(profile)["optimizer.fused_gain"] == pytest.approx(0)
    profile.configuration.optimizers = []
    assert "optimizer.fused_gain" not in facts(profile)
