from __future__ import annotations

from typing import Any

import pytest
from builders import a_profile, a_run, even_samples

from stepscope.advisor.facts import Facts, facts_of
from stepscope.advisor.measure import measure
from stepscope.profiler.format import Collective, Gpu, Model, Profile


def facts(profile: Profile) -> Facts:
    return facts_of(profile, measure(profile))


def a_collective(**changes: Any) -> Collective:
    defaults: dict[str, Any] = {
        "gradient_bytes": 1000,
        "buckets": 1,
        "communication_ns": 5,
        "overlap_ns": 1,
        "backward_ns": 9,
    }
    return Collective(**defaults | changes)


def a_device(index: int) -> Gpu:
    return Gpu(index=index, name="Device", memory_bytes=10**9)


@pytest.mark.parametrize(
    ("dtypes", "double"),
    [(["torch.float32"], False), (["torch.float32", "torch.float64"], True)],
)
def test_double_precision_of_the_largest_model(dtypes: list[str], double: bool) -> None:
    profile = a_run({"forward": 5.0})
    small = Model(
        class_name="Loss", parameters=1, parameter_bytes=8, trainable_parameters=1,
        dtypes=["torch.float64"],
    )  # fmt: skip
    large = Model(
        class_name="Net", parameters=9, parameter_bytes=72, trainable_parameters=9, dtypes=dtypes
    )
    profile.configuration.models = [small, large]

    assert facts(profile)["model.float64"] is double


def test_devices_that_nobody_uses_are_counted() -> None:
    profile = a_run(
        {"forward": 5.0},
        samples=even_samples(
            gpu0_utilisation=0.9, gpu1_utilisation=0.0, gpu2_utilisation=0.4, gpu3_utilisation=0.01
        ),
    )
    profile.environment.gpus = [a_device(index) for index in range(4)]

    assert facts(profile)["gpu.idle"] == 2


def test_a_device_that_was_not_sampled_leaves_the_number_open() -> None:
    profile = a_run({"forward": 5.0}, samples=even_samples(gpu0_utilisation=0.9))
    profile.environment.gpus = [a_device(0), a_device(1)]

    assert "gpu.idle" not in facts(profile)
    assert "gpu.idle" not in facts(a_profile())


def test_what_the_exchange_is_set_to() -> None:
    profile = a_run({"forward": 5.0}, steps={"calls": {"no_syncs": 3}})
    steps = profile.steady.total
    assert "comm.no_sync_per_step" not in facts(profile)

    profile.collectives = [
        a_collective(find_unused_parameters=True, unused_parameter_bytes=0),
        a_collective(gradient_bytes=9, find_unused_parameters=False),
    ]

    found = facts(profile)
    assert found["comm.unused_searched"] is True
    assert found["comm.unused_bytes"] == 0
    assert found["comm.no_sync_per_step"] == sum(profile.steady.calls["no_syncs"]) / steps


def test_an_older_profile_says_nothing_of_it() -> None:
    profile = a_run({"forward": 5.0}, collectives=[a_collective()])

    assert not {"comm.unused_searched", "comm.unused_bytes", "comm.no_sync_per_step"} & {
        *facts(profile)
    }


@pytest.mark.parametrize(("kept", "expected"), [(0, False), (50, True)])
def test_gradients_in_validation(kept: int, expected: bool) -> None:
    calls = {"validations": 50, "validation_gradients": kept}
    profile = a_run({"forward": 5.0, "validation": 9.0}, steps={"calls": calls})

    assert facts(profile)["validation.gradients"] is expected


def test_without_validation_nothing_is_known_of_its_gradients() -> None:
    profile = a_run({"forward": 5.0}, steps={"calls": {"validation_gradients": 0}})

    assert "validation.gradients" not in facts(profile)
