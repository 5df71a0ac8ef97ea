from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from stepscope.advisor.facts import facts_of
from stepscope.advisor.measure import measure
from stepscope.advisor.roofline import roofline
from stepscope.advisor.traces.profile import load_trace
from stepscope.profiler.format import Profile

STEPS = 3


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(8 * 7 * 7, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept: torch.Tensor = checkpoint(self.features, x, use_reentrant=False)
        found: torch.Tensor = self.head(kept)
        return found


def step(model: nn.Module) -> None:
    model(torch.ones(4, 3, 16, 16)).sum().backward()


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some steps of a network whose first layers are computed again in backward."""
    path = tmp_path_factory.mktemp("trace") / "shapes.json"
    model = Net()
    with torch.profiler.profile(activities=[ProfilerActivity.CPU], record_shapes=True) as prof:
        for number in range(STEPS):
            with torch.profiler.record_function(f"ProfilerStep#{number}"):
                step(model)
    prof.export_chrome_trace(str(path))
    return path


def product_flops(profile: Profile) -> int:
    assert profile.window is not None
    assert profile.window.counted is not None
    rows = profile.window.counted.operators
    return sum(row.flops or 0 for row in rows if row.kind == "product")


def test_a_trace_with_shapes_tells_what_operators_compute(trace: Path) -> None:
    profile = load_trace(trace)
    with FlopCounterMode(display=False) as theirs:
        step(Net())
    assert product_flops(profile) == STEPS * theirs.get_total_flops() > 0
    assert profile.window is not None
    assert profile.window.counted is not None
    assert profile.window.counted.steps == STEPS
    times = [row.time_ns or 0 for row in profile.window.counted.operators]
    assert 0 < sum(times) <= profile.window.counted.wall_ns


def test_what_backward_computes_again_is_told_apart(trace: Path) -> None:
    found = roofline(load_trace(trace))
    assert found is not None
    assert found.hardware_flops is not None
    assert found.model_flops is not None
    convolution = 2 * 4 * 8 * 7 * 7 * 3 * 3 * 3
    assert found.hardware_flops - found.model_flops == convolution


def test_of_a_processor_no_limits_are_known_from_a_trace(trace: Path) -> None:
    profile = load_trace(trace)
    facts = facts_of(profile, measure(profile))
    assert facts["compute.flops_per_step"]
    assert "compute.mfu" not in facts
    assert "operators.bandwidth_bound_share" not in facts


def test_a_trace_that_is_no_json_tells_them_too(trace: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.json"
    text = trace.read_text("utf-8")
    damaged.write_text(text.replace('"External id"', '"-": NaN, "External id"'), "utf-8")
    assert product_flops(load_trace(damaged)) == product_flops(load_trace(trace))


def test_of_shapes_without_values_no_sum_is_made_of_a_part(trace: Path, tmp_path: Path) -> None:
    # As in traces of torch 1.9: a convolution's stride is not told.
    older = tmp_path / "older.json"
    older.write_text(trace.read_text("utf-8").replace('"Concrete Inputs"', '"-"'), "utf-8")
    found = roofline(load_trace(older))
    assert found is not None
    assert found.model_flops is None
    assert any(point.name == "aten::addmm" and point.flops for point in found.points)


def test_without_shapes_nothing_is_counted(trace: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.json"
    plain.write_text(trace.read_text("utf-8").replace('"Input Dims"', '"-"'), "utf-8")
    profile = load_trace(plain)
    assert profile.window is not None
    assert profile.window.counted is None
