from __future__ import annotations

import random
from typing import Any

import pytest
from builders import CALIBRATION

from stepscope.advisor.operators import (
    Category,
    ComputeSplit,
    category,
    compute_share,
    of_model,
    reading_share,
    split_compute,
)
from stepscope.profiler.format import Operator, Window, WindowPhase

US = 1000


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::addmm", "matmul"),
        ("aten::bmm", "matmul"),
        ("aten::mkldnn_convolution", "matmul"),
        ("aten::convolution_backward", "matmul"),
        ("aten::_scaled_dot_product_flash_attention", "matmul"),
        ("aten::mkldnn_rnn_layer", "matmul"),
        ("aten::relu_", "elementwise"),
        ("aten::native_batch_norm", "elementwise"),
        ("aten::_softmax", "elementwise"),
        ("aten::copy_", "elementwise"),
        ("aten::add_", "elementwise"),
        ("aten::max_pool2d_with_indices", "elementwise"),
        ("aten::view", "other"),
        ("aten::t", "other"),
        ("autograd::engine::evaluate_function: AddmmBackward0", "other"),
        ("torch::autograd::AccumulateGrad", "other"),
        ("ConvolutionBackward0", "other"),
        ("", "other"),
    ],
)
def test_category(name: str, kind: Category) -> None:
    assert category(name) == kind


def an_operator(name: str, us: float, calls: int = 1, **more: Any) -> Operator:
    return Operator(name=name, calls=calls, self_cpu_ns=round(us * US), **more)


def a_phase(us: float, operator_us: float = 0, gap_us: float = 0) -> WindowPhase:
    return WindowPhase(
        wall_ns=round(us * US), operator_ns=round(operator_us * US), gap_ns=round(gap_us * US)
    )


def a_window(*operators: Operator, us: float = 1000, gap_us: float = 0, **more: Any) -> Window:
    defaults: dict[str, Any] = {
        "first_step": 0,
        "steps": 1,
        "wall_ns": round(us * US),
        "phases": {"forward": a_phase(us, us - gap_us, gap_us)},
        "operators": list(operators),
    }
    return Window(**defaults | more)


def split(*operators: Operator, **window: Any) -> ComputeSplit:
    found = split_compute(a_window(*operators, **window), CALIBRATION)
    assert found is not None
    return found


def test_large_products_are_arithmetic() -> None:
    # 2 calls cost 2 x 2.1 us of dispatch.
    found = split(an_operator("aten::addmm", 1000, calls=2))

    assert found.arithmetic == pytest.approx(0.9958)
    assert found.launch == pytest.approx(0.0042)
    assert found.bandwidth == 0


def test_products_of_nothing_are_dispatch() -> None:
    # 500 calls of 2 us each are no longer than an operator on one element takes.
    found = split(an_operator("aten::addmm", 1000, calls=500))

    assert found == ComputeSplit(arithmetic=0, bandwidth=0, launch=1)


def test_python_between_operators_is_dispatch() -> None:
    found = split(an_operator("aten::addmm", 250, calls=0), gap_us=750)

    assert found.launch == pytest.approx(0.75)
    assert found.arithmetic == pytest.approx(0.25)


def test_elementwise_work_is_bandwidth_and_bookkeeping_serves_both() -> None:
    found = split(
        an_operator("aten::mm", 500, calls=0),
        an_operator("aten::gelu", 300, calls=0),
        an_operator("aten::view", 200, calls=0),
    )

    assert tuple(found) == pytest.approx((0.625, 0.375, 0.0))


def test_operators_that_are_hardly_longer_than_their_dispatch_are_nothing_else() -> None:
    # 2 us to dispatch: calls of 20 us are checks and allocation, calls of 200 us are products.
    found = split(
        an_operator("aten::mm", 2000, calls=10), an_operator("aten::addmm", 200, calls=10)
    )

    assert found.launch == pytest.approx((200 + 10 * 2.1) / 2200, rel=0.01)


@pytest.mark.parametrize("phase", ["forward", "backward", "python", "after_backward"])
def test_operators_of_the_model(phase: str) -> None:
    own = an_operator("aten::mm", 100, calls=0, phase=phase)
    phases = {
        phase: a_phase(150, 100, gap_us=50),
        "optimizer": a_phase(5000, 900, gap_us=4000),
        "data_wait": a_phase(5000, 900, gap_us=4000),
    }
    others = [
        an_operator("aten::addcmul_", 900, calls=0, phase=other)
        for other in ("optimizer", "data_wait", "validation", "sync")
    ]

    assert of_model(a_window(own, *others)) == [own]
    found = split(own, *others, phases=phases)
    assert found.arithmetic == pytest.approx(100 / 150)
    assert found.launch == pytest.approx(50 / 150)


@pytest.mark.parametrize(
    ("phases", "share"),
    [
        ({}, 0),
        ({"forward": a_phase(100, 100)}, 0),
        ({"python": a_phase(0)}, 0),
        ({"python": a_phase(100, 60, 15), "forward": a_phase(900, 1)}, 0.75),
        ({"python": a_phase(100, 90, 20)}, 1),
    ],
)
def test_the_part_of_python_that_computes(phases: dict[str, WindowPhase], share: float) -> None:
    assert compute_share(a_window(phases=phases), "python") == pytest.approx(share)


def test_without_calibration_dispatch_is_only_what_lies_between() -> None:
    window = a_window(an_operator("aten::mm", 800, calls=500), gap_us=200)

    found = split_compute(window, None)

    assert found is not None
    assert found.launch == pytest.approx(0.2)


def test_device_time_divides_the_wall_time_and_the_rest_is_launch() -> None:
    found = split(
        an_operator("aten::mm", 5, self_device_ns=500 * US),
        an_operator("aten::relu", 5, self_device_ns=300 * US),
    )

    assert tuple(found) == pytest.approx((0.5, 0.3, 0.2))


@pytest.mark.parametrize(
    "window",
    [
        None,
        a_window(),
        a_window(an_operator("aten::mm", 5, phase="optimizer")),
        a_window(an_operator("aten::mm", 0)),
    ],
)
def test_nothing_seen_is_nothing_said(window: Window | None) -> None:
    assert split_compute(window, CALIBRATION) is None


@pytest.mark.parametrize("seed", range(40))
def test_the_parts_sum_to_one(seed: int) -> None:
    chance = random.Random(seed)
    names = ["aten::mm", "aten::relu", "aten::view", "aten::conv2d", "own::thing"]
    device = seed % 3 == 0
    operators = [
        an_operator(
            chance.choice(names),
            chance.expovariate(0.01),
            calls=chance.randrange(100),
            self_device_ns=chance.randrange(10**6) if device else 0,
            phase=chance.choice(["forward", "backward", "optimizer"]),
        )
        for _ in range(chance.randrange(1, 30))
    ]
    operators.append(an_operator("aten::mm", 10, self_device_ns=1000 if device else 0))

    found = split(*operators, us=chance.uniform(1, 5000), gap_us=chance.uniform(0, 5000))

    assert sum(found) == pytest.approx(1)
    assert min(found) >= 0


def test_reading_values_between_the_phases_is_no_computing() -> None:
    window = a_window(an_operator("aten::item", 900, calls=900, phase="python"))
    window.phases["python"] = WindowPhase(
        wall_ns=1000 * US, operator_ns=900 * US, gap_ns=50 * US, calls=1000
    )

    assert reading_share(window, "python") == pytest.approx(0.9)
    assert compute_share(window, "python") == pytest.approx(0.95)
