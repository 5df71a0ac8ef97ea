from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from stepscope.profiler.counting import count
from stepscope.profiler.format import Counted, OperatorWork
from stepscope.profiler.recorder import Recorder
from stepscope.profiler.tracing import Tracing


def counted(step: Callable[[], Any]) -> Counted:
    recorder = Recorder(0)
    tracing = Tracing(recorder, shapes=True)
    step()
    tracing.stop()
    found = count(tracing, list(recorder.phases), 0)
    recorder.close()
    return found


def rows(found: Counted, name: str) -> list[OperatorWork]:
    return [row for row in found.operators if row.name == name]


def the(found: Counted, name: str) -> OperatorWork:
    (row,) = rows(found, name)
    return row


def product_flops(found: Counted) -> int:
    return sum(row.flops or 0 for row in found.operators if row.kind == "product")


def training(model: nn.Module, *inputs: torch.Tensor) -> Callable[[], Any]:
    def step() -> None:
        model(*inputs).square().mean().backward()

    return step


class Unrolled(nn.Module):
    """A recurrent cell in a loop of Python."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = torch.zeros(x.shape[1], 8)
        for element in x:
            state = self.cell(element, state)
        return state


IMAGES = torch.ones(2, 3, 16, 16)
PROGRAMS = {
    "linear": lambda: training(nn.Linear(6, 7), torch.ones(5, 6)),
    "convolution": lambda: training(nn.Conv2d(3, 8, 3, stride=2, padding=1), IMAGES),
    "dilated": lambda: training(nn.Conv2d(3, 8, 3, dilation=2, padding="same"), IMAGES),
    "transposed": lambda: training(nn.ConvTranspose2d(3, 8, 3, stride=2, output_padding=1), IMAGES),
    "volume": lambda: training(nn.Conv3d(3, 4, 3), torch.ones(1, 3, 8, 8, 8)),
    "sequence": lambda: training(nn.Conv1d(3, 4, 3), torch.ones(2, 3, 9)),
    "recurrent_by_hand": lambda: training(Unrolled(), torch.ones(4, 2, 8)),
    "no_gradient_of_the_input": lambda: training(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3, bias=False)), IMAGES
    ),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_products_are_counted_as_pytorch_counts_them(program: str) -> None:
    step = PROGRAMS[program]()
    with FlopCounterMode(display=False) as theirs:
        step()
    assert product_flops(counted(step)) == theirs.get_total_flops() > 0


def test_gradients_of_grouped_filters_take_as_much_as_the_filters_do() -> None:
    # torch.utils.flop_counter counts the gradient of the weight once for every group.
    found = counted(training(nn.Conv2d(4, 8, 3, groups=2), torch.ones(2, 4, 8, 8)))
    forward = 2 * 2 * 6 * 6 * 8 * 2 * 3 * 3
    assert product_flops(found) == 2 * forward


def test_attention_is_two_products_forward_and_five_backward() -> None:
    # Of the processor's own kernel torch.utils.flop_counter knows nothing.
    query, key = (torch.ones(2, 4, n, 8, requires_grad=True) for n in (10, 12))

    def step() -> None:
        functional.scaled_dot_product_attention(query, key, key).sum().backward()  # type: ignore[no-untyped-call]

    found = counted(step)
    assert product_flops(found) == (2 + 5) * 2 * (2 * 4) * 10 * 12 * 8


def test_recurrent_layers_apply_each_matrix_to_each_element() -> None:
    model = nn.LSTM(8, 16, num_layers=2, bidirectional=True)
    x = torch.ones(5, 3, 8)
    found = counted(lambda: model(x)[0].sum().backward())
    matrices = sum(prod(p.shape) for p in model.parameters() if p.dim() > 1)
    assert product_flops(found) == 3 * 2 * 5 * 3 * matrices


def test_bytes_are_those_of_inputs_and_outputs_once() -> None:
    a, b = torch.ones(4, 5), torch.ones(5, 6)
    assert the(counted(lambda: a @ b), "aten::mm").bytes == 4 * (4 * 5 + 5 * 6 + 4 * 6)
    assert the(counted(lambda: a + a), "aten::add").bytes == 4 * 3 * 20
    assert the(counted(a.neg), "aten::neg").bytes == 4 * 2 * 20
    assert the(counted(lambda: a.add_(a)), "aten::add_").bytes == 4 * 3 * 20
    assert the(counted(lambda: a > 2 * a), "aten::gt").bytes == 4 * 2 * 20 + 20
    assert the(counted(lambda: a.sum(0)), "aten::sum").bytes == 4 * (20 + 5)
    assert the(counted(a.double), "aten::copy_").bytes == (4 + 8) * 20
    x = torch.ones(2, 3, 16, 16)
    pooled = the(counted(lambda: functional.max_pool2d(x, 2)), "aten::max_pool2d_with_indices")
    assert pooled.bytes == 4 * x.numel() + (4 + 8) * x.numel() // 4
    assert pooled.flops == x.numel()


def test_what_moves_data_computes_nothing_and_what_is_not_known_is_not_zero() -> None:
    a = torch.ones(4, 5)
    assert the(counted(a.t().contiguous), "aten::copy_").flops == 0
    found = counted(lambda: torch.linalg.inv(torch.eye(3)))
    (unknown,) = (row for row in found.operators if row.name == "aten::linalg_inv_ex")
    assert (unknown.kind, unknown.flops, unknown.bytes) == ("other", None, None)
    assert unknown.time_ns
    drawn = the(counted(lambda: torch.empty(8).uniform_()), "aten::uniform_")
    assert (drawn.flops, drawn.bytes) == (None, 32)


def test_only_the_innermost_operator_of_a_kind_has_the_work() -> None:
    layer, x = nn.Linear(3, 4), torch.ones(2, 3)
    found = counted(lambda: layer(x))
    assert {row.name for row in found.operators if row.kind == "product"} == {"aten::addmm"}
    found = counted(lambda: functional.relu(x))
    kinds = {row.name: (row.kind, row.calls) for row in found.operators}
    assert kinds == {"aten::clamp_min": ("pass", 1), "aten::relu": ("other", 1)}
    found = counted(x.mean)  # which is a sum and a quotient
    passes = {row.name for row in found.operators if row.kind == "pass"}
    assert passes == {"aten::sum", "aten::div_"}
    # A scalar is copied to another type on the way; the product is still the product's.
    found = counted(lambda: x * 2.5)
    assert the(found, "aten::mul").calls == 1
    assert the(found, "aten::mul").bytes is not None


def test_time_is_that_of_the_operator_without_others_of_its_own_work() -> None:
    model = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    found = counted(training(model, torch.ones(2, 10, 32)))
    times = [row.time_ns for row in found.operators]
    assert all(time is not None and time >= 0 for time in times)
    assert 0 < sum(time or 0 for time in times) <= found.wall_ns


def test_autocast_computes_in_its_own_type() -> None:
    layer, x = nn.Linear(8, 8), torch.ones(2, 8)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            layer(x)

    found = counted(step)
    (product,) = (row for row in found.operators if row.kind == "product")
    assert (product.dtype, product.flops) == ("bfloat16", 2 * 2 * 8 * 8)
    assert product.bytes == 2 * (2 * 8 + 8 * 8 + 8 + 2 * 8)


def test_channels_last_changes_no_count() -> None:
    model = nn.Conv2d(3, 8, 3)
    before = product_flops(counted(training(model, IMAGES)))
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = IMAGES.contiguous(memory_format=torch.channels_last)
    assert product_flops(counted(training(model, images))) == before > 0


@pytest.mark.parametrize("reentrant", [False, True])
def test_layers_computed_again_in_backward_are_told_apart(reentrant: bool) -> None:
    layer = nn.Linear(8, 8)
    x = torch.ones(4, 8, requires_grad=True)
    recorder = Recorder(0)
    tracing = Tracing(recorder, shapes=True)
    y = checkpoint(layer, x, use_reentrant=reentrant)
    previous = recorder.enter(recorder.phase("backward"))
    y.sum().backward()
    recorder.leave(previous)
    tracing.stop()
    found = count(tracing, list(recorder.phases), 0)
    once = 2 * 4 * 8 * 8
    assert product_flops(found) == 4 * once
    assert sum(row.recomputed_flops for row in found.operators) == once


class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A dispatch mode of the user's own."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


def test_a_dispatch_mode_of_the_users_own_sees_what_it_saw() -> None:
    step = training(nn.Linear(6, 7), torch.ones(5, 6))

    def with_mode() -> int:
        mode = Counting()
        with mode:
            step()
        return mode.calls

    calls: list[int] = []
    found = counted(lambda: calls.append(with_mode()))
    assert calls == [with_mode()]
    assert product_flops(found) == product_flops(counted(step))


def test_products_with_odd_dimensions_are_noted() -> None:
    even, odd = torch.ones(8, 8), torch.ones(8, 7)
    assert the(counted(lambda: even @ even), "aten::mm").misaligned_flops == 0
    assert the(counted(lambda: even @ odd), "aten::mm").misaligned_flops == 2 * 8 * 8 * 7
