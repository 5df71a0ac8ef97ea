from __future__ import annotations

from dataclasses import replace

import pytest
from builders import a_data_bound_run, a_healthy_run, a_run

from stepscope.advisor.facts import facts_of
from stepscope.advisor.measure import measure
from stepscope.advisor.rediagnosis import facts_after

MODELLED = ("gain.", "share.")


def test_a_run_that_nothing_was_done_to_looks_as_it_was_measured() -> None:
    for profile in (a_healthy_run(), a_data_bound_run()):
        measurement = measure(profile)
        before = facts_of(profile, measurement)

        after = facts_after(profile, measurement, measurement.stages)

        assert after.keys() == before.keys()
        assert after["data.wait_share"] == pytest.approx(before["data.wait_share"], abs=0.03)
        shares = {name for name in before if name.startswith("share.")}
        for name in shares:
            assert after[name] == pytest.approx(before[name], abs=0.05), name
        assert sum(float(after[name]) for name in shares) == pytest.approx(1)
        assert after["gain.compute.arithmetic"] == before["gain.compute.arithmetic"]


def test_behind_a_relieved_loader_the_model_is_the_bottleneck() -> None:
    profile = a_data_bound_run()
    measurement = measure(profile)
    relieved = measurement.stages.without("cpu_preprocessing.transform")

    after = facts_after(profile, measurement, relieved)

    assert float(after["data.wait_share"]) < 0.3
    assert after["share.cpu_preprocessing.transform"] == 0
    assert float(after["share.compute.arithmetic"]) > 0.5
    assert float(after["gain.compute.arithmetic"]) > 0.5
    assert after["step.seconds"] == pytest.approx(relieved.seconds())


def test_another_number_of_workers_is_seen_as_such() -> None:
    profile = a_data_bound_run()
    measurement = measure(profile)

    after = facts_after(profile, measurement, measurement.stages.with_workers(5))

    assert after["loader.num_workers"] == 5
    assert float(after["cpu.saturation"]) > float(facts_of(profile, measurement)["cpu.saturation"])


def test_a_loop_without_loader_stays_one() -> None:
    profile = a_run({"forward": 5.0})
    measurement = measure(profile)
    faster = replace(measurement.stages, main={"compute.arithmetic": 0.001})

    after = facts_after(profile, measurement, faster)

    assert "loader.num_workers" not in after
    assert after["share.compute.arithmetic"] == pytest.approx(1)
