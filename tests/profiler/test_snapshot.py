from __future__ import annotations

import gc
import random
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from loops import Net
from torch import nn

from stepscope.profiler.snapshot import RandomStates, Snapshot


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """No models of other tests are alive."""
    gc.collect()
    yield
    gc.collect()


class Counting(nn.Module):
    """Keeps state in every way that modules do."""

    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("seen", torch.zeros(1))
        self.hidden = torch.zeros(3)
        self.calls = 0
        self.recent: deque[int] = deque(maxlen=3)
        self.notes: dict[str, Any] = {"sizes": [1], "names": {"a"}}
        self.register_buffer("spread", torch.arange(3.0).expand(2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.recent.append(self.calls)
        self.notes["sizes"].append(len(x))
        self.notes["names"].add(str(self.calls))
        self.notes[str(self.calls)] = self.calls
        self.seen = self.seen + 1  # replaced
        self.hidden += 1  # changed in place
        result: torch.Tensor = self.net(self.norm(x))
        return result


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    optimizer.zero_grad()
    loss: torch.Tensor = model(torch.rand(8, 4)).square().mean()
    loss.backward()  # type: ignore[no-untyped-call]

    def closure() -> float:
        return loss.item()

    optimizer.step(closure)
    return loss.item()


OPTIMIZERS: list[Callable[[Any], torch.optim.Optimizer]] = [
    lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
    torch.optim.Adagrad,
    lambda p: torch.optim.LBFGS(p, max_iter=2),
]


@pytest.mark.parametrize(
    ("make", "before"), [(OPTIMIZERS[1], 0), *((make, 3) for make in OPTIMIZERS)]
)
def test_steps_can_be_taken_back(make: Callable[[Any], torch.optim.Optimizer], before: int) -> None:
    torch.manual_seed(0)
    model = Counting()
    optimizer = make(model.parameters())
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.1, total_steps=50, cycle_momentum=False
    )
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)

    def steps(count: int) -> list[float]:
        losses = []
        for _ in range(count):
            losses += [step(model, optimizer), optimizer.param_groups[0]["lr"]]
            scheduler.step()
            plateau.step(losses[-2])
        return losses

    steps(before)
    tensors = list(model.parameters())
    snapshot = Snapshot()
    first = steps(4)
    model.eval()
    snapshot.restore()

    assert model.calls == before
    assert model.training
    assert all(a is b for a, b in zip(tensors, model.parameters(), strict=True))
    assert len(model.notes) == 2 + before
    assert len(model.recent) == before
    assert steps(4) == first


def test_gradients_are_what_they_were() -> None:
    model, frozen = Net(), nn.Linear(2, 2).requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.rand(2, 4)).sum().backward()
    gradient = model.outer.weight.grad
    assert gradient is not None
    values = gradient.clone()
    model.inner.weight.grad = None

    snapshot = Snapshot()
    step(model, optimizer)
    gradient += 1
    frozen.requires_grad_(True)
    snapshot.restore()

    assert model.outer.weight.grad is gradient
    assert torch.equal(gradient, values)
    assert model.inner.weight.grad is None
    assert not frozen.weight.requires_grad


def test_random_generators_are_where_they_were() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    generator = torch.Generator()
    held = {"own": torch.Generator()}
    own = random.Random(4)
    legacy, modern = np.random.RandomState(5), np.random.default_rng(6)

    def draw() -> list[float]:
        tensors = [torch.rand(1), torch.rand(1, generator=generator)]
        tensors.append(torch.rand(1, generator=held["own"]))
        numbers = [random.random(), np.random.rand(), own.gauss(0, 1)]
        return [*map(float, tensors), *numbers, legacy.rand(), modern.normal()]

    before = RandomStates()
    snapshot = Snapshot()
    assert RandomStates() == before
    first = draw()
    assert RandomStates() != before
    snapshot.restore()

    assert RandomStates() == before
    assert draw() == first
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_a_gradient_scaler_keeps_its_scale() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scaler = torch.amp.GradScaler("cpu") if hasattr(torch.amp, "GradScaler") else None
    if scaler is None:
        pytest.skip("this version scales on CUDA only")

    def update(value: float) -> float:
        parameter = optimizer.param_groups[0]["params"][0]
        scaler.scale((parameter * value).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        return float(scaler.get_scale())

    scale = update(1.0)
    snapshot = Snapshot()
    assert update(float("inf")) < scale
    snapshot.restore()
    assert scaler.get_scale() == scale


def test_too_much_state_is_refused() -> None:
    model = nn.Linear(100, 100)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    with pytest.raises(MemoryError, match="parameters and state"):
        Snapshot(limit_bytes=1000)
    assert Snapshot(limit_bytes=1e9).bytes >= 4 * 100 * 100
    assert optimizer.state == {}


def test_without_an_optimizer_a_step_cannot_be_taken_back() -> None:
    with pytest.raises(RuntimeError, match="Optimizer"):
        Snapshot()


def test_frozen_objects_cannot_be_found() -> None:
    gc.freeze()
    try:
        with pytest.raises(RuntimeError, match="freeze"):
            Snapshot()
    finally:
        gc.unfreeze()


def test_other_containers_of_state_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "deepspeed", object())

    with pytest.raises(RuntimeError, match="deepspeed"):
        Snapshot()


def test_what_cannot_be_put_back_is_said_and_the_rest_is() -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    weight = model.outer.weight.detach().clone()
    snapshot = Snapshot()
    step(model, optimizer)
    model.inner.weight.data = torch.zeros(3, 3)

    with pytest.raises(RuntimeError, match="1 values"):
        snapshot.restore()
    assert torch.equal(model.outer.weight, weight)


def test_layers_without_a_shape_yet_do_no_harm() -> None:
    lazy = nn.Sequential(nn.LazyLinear(3))
    optimizer = torch.optim.SGD(Net().parameters(), lr=0.1)

    Snapshot().restore()
    assert lazy(torch.rand(2, 5)).shape == (2, 3)
    assert optimizer.param_groups
