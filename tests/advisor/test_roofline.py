from __future__ import annotations

from typing import Any

import pytest
from builders import CALIBRATION, MS, a_product, a_profile, some_work
from msgspec.structs import replace

from stepscope.advisor.facts import facts_of
from stepscope.advisor.measure import measure
from stepscope.advisor.peaks import peaks_of
from stepscope.advisor.roofline import Point, Roofline, roofline
from stepscope.profiler.format import Counted, Gpu, Operator, OperatorWork, Profile

PEAK = CALIBRATION.gemm_fp32_flops
BANDWIDTH = CALIBRATION.copy_bytes_per_s


def counted(*rows: OperatorWork, steps: int = 1) -> Counted:
    return Counted(first_step=125, steps=steps, wall_ns=50 * MS, operators=list(rows))


def a_run(found: Counted | None, **changes: Any) -> Profile:
    profile = a_profile(**changes)
    assert profile.window is not None
    profile.window.counted = found
    return profile


def found_in(profile: Profile) -> Roofline:
    found = roofline(profile)
    assert found is not None
    return found


def the_point(*rows: OperatorWork) -> Point:
    (point,) = found_in(a_run(counted(*rows))).points
    return point


def facts(profile: Profile) -> dict[str, Any]:
    return dict(facts_of(profile, measure(profile)))


def test_without_a_counted_step_there_is_none() -> None:
    assert roofline(a_run(None)) is None
    assert roofline(a_profile(window=None)) is None
    assert not any(name.startswith("compute.") for name in facts(a_run(None)))


def test_a_product_above_the_ridge_is_held_by_arithmetic() -> None:
    point = the_point(a_product(bytes=8_000_000))
    assert point.bound == "arithmetic"
    assert point.intensity == 12.5 > PEAK / BANDWIDTH
    assert point.flops_per_s == pytest.approx(100e9)
    assert point.reached == pytest.approx(100e9 / PEAK)


def test_a_product_below_the_ridge_is_held_by_memory() -> None:
    point = the_point(a_product(bytes=16_000_000))
    assert point.bound == "bandwidth"
    assert point.intensity == 6.25 < PEAK / BANDWIDTH
    assert point.reached == pytest.approx(16e9 / BANDWIDTH)


def test_a_product_smaller_than_its_dispatch_is_held_by_that() -> None:
    point = the_point(a_product(calls=1000, flops=1_000_000, bytes=80_000))
    assert point.bound == "launch"


def test_the_phases_of_an_operator_are_one_point_per_step() -> None:
    found = counted(a_product(), a_product(phase="backward"), a_product(phase="optimizer"), steps=2)
    (point,) = found_in(a_run(found)).points
    assert (point.calls, point.flops, point.seconds) == (10, 100e6, 0.001)


def test_what_one_call_does_not_tell_is_not_known_of_all() -> None:
    point = the_point(a_product(), a_product(bytes=None))
    assert (point.bytes, point.intensity) == (None, None)
    point = the_point(a_product(kind="pass", flops=None))
    assert (point.flops, point.bound, point.reached) == (None, None, None)


def test_a_type_without_a_peak_has_no_arithmetic_limit() -> None:
    found = found_in(a_run(counted(a_product(dtype="float64"))))
    assert found.points[0].bound == "bandwidth"
    assert found.model_peak_seconds is None
    run = a_run(counted(a_product(dtype="float64")))
    assert "compute.mfu" not in facts(run)
    assert facts(run)["compute.flops_per_step"] == 100e6


def test_utilisation_is_of_the_whole_step() -> None:
    run = a_run(some_work())
    step = measure(run).breakdown.step_seconds
    known = facts(run)
    assert known["compute.flops_per_step"] == 1.5e9
    assert known["compute.flops_per_second"] == pytest.approx(1.5e9 / step)
    assert known["compute.mfu"] == pytest.approx(1.5e9 / PEAK / step)
    assert known["compute.hfu"] == known["compute.mfu"]


def test_layers_computed_again_count_for_the_hardware_only() -> None:
    again = a_product(phase="backward", recomputed_flops=50_000_000)
    known = facts(a_run(counted(a_product(), again)))
    assert known["compute.flops_per_step"] == 150e6
    assert known["compute.hfu"] == pytest.approx(known["compute.mfu"] * 200 / 150)


def test_types_are_held_against_peaks_of_their_own() -> None:
    run = a_run(counted(a_product(), a_product(dtype="bfloat16")))
    run.environment.calibration = replace(CALIBRATION, gemm_bf16_flops=2 * PEAK)
    step = measure(run).breakdown.step_seconds
    assert facts(run)["compute.mfu"] == pytest.approx(100e6 * (1 + 0.5) / PEAK / step)


def test_shares_are_of_the_time_in_operators_of_the_model() -> None:
    unknown = OperatorWork(name="aten::linalg_inv_ex", kind="other", calls=1, time_ns=800_000)
    update = a_product(phase="optimizer", time_ns=100 * MS)
    known = facts(a_run(some_work(unknown, update)))
    whole = 5 + 10 + 1 + 0.2 + 0.8
    assert known["operators.arithmetic_bound_share"] == pytest.approx(15 / whole)
    assert known["operators.bandwidth_bound_share"] == pytest.approx(1 / whole)
    assert known["operators.launch_bound_share"] == pytest.approx(0.2 / whole)
    assert known["operators.uncounted_share"] == pytest.approx(0.8 / whole)


def test_a_peak_is_not_below_what_was_reached() -> None:
    run = a_run(counted(a_product(flops=400_000_000)))
    found = found_in(run)
    assert found.peaks is not None
    assert found.peaks.flops["float32"] == pytest.approx(400e9)
    assert found.peaks.flops["float32"] > PEAK
    assert found.points[0].reached == pytest.approx(1)


def test_without_calibration_nothing_is_compared() -> None:
    run = a_run(some_work())
    run.environment.calibration = None
    known = facts(run)
    assert known["compute.flops_per_step"] == 1.5e9
    assert not {"compute.mfu", "compute.peak_share", "operators.bandwidth_bound_share"} & set(known)


def on_a(name: str, **changes: Any) -> Profile:
    run = a_run(some_work(a_product(misaligned_flops=100_000_000, phase="backward")))
    run.environment.gpus = [Gpu(index=0, name=name)]
    for model in run.configuration.models:
        model.devices = ["cuda:0"]
    assert run.window is not None
    run.window.operators += [
        Operator(name="aten::mkldnn_convolution", calls=5, self_cpu_ns=1, self_device_ns=5 * MS)
    ]
    run.configuration = replace(run.configuration, **changes)
    return run


def test_on_a_device_time_is_the_devices_and_peaks_are_of_its_data_sheet() -> None:
    run = on_a("NVIDIA H100 80GB HBM3", tf32_matmul=False)
    found = found_in(run)
    point = next(p for p in found.points if p.name == "aten::mkldnn_convolution")
    assert point.seconds == pytest.approx(0.001)  # of five steps
    assert found.peaks is not None
    assert found.peaks.flops["float32"] == 67e12
    known = facts(run)
    assert known["gpu.misaligned_share"] == pytest.approx(100 / 1600)
    assert "operators.launch_bound_share" not in known


def test_on_a_device_an_operator_of_several_types_is_one_point() -> None:
    run = on_a("NVIDIA L4")
    assert run.window is not None
    assert run.window.counted is not None
    indices = a_product("aten::mkldnn_convolution", dtype="int64", bytes=100, flops=100)
    run.window.counted.operators.append(indices)
    points = [p for p in found_in(run).points if p.name == "aten::mkldnn_convolution"]
    [point] = points
    assert point.dtype == "float32"
    assert point.seconds == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("name", "bfloat16", "gigabytes"),
    [
        ("NVIDIA H200", 989.5, 4800),
        ("NVIDIA H100 PCIe", 756, 2000),
        ("NVIDIA A100-SXM4-80GB", 312, 2039),
        ("NVIDIA A100 80GB PCIe", 312, 1935),
        ("NVIDIA A100-SXM4-40GB", 312, 1555),
        ("NVIDIA L4", 121, 300),
        ("NVIDIA L40S", 362, 864),
        ("NVIDIA A10", 125, 600),
    ],
)
def test_devices_are_known_by_their_names(name: str, bfloat16: float, gigabytes: float) -> None:
    peaks = peaks_of(on_a(name))
    assert peaks is not None
    assert peaks.flops["bfloat16"] == bfloat16 * 1e12
    assert peaks.bytes_per_s == gigabytes * 1e9


def test_tf32_decides_the_peak_of_float32() -> None:
    on, off, unknown = (
        peaks_of(on_a("NVIDIA A100-SXM4-40GB", tf32_matmul=value)) for value in (True, False, None)
    )
    assert on is not None
    assert off is not None
    assert unknown is not None
    assert (on.flops["float32"], off.flops["float32"]) == (156e12, 19.5e12)
    assert unknown.flops["float32"] == 156e12


@pytest.mark.parametrize(
    "name", ["AMD Instinct MI300X", "NVIDIA A100-SXM4-40GB MIG 3g.20gb", "NVIDIA GeForce GTX 1080"]
)
def test_a_device_without_a_sheet_has_no_peaks(name: str) -> None:
    run = on_a(name)
    assert peaks_of(run) is None
    assert "compute.mfu" not in facts(run)
    assert facts(run)["compute.flops_per_step"] == 1.6e9


def test_an_older_device_computes_no_bfloat16() -> None:
    peaks = peaks_of(on_a("Tesla V100-SXM2-16GB"))
    assert peaks is not None
    assert set(peaks.flops) == {"float16", "float32"}
