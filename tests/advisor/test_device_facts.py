"""What a live profile tells of its device: time, sensors, memory and copies."""

from __future__ import annotations

from typing import Any

import pytest
from builders import MS, a_run
from msgspec.structs import replace

from stepscope.advisor import live_tables
from stepscope.advisor.advise import advise
from stepscope.advisor.device_memory import memory_picture
from stepscope.advisor.device_path import on_device_path
from stepscope.advisor.fact_names import DEVICE_FACTS
from stepscope.advisor.facts import Facts, facts_of
from stepscope.advisor.html import render
from stepscope.advisor.measure import measure
from stepscope.advisor.outcome import ratio
from stepscope.advisor.predict import outcome
from stepscope.advisor.rule_files import load_knowledge
from stepscope.profiler.format import (
    Collective,
    Configuration,
    Copies,
    Device,
    DeviceMemory,
    DeviceTimes,
    Gpu,
    Model,
    Operator,
    Optimizer,
    Profile,
    Samples,
    Steps,
    Window,
)

KNOWLEDGE = load_knowledge([])
GB = 10**9
HOST = {"data_wait": 1.0, "transfer": 4.0, "forward": 25.0, "backward": 40.0, "optimizer": 10.0,
        "sync": 15.0, "python": 5.0}  # fmt: skip
"""Milliseconds on the training thread, of a step of 100 ms."""
BUSY = {"transfer": 4.0, "forward": 30.0, "backward": 55.0, "optimizer_device": 8.0, "sync": 3.0}
"""The same step on a device that is nearly always behind."""


def table(phases: dict[str, float], steps: int = 40) -> Steps:
    columns = {name: [round(ms * MS)] * steps for name, ms in phases.items()}
    walls = [round(sum(phases.values()) * MS)] * steps
    return Steps(
        first=[20 + 2 * i for i in range(steps)],
        count=[1] * steps,
        wall_ns=walls,
        wall_max_ns=walls,
        phases=columns,
    )


def kernels(**milliseconds: float) -> Window:
    """Device time by phase in a window of four steps: two thirds of it products."""
    operators = [
        Operator(name=name, calls=4, self_cpu_ns=MS, self_device_ns=round(part * ms * 4 * MS),
                 phase=phase)
        for phase, ms in milliseconds.items()
        for name, part in (("aten::mm", 2 / 3), ("aten::add", 1 / 3))
    ]  # fmt: skip
    return Window(first_step=30, steps=4, wall_ns=400 * MS, phases={}, operators=operators)


def some_samples(**columns: list[float | None]) -> Samples:
    given: dict[str, list[float | None]] = {
        "utilisation": [0.97] * 40,
        "memory_used_bytes": [30.0 * GB] * 40,
        "power_w": [600.0] * 40,
        "sm_clock_mhz": [1900.0] * 40,
        "throttled_thermal_share": [0.0] * 40,
        "throttled_power_share": [0.0] * 40,
        "pcie_generation": [5.0] * 40,
        "pcie_width": [16.0] * 40,
        "other_processes": [0.0] * 40,
        "other_memory_bytes": [0.0] * 40,
        "energy_j": [500.0 * i for i in range(40)],
    }
    return Samples(
        time_ns=[second * 1000 * MS for second in range(40)],
        columns={f"gpu0_{name}": values for name, values in (given | columns).items()},
    )


def course(**columns: list[float | None]) -> DeviceMemory:
    given: dict[str, list[float | None]] = {
        "step": [20.0 + 5 * i for i in range(20)],
        "allocated_bytes": [8.0 * GB] * 20,
        "reserved_bytes": [25.0 * GB] * 20,
        "inactive_split_bytes": [1.0 * GB] * 20,
        "retries": [0.0] * 20,
        "ooms": [0.0] * 20,
        "device_allocations": [50.0] * 20,
    }
    return DeviceMemory(
        device=0,
        total_bytes=80 * GB,
        course=Samples(time_ns=[i * 500 * MS for i in range(20)], columns=given | columns),
        peak_allocated_bytes=20 * GB,
        peak_reserved_bytes=25 * GB,
    )


def a_gpu_run(**changes: Any) -> Profile:
    """A device that is nearly always busy, healthy, and to itself."""
    defaults: dict[str, Any] = {
        "device": Device(
            times=DeviceTimes(device=0, steps=table(BUSY), events=480, own_ns=8 * MS),
            memory=course(),
            copies=[
                Copies(direction="HtoD", memory="pinned", calls=200, bytes=8 * GB, time_ns=MS,
                       non_blocking=200),
                Copies(direction="DtoH", memory="pageable", calls=100, bytes=400, time_ns=MS,
                       non_blocking=0),
            ],
        ),
        "window": kernels(forward=29.0, backward=54.0, optimizer=8.0),
        "samples": some_samples(),
        "configuration": Configuration(
            models=[
                Model(class_name="Net", parameters=5 * 10**8, parameter_bytes=2 * GB,
                      trainable_parameters=5 * 10**8, dtypes=["torch.float32"],
                      devices=["cuda:0"], modules={"Block": 36}),
            ],
            optimizers=[
                Optimizer(class_name="AdamW", parameters=5 * 10**8, tensors=400,
                          parameter_bytes=2 * GB, gradient_bytes=2 * GB, state_bytes=4 * GB),
            ],
            intra_op_threads=4,
        ),
    }  # fmt: skip
    profile = a_run(HOST, steps={"calls": {"syncs": 100}}, **defaults | changes)
    profile.environment.gpus = [
        Gpu(index=0, name="A GPU", memory_bytes=80 * GB, max_sm_clock_mhz=1980,
            max_pcie_generation=5, max_pcie_width=16, cuda_index=0),
    ]  # fmt: skip
    return profile


def facts(profile: Profile) -> Facts:
    profile = on_device_path(profile)
    return facts_of(profile, measure(profile))


def fired(profile: Profile) -> set[str]:
    return {finding.rule for finding in advise(profile, KNOWLEDGE).findings}


# The critical path --------------------------------------------------------------------------------


def shares(profile: Profile) -> dict[str, float]:
    breakdown = measure(on_device_path(profile)).breakdown
    return {cause: interval.share for cause, interval in breakdown.causes.items()}


def test_a_busy_device_owns_the_step() -> None:
    found = shares(a_gpu_run())
    work = 29 / 30 * 30 + 54 / 55 * 55
    assert found["compute.arithmetic"] == pytest.approx(2 / 3 * work / 100, abs=0.01)
    assert found["memory.bandwidth"] == pytest.approx(1 / 3 * work / 100, abs=0.01)
    assert found["compute.optimizer"] == pytest.approx(0.08, abs=0.002)
    assert found["data_loading.host_to_device"] == pytest.approx(0.04, abs=0.002)
    assert found["host.sync"] == pytest.approx(0.03, abs=0.002)
    assert found["compute.launch"] == pytest.approx(0.02, abs=0.002)
    assert sum(found.values()) == pytest.approx(1)


def paced(**changes: Any) -> Profile:
    """A device that keeps up with the host: kernels of 20 ms in steps of 100."""
    phases = {"forward_paced": 40.0, "backward_paced": 45.0, "optimizer_paced": 10.0,
              "python_paced": 5.0}  # fmt: skip
    device = Device(times=DeviceTimes(device=0, steps=table(phases)))
    window = kernels(forward=8.0, backward=12.0, optimizer=1.0)
    return a_gpu_run(**{"device": device, "window": window} | changes)


def test_a_device_that_keeps_up_is_bound_by_launching() -> None:
    found = shares(paced())
    assert found["compute.launch"] == pytest.approx((32 + 33) / 100, abs=0.01)
    assert found["compute.arithmetic"] + found["memory.bandwidth"] == pytest.approx(0.20, abs=0.01)
    assert found["compute.optimizer"] == pytest.approx(0.10, abs=0.01)
    assert found["host.python"] == pytest.approx(0.05, abs=0.01)
    assert "small_operators" in fired(paced())
    assert advise(paced(), KNOWLEDGE).verdict.cause == "compute.launch"


def test_without_a_window_the_host_sets_the_pace() -> None:
    found = shares(paced(window=None))
    assert found["compute.launch"] == pytest.approx(0.85, abs=0.01)
    busy = shares(a_gpu_run(window=None))
    assert busy["compute.arithmetic"] == pytest.approx(0.85, abs=0.01)


def test_waits_that_the_device_does_not_notice_cost_nothing() -> None:
    host = {**HOST, "data_wait": 40.0}
    profile = a_gpu_run()
    hidden = a_run(host, device=profile.device, configuration=profile.configuration)
    assert facts(hidden)["data.wait_share"] == 0.0
    starved = {**BUSY, "data_wait": 40.0}
    times = DeviceTimes(device=0, steps=table(starved))
    found = facts(replace(profile, device=Device(times=times)))
    assert found["data.wait_share"] == pytest.approx(40 / 140, abs=0.01)
    assert found["gpu.idle_share"] == pytest.approx((40 + 3 + 2) / 140, abs=0.01)


def test_exchange_inside_backward_is_taken_out_of_it() -> None:
    exchange = Collective(
        gradient_bytes=GB, buckets=4, communication_ns=30 * MS, overlap_ns=18 * MS, backward_ns=MS
    )
    found = shares(a_gpu_run(collectives=[exchange]))
    assert found["communication.collective"] == pytest.approx(0.12, abs=0.005)


@pytest.mark.parametrize("missing", ["times", "few", "host"])
def test_too_little_of_a_device_leaves_the_host_as_it_is(missing: str) -> None:
    profile = a_gpu_run()
    assert profile.device is not None
    if missing == "times":
        profile.device.times = None
    elif missing == "few":
        profile.device.times = DeviceTimes(device=0, steps=table(BUSY, 4))
    else:
        profile.configuration.models[0].devices = ["cpu"]
    assert on_device_path(profile) is profile


def test_a_device_that_was_not_followed_is_said_to_be() -> None:
    profile = a_gpu_run(device=None)
    what = "when the device works, and what it is idle for"
    assert what in {missing.what for missing in advise(profile, KNOWLEDGE).not_measured}
    assert what not in {missing.what for missing in advise(a_gpu_run(), KNOWLEDGE).not_measured}


# Facts --------------------------------------------------------------------------------------------


def test_every_fact_of_a_device_is_there() -> None:
    assert set(DEVICE_FACTS) - set(facts(a_gpu_run())) == set()
    assert not fired(a_gpu_run()) & {
        "hot_device", "power_capped", "shared_device", "degraded_link", "pinning_lost",
        "blocking_copies", "allocator_retries", "repeated_device_allocations", "fragmented_memory",
        "device_memory_full", "device_memory_growth",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gpu.idle_share", 0.05),
        ("gpu.clock_share", 1900 / 1980),
        ("gpu.energy_per_step", 50.0),
        ("gpu.link_share", 1.0),
        ("gpu.link_rate", 16 * 3.938e9),
        ("copy.upload_bytes", 8 * GB / 100),
        ("copy.pageable_share", 0.0),
        ("copy.non_blocking_share", 1.0),
        ("copy.readback_bytes", 4.0),
        ("copy.upload_rate", 8 * GB / 100 / 0.004),
        ("copy.link_share", 8 * GB / 100 / 0.004 / (16 * 3.938e9)),
        ("memory.retries_per_step", 0.0),
        ("memory.reserved_ratio", 1.25),
        ("memory.reserved_share", 25 / 80),
        ("memory.fragmented_share", 0.04),
        ("memory.state_share", 6 / 20),
        ("memory.activation_share", 12 / 20),
        # (0.95 x 80 - 5 held by others) / 1.25 is 56.8 GB; 8 are fixed, 12 grow with the batch.
        ("memory.batch_room", (71 / 1.25 - 8) / 12),
    ],
)
def test_values_by_hand(name: str, value: float) -> None:
    assert facts(a_gpu_run())[name] == pytest.approx(value, rel=0.02)


def test_energy_is_summed_from_power_where_there_is_no_counter() -> None:
    found = facts(a_gpu_run(samples=some_samples(energy_j=[None] * 40)))
    assert found["gpu.energy_per_step"] == pytest.approx(60.0)


def test_an_idle_moment_is_not_load() -> None:
    clocks: list[float | None] = [*[300.0] * 20, *[1900.0] * 20]
    busy: list[float | None] = [*[0.0] * 20, *[0.9] * 20]
    found = facts(a_gpu_run(samples=some_samples(sm_clock_mhz=clocks, utilisation=busy)))
    assert found["gpu.clock_share"] == pytest.approx(1900 / 1980)


def test_devices_of_others_do_not_count() -> None:
    profile = a_gpu_run(samples=some_samples(throttled_thermal_share=[1.0] * 40))
    profile.configuration.models[0].devices = ["cuda:1"]
    assert "gpu.thermal_share" not in facts(profile)


# Rules --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "columns"),
    [
        ("hot_device", {"throttled_thermal_share": [1.0] * 40, "sm_clock_mhz": [1200.0] * 40}),
        ("power_capped", {"throttled_power_share": [1.0] * 40, "sm_clock_mhz": [1200.0] * 40}),
        ("shared_device", {"other_processes": [1.0] * 40, "other_memory_bytes": [9.0 * GB] * 40}),
    ],
)
def test_sensors_make_rules_fire(rule: str, columns: dict[str, list[float | None]]) -> None:
    assert rule in fired(a_gpu_run(samples=some_samples(**columns)))


def copying(*copies: Copies, **loader: Any) -> Profile:
    """A device that waits for its copies for half of the time."""
    phases = {**BUSY, "transfer": 90.0}
    profile = a_gpu_run(fetch={"wall": 1.0, "cpu": 1.0}, loader=loader)
    times = DeviceTimes(device=0, steps=table(phases))
    profile.device = Device(times=times, copies=list(copies))
    return profile


def upload(memory: str, non_blocking: int) -> Copies:
    return Copies(direction="HtoD", memory=memory, calls=100, bytes=40 * GB, time_ns=MS,
                  non_blocking=non_blocking)  # fmt: skip


def test_copies_make_rules_fire() -> None:
    assert "pageable_copies" in fired(copying(upload("pageable", 0), pin_memory=False))
    assert "pinning_lost" in fired(copying(upload("pageable", 100), pin_memory=True))
    assert "blocking_copies" in fired(copying(upload("pinned", 0), pin_memory=True))
    slow = copying(upload("pinned", 100), pin_memory=True)
    assert {"blocking_copies", "pinning_lost", "degraded_link"} & fired(slow) == set()
    slow.samples = some_samples(pcie_width=[4.0] * 40)
    assert "degraded_link" in fired(slow)


@pytest.mark.parametrize(
    ("rule", "columns"),
    [
        ("allocator_retries", {"retries": [float(i) for i in range(20)]}),
        ("repeated_device_allocations", {"device_allocations": [60.0 * i for i in range(20)]}),
        ("fragmented_memory", {"inactive_split_bytes": [10.0 * GB] * 20}),
        ("device_memory_growth", {"allocated_bytes": [(8 + 0.1 * i) * GB for i in range(20)]}),
    ],
)
def test_the_allocator_makes_rules_fire(rule: str, columns: dict[str, list[float | None]]) -> None:
    profile = a_gpu_run()
    assert profile.device is not None
    profile.device.memory = course(**columns)
    assert rule in fired(profile)


# What holds memory --------------------------------------------------------------------------------


def test_memory_is_divided_into_what_holds_it() -> None:
    picture = memory_picture(a_gpu_run())
    assert picture is not None
    assert picture.on_device
    assert (picture.parameters, picture.gradients, picture.state) == (2 * GB, 2 * GB, 4 * GB)
    assert picture.activations == 12 * GB
    assert picture.outside == 5 * GB
    freed = {saving.method: saving.bytes for saving in picture.savings}
    assert freed["oa-accum"] == 6 * GB
    assert freed["fp-amp"] == 5 * GB
    assert freed["dd-ckpt"] == pytest.approx((1 - 2 / 6) * 12 * GB)
    assert freed["oa-memopt"] == pytest.approx(0.734 * 4 * GB)
    assert freed["fp-peft"] == 6 * GB
    assert set(freed) <= set(KNOWLEDGE.methods)
    assert "sy-shard" not in freed


def test_ranks_can_share_what_each_of_them_holds() -> None:
    profile = a_gpu_run()
    profile.run.world_size = 4
    picture = memory_picture(profile)
    assert picture is not None
    assert {s.method: s.bytes for s in picture.savings}["sy-shard"] == 6 * GB


def test_on_the_host_it_is_the_process_that_holds_memory() -> None:
    profile = a_gpu_run(
        device=None, samples=Samples(time_ns=[1], columns={"rss_bytes": [12.0 * GB]})
    )
    profile.configuration.models[0].devices = ["cpu"]
    picture = memory_picture(profile)
    assert picture is not None
    assert not picture.on_device
    assert (picture.peak, picture.activations) == (12 * GB, 4 * GB)
    assert picture.room is None
    assert picture.savings == []
    assert memory_picture(replace(profile, configuration=Configuration())) is None


# The report ---------------------------------------------------------------------------------------


def test_the_report_shows_the_device() -> None:
    profile = a_gpu_run()
    page = render(advise(profile, KNOWLEDGE), profile)
    found = live_tables.live(profile)
    assert found is not None
    assert [(row.doing, row.name) for row in found.times] == [
        ("works", "backward"),
        ("works", "forward"),
        ("works", "optimizer"),
        ("works", "copies to the device"),
        ("idle", "the host had waited for the device"),
    ]
    assert sum(row.share for row in found.times) == pytest.approx(1)
    assert found.memory is not None
    assert sum(part.share for part in found.memory.parts) == pytest.approx(1)
    for words in (
        "Device",
        "What holds memory",
        "Activation checkpointing",
        "to the host, pageable",
    ):
        assert words in page


def test_the_report_of_a_process_shows_what_it_holds_where_that_is_much() -> None:
    samples = Samples(time_ns=[1], columns={"rss_bytes": [12.0 * GB]})
    profile = a_gpu_run(device=None, samples=samples)
    profile.configuration.models[0].devices = ["cpu"]
    page = render(advise(profile, KNOWLEDGE), profile)
    assert "What holds memory" in page
    assert "activations, data, Python and libraries" in page
    samples.columns["rss_bytes"] = [500.0 * GB]
    assert live_tables.live(profile) is None
    assert "What holds memory" not in render(advise(profile, KNOWLEDGE), profile)


# Gains --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cause", "phases", "speedup"),
    [
        ("host.sync", {"forward": 15.0, "backward": 25.0, "sync": 60.0}, 2.5),
        ("data_loading.host_to_device", {"transfer": 60.0, "forward": 20.0, "backward": 20.0}, 2.5),
        ("compute.launch", {"forward_paced": 60.0, "backward": 40.0}, 1 / 0.5),
    ],
)
def test_without_a_cause_the_rest_of_the_step_remains(
    cause: str, phases: dict[str, float], speedup: float
) -> None:
    window = kernels(forward=10.0 if "forward_paced" in phases else 30.0, backward=40.0)
    device = Device(times=DeviceTimes(device=0, steps=table(phases)))
    profile = a_gpu_run(device=device, window=window)
    assert advise(profile, KNOWLEDGE).verdict.cause == cause
    gain = facts(profile)[f"gain.{cause}"]
    assert isinstance(gain, float)
    assert 1 + gain == pytest.approx(speedup, rel=0.05)


def gain_of(method: str, profile: Profile) -> float:
    profile = on_device_path(profile)
    measurement = measure(profile)
    found = outcome(KNOWLEDGE.methods[method].predictor, profile, measurement.stages)
    assert found is not None
    return ratio(measurement.stages, found.best(measurement.stages))


def test_what_the_clock_or_the_link_has_lost_can_come_back_at_most() -> None:
    slow = a_gpu_run(samples=some_samples(sm_clock_mhz=[990.0] * 40))
    share = shares(slow)["compute.arithmetic"]
    assert gain_of("sy-clocks", slow) == pytest.approx(1 / (1 - share / 2), rel=0.02)
    narrow = copying(upload("pinned", 100))
    narrow.samples = some_samples(pcie_width=[4.0] * 40)
    share = shares(narrow)["data_loading.host_to_device"]
    assert gain_of("sy-link", narrow) == pytest.approx(1 / (1 - 3 / 4 * share), rel=0.02)


def test_a_loader_that_starves_the_device_is_the_bottleneck() -> None:
    device = Device(
        times=DeviceTimes(
            device=0, steps=table({"data_wait": 70.0, "forward": 10.0, "backward": 20.0})
        )
    )
    host = {"data_wait": 90.0, "forward": 4.0, "backward": 4.0, "optimizer": 2.0}
    profile = a_run(
        host,
        workers=1,
        fetch={"wall": 99.0, "cpu": 96.0, "items": 64},
        steps={"cpu": 12.0, "process_cpu": 15.0, "wait_cpu": 0.5, "run_delay": 0.05},
        device=device,
        configuration=a_gpu_run().configuration,
        window=kernels(forward=10.0, backward=20.0),
    )
    advice = advise(profile, KNOWLEDGE)
    assert advice.verdict.cause == "cpu_preprocessing.transform"
    gain = facts(profile)["gain.cpu_preprocessing.transform"]
    assert isinstance(gain, float)
    assert 1 + gain == pytest.approx(100 / 30, rel=0.15)
