from __future__ import annotations

import math
from typing import Any

import pytest
from builders import (
    MS,
    a_data_bound_run,
    a_healthy_run,
    a_loader,
    a_profile,
    a_run,
    bursty_stages,
    even_steps,
    some_batches,
    some_ceilings,
    some_model_trial,
    some_totals,
)
from msgspec.structs import replace

from stepscope.advisor.causes import CAUSES
from stepscope.advisor.fact_names import DEVICE_FACTS, FACTS, fact_name
from stepscope.advisor.facts import Facts, facts_of
from stepscope.advisor.measure import measure, quantile
from stepscope.profiler.format import (
    Batches,
    Collective,
    Compilation,
    Configuration,
    Gpu,
    Histogram,
    Model,
    Operator,
    Optimizer,
    Profile,
    Run,
    Samples,
    Worker,
)


def facts(profile: Profile) -> Facts:
    return facts_of(profile, measure(profile))


def a_bare_run() -> Profile:
    """Nothing but steps: no loader, window, samples, calibration, model or optimizer."""
    profile = a_run(
        {"data_wait": 5.0, "forward": 5.0},
        configuration=Configuration(intra_op_threads=1, inter_op_threads=1),
    )
    profile.environment.calibration = None
    profile.environment.variables = {}
    return profile


OF_CALLS = (
    *("calls_per_step", "call_bytes", "pickled_share", "barrier_share", "latency_seconds"),
    *("link_bandwidth", "bucket_cap_bytes", "bucket_view", "static_graph", "first_bucket_share"),
)
"""Facts of collectives that the program calls, for which `test_message_facts.py` has runs."""


def a_full_run() -> Profile:
    """A run in which everything was measured."""
    seconds = list(range(40))
    profile = a_run(
        {
            "data_wait": 20.0,
            "forward": 30.0,
            "backward": 40.0,
            "checkpoint": 5.0,
            "validation": 5.0,
        },
        workers=2,
        fetch={
            "wall": 50.0,
            "cpu": 30.0,
            "run_delay": 5.0,
            "collate": 10.0,
            "collate_cpu": 10.0,
            "read_bytes": 1e6,
            "storage_bytes": 5e5,
            "read_calls": 10,
            "major_faults": 1,
            "opens": 3,
            "items": 64,
        },
        steps={
            "cpu": 70.0,
            "process_cpu": 100.0,
            "run_delay": 4.0,
            "wait_run_delay": 1.0,
            "calls": {
                "checkpoints": 5,
                "validations": 2,
                "validation_gradients": 4,
                "no_syncs": 0,
                "log_calls": 300,
                "collections": 50,
                "syncs": 100,
                "compilations": 10,
                "optimizer_steps": 50,
            },
        },
        loader={
            "start_method": "fork",
            "in_order": True,
            "collate_fn": "default_collate",
            "batches": Batches(
                worker=[0] * 11,
                start_ns=list(range(11)),
                wall_ns=[MS * n for n in range(1, 12)],
                cpu_ns=[0] * 11,
                run_delay_ns=[0] * 11,
            ),
        },
        samples=Samples(
            time_ns=[s * 1000 * MS for s in seconds],
            columns={
                "system_busy_cores": [3.0] * 40,
                "job_busy_cores": [1.0] * 40,
                "steal_cores": [0.5] * 40,
                "rss_bytes": [1e9 + 1e6 * s for s in seconds],
                "memory_used_share": [0.25, *[0.5] * 39],
                "swap_used_bytes": [1e6, *[3e6] * 39],
                "disk_read_bytes_per_s": [1e8 if s < 20 else 5e7 for s in seconds],
                "cpu_pressure_share": [0.2] * 40,
                "io_pressure_share": [0.1] * 40,
                "throttled_share": [0.3] * 40,
                "other_threads_cores": [0.0] * 40,
                "gpu0_memory_used_bytes": [6e9] * 40,
                "gpu0_utilisation": [0.5] * 40,
            },
        ),
        collectives=[
            Collective(
                gradient_bytes=1000,
                buckets=1,
                communication_ns=10 * MS,
                overlap_ns=4 * MS,
                backward_ns=1,
                find_unused_parameters=False,
                unused_parameter_bytes=0,
            )
        ],
        stack_samples=100,
        window=a_profile().window,
        ceilings=some_ceilings(model_step_ns=[77 * MS] * 8, model=some_model_trial()),
        compilation=Compilation(),
    )
    profile.environment.gpus = [Gpu(index=0, name="NVIDIA L4", memory_bytes=10**10)]
    calibration = profile.environment.calibration
    assert calibration is not None
    bf16_flops = 2 * calibration.gemm_fp32_flops
    profile.environment.calibration = replace(calibration, gemm_bf16_flops=bf16_flops)
    assert profile.window is not None
    profile.window.operators.append(Operator(name="aten::conv2d", calls=100, self_cpu_ns=MS))
    profile.loaders.append(a_loader(training=False, workers=[], epochs=3))
    profile.configuration = Configuration(
        models=[
            Model(
                class_name="Net",
                parameters=10,
                parameter_bytes=40,
                trainable_parameters=10,
                devices=["cuda:0"],
                modules={"Conv2d": 3, "MultiheadAttention": 2, "Linear": 4},
                channels_last=False,
            )
        ],
        optimizers=[Optimizer(class_name="AdamW", parameters=10, tensors=4)],
        intra_op_threads=4,
        inter_op_threads=4,
        tf32_matmul=False,
        cudnn_benchmark=True,
        deterministic=False,
        anomaly_mode=False,
        graph_breaks=0,
        batch_bytes=123,
    )
    return profile


@pytest.mark.parametrize(
    "profile", [a_profile(), a_bare_run(), a_full_run(), a_healthy_run(), a_data_bound_run()]
)
def test_every_fact_has_a_name_a_unit_and_a_sane_value(profile: Profile) -> None:
    for name, value in facts(profile).items():
        known = fact_name(name)
        assert known is not None
        assert isinstance(value, bool) == (known.unit == "flag"), name
        assert isinstance(value, str) == (known.unit == "text"), name
        if isinstance(value, float):
            assert math.isfinite(value)
        if known.unit == "share" and name.startswith("share."):
            assert isinstance(value, float)
            assert 0 <= value <= 1


def test_a_run_in_which_everything_was_measured_has_every_fact() -> None:
    of_kernels = {name for name in FACTS if name.startswith(("gpu.kernel", "gpu.tensor", "copy."))}
    only_in_traces = of_kernels | {"gpu.launch_delay_seconds", "gpu.queue_length"}
    only_in_traces |= {"gpu.occupancy", "gpu.sm_efficiency", "gpu.filled_share"}
    only_in_traces |= {"gpu.kernels_per_step", "gpu.launches_per_second", "gpu.layout_share"}
    of_operators_on_a_device = {"gpu.misaligned_share"}
    of_ranks = {name for name in FACTS if name.startswith("ranks.")}
    of_ranks |= {f"comm.{name}" for name in OF_CALLS}
    elsewhere = only_in_traces | of_operators_on_a_device | of_ranks | set(DEVICE_FACTS)
    expected = set(FACTS) - elsewhere

    assert expected - set(facts(a_full_run())) == set()


def test_what_was_not_measured_is_absent_not_zero() -> None:
    found = facts(a_bare_run())

    absent = [
        name
        for name in FACTS
        if name.startswith(("loader.", "fetch.", "comm.", "memory.", "operators.", "optimizer."))
    ]
    absent += ["cpu.foreign_cores", "cpu.spare_cores", "cpu.main_delay_share", "machine.bf16_speed"]
    absent += ["model.parameters", "gpu.utilisation", "gpu.memory_share", "env.omp_num_threads"]
    absent += ["torch.deterministic", "sync.per_step", "checkpoint.every", "validation.every"]
    assert set(absent) & set(found) == set()
    for cause in ("data_loading.storage", "memory.capacity", "memory.bandwidth", "memory.growth"):
        assert f"share.{cause}" not in found
        assert f"gain.{cause}" not in found
    assert None not in found.values()


def test_what_was_looked_for_and_not_found_is_zero() -> None:
    bare, watched = facts(a_bare_run()), facts(a_full_run())

    for cause in ("host.gc", "host.sync", "host.compilation", "compute.optimizer"):
        assert bare[f"share.{cause}"] == bare[f"gain.{cause}"] == 0
    for cause in ("data_loading.worker_startup", "data_loading.small_files", "memory.growth"):
        assert watched[f"share.{cause}"] == 0
    assert bare["checkpoint.count"] == 0


@pytest.mark.parametrize("missing", ["run_delay", "read_bytes", "storage_bytes"])
def test_signals_of_a_fetch_that_the_kernel_withholds_are_absent(missing: str) -> None:
    seen = {"run_delay": 1.0, "read_bytes": 1e5, "storage_bytes": 1e5, "read_calls": 3}
    del seen[missing]
    profile = a_run({"data_wait": 5.0, "forward": 5.0}, fetch={"wall": 5.0, "cpu": 2.0, **seen})

    found = facts(profile)

    gone = {
        "run_delay": {"fetch.run_delay_share", "fetch.blocked_share"},
        "read_bytes": {"fetch.read_bytes", "fetch.bytes_per_read"},
        "storage_bytes": {"fetch.storage_bytes"},
    }[missing]
    assert gone & set(found) == set()


def test_a_loader_that_made_no_batch_tells_nothing_of_fetching() -> None:
    workers = [Worker(id=0, pid=1, totals=some_totals(0))]
    profile = a_run({"forward": 5.0}, loaders=[a_loader(workers=workers)])

    found = facts(profile)

    assert found["loader.num_workers"] == 2
    assert not [name for name in found if name.startswith("fetch.")]
    assert "loader.service_seconds" not in found


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("run.steps", 120),
        ("run.world_size", 1),
        ("step.seconds", 0.1),
        ("data.wait_share", 0.2),
        ("cpu.main_delay_share", 0.03),
        ("loader.num_workers", 2),
        ("loader.service_seconds", 0.05),
        ("loader.item_seconds", 0.05 / 64),
        ("loader.utilisation", 0.25),
        ("loader.service_variation", 10 / 6),
        ("loader.batch_bytes", 123),
        ("fetch.cpu_share", 0.6),
        ("fetch.run_delay_share", 0.1),
        ("fetch.blocked_share", 0.3),
        ("fetch.collate_share", 0.2),
        ("fetch.read_bytes", 1e6),
        ("fetch.storage_bytes", 5e5),
        ("fetch.bytes_per_read", 1e5),
        ("fetch.major_faults", 1),
        ("fetch.opens", 3),
        ("cpu.usable_cores", 8),
        ("cpu.foreign_cores", 2.5),
        ("cpu.processes_per_core", 3 / 8),
        # 100 ms of the trainer's process and 30 ms of a worker in 100 ms
        ("cpu.demand_cores", 1.3),
        ("cpu.saturation", 1.3 / 8),
        ("cpu.spare_cores", 8 - 1.3 - 2.5),
        ("checkpoint.count", 5),
        ("checkpoint.every", 20),
        ("checkpoint.seconds", 0.1),
        ("validation.every", 50),
        ("logging.per_step", 3),
        ("gc.per_step", 0.5),
        ("sync.per_step", 1),
        ("compilation.per_step", 0.1),
        ("loader.in_order", True),
        ("memory.host_used_share", 0.5),
        ("memory.swap_bytes", 2e6),
        ("memory.growth_bytes", 1e5),
        ("memory.growth_share_per_hour", 3.6e9 / 64e9),
        ("gpu.count", 1),
        ("gpu.memory_share", 0.6),
        ("gpu.utilisation", 0.5),
        ("comm.overlap_share", 0.4),
        # 6 of 80 ms of the trainer's own, of which others took 3
        ("comm.exposed_share", 0.06 * (1 - 3 / 80)),
        ("machine.bf16_speed", 2),
        ("model.convolutions", 3),
        ("model.attentions", 2),
        ("optimizer.fused", False),
        ("optimizer.fused_available", True),
        ("torch.autocast", "off"),
        ("env.omp_num_threads", 4),
        ("operators.per_step", 80),
        ("step.micro_batches", 2),
        ("cpu.threads_per_core", 6 / 8),
        ("cpu.throttled_share", 0.3),
        ("validation.worker_starts", 6),
        ("comm.bucket_bytes", 1000),
    ],
)
def test_values_by_hand(name: str, value: Any) -> None:
    expected = value if isinstance(value, (bool, str)) else pytest.approx(value)

    assert facts(a_full_run())[name] == expected


@pytest.mark.parametrize(
    ("text", "value"), [("4", 4), ("", None), ("4,2", None), ("many", None), ("-1", None)]
)
def test_an_environment_variable_that_is_no_number_is_no_fact(text: str, value: int | None) -> None:
    profile = a_bare_run()
    profile.environment.variables = {"OMP_NUM_THREADS": text}

    assert facts(profile).get("env.omp_num_threads") == value


def test_warm_up_costs_what_it_takes_beyond_usual_steps() -> None:
    profile = a_run(
        {"forward": 10.0},
        warmup=even_steps({"forward": 60.0}, 20, 0),
        run=Run(started_at="2026-01-15T10:00:00Z", wall_ns=10_000 * MS, ended="completed"),
    )

    # 20 steps of 60 ms where 10 ms are usual, in 10 s
    assert facts(profile)["run.warmup_share"] == pytest.approx(0.1, rel=0.01)


def test_too_few_samples_show_no_growth() -> None:
    few = Samples(time_ns=[0, 1, 2], columns={"rss_bytes": [1.0, 2.0, 3.0]})

    assert "memory.growth_bytes" not in facts(a_run({"forward": 5.0}, samples=few))


def test_every_cause_has_a_share_and_a_gain_with_a_meaning() -> None:
    for cause in CAUSES:
        for kind in ("share", "gain"):
            known = fact_name(f"{kind}.{cause}")
            assert known is not None
            assert CAUSES[cause].label in known.meaning
    for name in ("share.none", "gain.", "other.host.gc", "", "data"):
        assert fact_name(name) is None


@pytest.mark.parametrize(("q", "bin_"), [(0.0, 3), (0.5, 3), (0.6, 5), (0.9, 5), (1.0, 9)])
def test_a_quantile_is_the_middle_of_its_bin(q: float, bin_: int) -> None:
    histogram = Histogram(growth=2.0, bins=[3, 5, 9], counts=[5, 4, 1])

    assert quantile(histogram, q) == pytest.approx(2.0 ** (bin_ + 0.5))


def test_an_empty_histogram_has_no_quantile() -> None:
    assert quantile(Histogram(growth=1.02, bins=[], counts=[]), 0.5) is None


def test_bursts_are_a_reason_for_a_deeper_queue_and_for_any_order() -> None:
    shape = bursty_stages().fetch_shape
    uneven = a_run(
        {"data_wait": 6.0, "forward": 14.0},
        workers=4,
        fetch={"wall": 40.0, "cpu": 4.0},
        loader={"batches": some_batches([40 * k for k in shape])},
    )
    even = a_run({"data_wait": 6.0, "forward": 14.0}, workers=4, fetch={"wall": 40.0, "cpu": 4.0})

    assert facts(uneven)["loader.deeper_queue_gain"] > 0.15  # type: ignore[operator]
    assert facts(uneven)["loader.any_order_gain"] > 0.15  # type: ignore[operator]
    assert facts(even)["loader.deeper_queue_gain"] == pytest.approx(0)
    assert "loader.any_order_gain" not in facts(
        a_run({"data_wait": 6.0, "forward": 14.0}, workers=0, fetch={"wall": 4.0, "cpu": 4.0})
    )
