from __future__ import annotations

import pytest
from builders import CALIBRATION, MS, a_product, a_profile, an_advice, some_work

from stepscope.advisor.html import render
from stepscope.advisor.roofline_chart import Dot, Picture, picture
from stepscope.profiler.format import OperatorWork

STEP = 0.05


def drawn(*more: OperatorWork) -> Picture:
    profile = a_profile()
    assert profile.window is not None
    profile.window.counted = some_work(*more)
    found = picture(profile, STEP)
    assert found is not None
    return found


def the(found: Picture, name: str) -> Dot:
    (dot,) = (dot for dot in found.dots if dot.title.startswith(f"{name},"))
    return dot


def test_without_work_there_is_no_picture_and_the_report_says_why() -> None:
    profile = a_profile()
    assert profile.window is not None
    profile.window.counted = None
    assert picture(profile, STEP) is None
    assert "shapes of its arguments were not recorded" in render(an_advice(), profile)


def test_points_lie_where_their_numbers_say() -> None:
    found = drawn()
    forward, backward = the(found, "mkldnn_convolution"), the(found, "convolution_backward")
    relu = the(found, "clamp_min")
    assert relu.x < backward.x < forward.x  # 0.125, 41.7 and 62.5 FLOP per byte
    assert forward.y == backward.y < relu.y  # 100, 100 and 1 GFLOP/s, upwards
    assert backward.radius > forward.radius > relu.radius
    assert {forward.bound, backward.bound, relu.bound} == {"arithmetic", "bandwidth"}
    assert all(0 <= dot.x <= 100 and 0 <= dot.y <= 100 for dot in found.dots)


def test_an_area_is_a_time() -> None:
    found = drawn()
    forward, backward = the(found, "mkldnn_convolution"), the(found, "convolution_backward")
    assert (backward.radius / forward.radius) ** 2 == pytest.approx(2)


def test_the_roofs_meet_at_the_ridge() -> None:
    found = drawn()
    memory, arithmetic = found.roofs
    assert (memory.sloped, arithmetic.sloped) == (True, False)
    assert (memory.x2, memory.y2) == pytest.approx((arithmetic.x1, arithmetic.y1))
    assert memory.label == "memory: 18.0 GB/s"
    assert arithmetic.label == "float32: 210 GFLOP/s"
    # A point on a roof would lie on its line: 18 GFLOP/s with one operation per byte.
    on_roof = drawn(a_product("aten::on_roof", flops=18_000_000, bytes=18_000_000))
    memory, dot = on_roof.roofs[0], the(on_roof, "on_roof")
    slope = (memory.y2 - memory.y1) / (memory.x2 - memory.x1)
    assert dot.y == pytest.approx(memory.y1 + slope * (dot.x - memory.x1))


def test_hovering_tells_numbers_with_units() -> None:
    title = the(drawn(), "mkldnn_convolution").title
    assert title == (
        "mkldnn_convolution, float32: 5.00 ms in 40 calls per step, 100 GFLOP/s, 1.60 GB/s, "
        "62.5 FLOP per byte, 48 % of the machine's best; limit: arithmetic"
    )


def test_labels_are_of_the_longest_and_do_not_overlap() -> None:
    found = drawn(*(a_product(f"aten::near{i}", flops=100_000_000 + i) for i in range(20)))
    labels = [dot.y for dot in found.dots if dot.label]
    assert found.dots[0].label == "convolution_backward"
    assert 1 < len(labels) <= 6
    assert all(abs(a - b) > 5 for i, a in enumerate(labels) for b in labels[:i])


def test_what_computes_nothing_is_in_the_table_only() -> None:
    copy = OperatorWork(
        name="aten::copy_",
        dtype="float32",
        kind="copy",
        calls=4,
        time_ns=3 * MS,
        flops=0,
        bytes=27_000_000,
    )
    found = drawn(copy)
    assert not any("copy_" in dot.title for dot in found.dots)
    (row,) = (row for row in found.rows if row.name == "copy_")
    assert (row.rate, row.intensity, row.traffic) == ("\N{EN DASH}", "\N{EN DASH}", "9.00 GB/s")
    assert (row.reached, row.bound) == ("50 %", "memory traffic")
    assert found.undrawn == 1


def test_without_limits_there_are_points_alone() -> None:
    profile = a_profile()
    profile.environment.calibration = None
    found = picture(profile, STEP)
    assert found is not None
    assert found.dots
    assert (found.roofs, found.bounds, found.mfu) == ([], [], None)
    assert render(an_advice(), profile)


def test_one_operator_alone_can_be_drawn() -> None:
    profile = a_profile()
    assert profile.window is not None
    assert profile.window.counted is not None
    profile.window.counted.operators = [a_product()]
    found = picture(profile, STEP)
    assert found is not None
    assert len(found.dots) == 1
    assert found.x_ticks
    assert found.y_ticks


def test_the_page_says_how_utilisation_is_counted() -> None:
    text = render(an_advice(), a_profile())
    share = 1.5e9 / CALIBRATION.gemm_fp32_flops / an_advice().step_seconds
    assert f"{100 * share:.0f}\N{NO-BREAK SPACE}% of what the machine does at its best" in text
    assert "A multiplication and an addition count as two" in text
    assert "<circle" in text
