from __future__ import annotations

from typing import Any

import pytest
from builders import a_loader, a_run

from stepscope.advisor.facts import Facts, facts_of
from stepscope.advisor.measure import measure
from stepscope.profiler.format import Collective, Configuration, Gpu, Model, Profile


def facts(profile: Profile) -> Facts:
    return facts_of(profile, measure(profile))


def with_variables(**variables: str) -> Facts:
    profile = a_run({"forward": 10.0})
    profile.environment.variables = variables
    return facts(profile)


@pytest.mark.parametrize(
    ("variables", "names"),
    [
        ({}, "none"),
        ({"NCCL_DEBUG": "INFO"}, "NCCL_DEBUG"),
        ({"NCCL_DEBUG": "WARN"}, "none"),
        ({"TORCH_LOGS": "+dynamo", "PYTHONMALLOC": "debug"}, "PYTHONMALLOC, TORCH_LOGS"),
        ({"PYTHONMALLOC": "malloc"}, "none"),
        ({"TORCH_DISTRIBUTED_DEBUG": "detail"}, "TORCH_DISTRIBUTED_DEBUG"),
        ({"TORCH_DISTRIBUTED_DEBUG": "OFF"}, "none"),
        ({"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, "PYTORCH_NO_CUDA_MEMORY_CACHING"),
        ({"PYTORCH_NO_CUDA_MEMORY_CACHING": "0"}, "none"),
    ],
)
def test_variables_that_slow_a_run_are_named(variables: dict[str, str], names: str) -> None:
    found = with_variables(**variables)

    assert found["env.debug_names"] == names
    assert found["env.debug_variables"] == (0 if names == "none" else names.count(",") + 1)


@pytest.mark.parametrize("name", ["TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE"])
def test_a_compiler_that_is_switched_off(name: str) -> None:
    assert with_variables(**{name: "1"})["env.compile_disabled"] is True
    assert with_variables(**{name: "0"})["env.compile_disabled"] is False
    assert with_variables()["env.compile_disabled"] is False


@pytest.mark.parametrize("name", ["NCCL_P2P_DISABLE", "NCCL_IB_DISABLE"])
def test_links_that_are_switched_off(name: str) -> None:
    assert with_variables(**{name: "1"})["env.direct_links_disabled"] is True
    assert with_variables(**{name: "0"})["env.direct_links_disabled"] is False


@pytest.mark.parametrize(
    ("updates", "batches", "expected"),
    [
        (100, 120, 1),
        (25, 120, 4),  # steps are batches, and every fourth one updates
        (100, 480, 4),  # steps are updates, and each takes four batches
        (200, 120, 1),  # two optimizers
        (0, 120, None),
    ],
)
def test_batches_of_an_update_are_counted(updates: int, batches: int, expected: Any) -> None:
    profile = a_run(
        {"data_wait": 5.0, "forward": 5.0},
        fetch={"wall": 4.0, "cpu": 4.0},
        steps={"calls": {"optimizer_steps": updates}},
    )
    profile.loaders[0].workers[0].totals.batches = batches

    assert facts(profile).get("step.micro_batches") == expected


def test_threads_and_workers_over_the_cores() -> None:
    profile = a_run({"forward": 10.0}, workers=4, fetch={"wall": 4.0, "cpu": 4.0}, cores=4)

    assert facts(profile)["cpu.threads_per_core"] == pytest.approx(2)
    assert facts(a_run({"forward": 10.0}, cores=4))["cpu.threads_per_core"] == pytest.approx(1)


def test_devices_of_the_machine_are_counted_whether_used_or_not() -> None:
    profile = a_run({"forward": 10.0})
    profile.environment.gpus = [Gpu(index=i, name="A GPU", memory_bytes=10**10) for i in range(2)]

    found = facts(profile)

    assert (found["gpu.visible"], found["gpu.count"]) == (2, 0)


def test_layers_that_exchange_statistics_are_counted() -> None:
    model = Model(
        class_name="Net",
        parameters=1,
        parameter_bytes=4,
        trainable_parameters=1,
        modules={"SyncBatchNorm": 53, "BatchNorm2d": 7},
    )
    configuration = Configuration(models=[model], intra_op_threads=1, inter_op_threads=1)

    found = facts(a_run({"forward": 10.0}, configuration=configuration))

    assert found["model.sync_batch_norms"] == 53


def test_the_exchange_is_described_by_its_largest_model() -> None:
    small = Collective(
        backend="gloo",
        gradient_bytes=1000,
        buckets=1,
        communication_ns=1,
        overlap_ns=0,
        backward_ns=1,
    )
    large = Collective(
        backend="nccl",
        gradient_bytes=80_000,
        buckets=4,
        communication_ns=1,
        overlap_ns=0,
        backward_ns=1,
    )

    found = facts(a_run({"forward": 10.0}, collectives=[small, large]))

    assert (found["comm.backend"], found["comm.buckets"]) == ("nccl", 4)
    assert found["comm.bucket_bytes"] == pytest.approx(20_000)
    assert "comm.backend" not in facts(a_run({"forward": 10.0}))


def test_workers_of_validation_are_counted_each_time_they_start() -> None:
    profile = a_run({"forward": 10.0}, fetch={"wall": 4.0, "cpu": 4.0})
    profile.loaders += [
        a_loader(training=False, workers=[], num_workers=3, epochs=4),
        a_loader(training=False, workers=[], num_workers=2, epochs=4, persistent_workers=True),
    ]

    found = facts(profile)

    assert found["validation.loader_workers"] == 5
    assert found["validation.worker_starts"] == 3 * 4 + 2


def test_the_size_of_a_batch_may_come_from_the_batch_itself() -> None:
    without = {"batch_size": None}
    profile = a_run({"forward": 10.0}, fetch={"wall": 4.0, "cpu": 4.0}, loader=without)
    profile.configuration.batch_size = 17

    assert facts(profile)["loader.batch_size"] == 17
