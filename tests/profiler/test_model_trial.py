from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from loops import Net, Points
from test_probing import both
from torch import nn
from torch.utils.data import DataLoader

from stepscope.profiler import machine, model_trial, profile
from stepscope.profiler.format import Profile
from stepscope.profiler.model_calls import (
    Arguments,
    ModelCall,
    ModelCalls,
    NotRepeatableError,
    autocast_in_force,
    batch_dimension,
    fresh,
    samples_of,
)
from stepscope.profiler.model_trial import ModelTrials, thread_counts
from stepscope.profiler.storage import load


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "calibrate", lambda: None)
    monkeypatch.setattr(model_trial, "_SECONDS", 0.2)


def called(module: nn.Module, *args: Any, **kwargs: Any) -> ModelCall:
    return ModelCall(module, Arguments(args, kwargs))


def trials(module: nn.Module, *args: Any, problems: list[str] | None = None) -> ModelTrials:
    """Trials of one call with batches of four."""
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    said = problems if problems is not None else []
    return ModelTrials([called(module, *args)], 4, [optimizer], said.append)


def recorded(tmp_path: Path, model: nn.Module) -> Profile:
    """A loop that knows only batches of four."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    path = tmp_path / "p.json"
    with profile(path, warmup_steps=0, operator_steps=0, probe=True) as prof:
        for x, _ in prof.steps(DataLoader(Points(180), 4)):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    return load(path)


def test_sizes_and_threads_are_tried_and_nothing_is_changed(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    found, _ = both(tmp_path, lambda: DataLoader(Points(240), batch_size=4))

    assert torch.get_num_threads() == before
    assert found.ceilings is not None
    tried = found.ceilings.model
    assert tried is not None
    assert tried.batch_size == 4
    assert [size.factor for size in tried.sizes] == [1.0, 2.0, 0.5]
    assert [row.threads for row in tried.threads] == thread_counts(before)
    for times in (*(s.pass_ns for s in tried.sizes), *(t.optimizer_ns for t in tried.threads)):
        assert times
        assert min(times) > 0
    assert bool(tried.operators) == (len(tried.threads) > 1)


class OnlyFours(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.reshape(4, 4) + torch.zeros(4, 4))


def test_a_model_for_one_size_only_goes_on_with_it(tmp_path: Path) -> None:
    found = recorded(tmp_path, OnlyFours())

    assert found.run.ended == "completed"
    assert found.ceilings is not None
    assert found.ceilings.model is not None
    assert [size.factor for size in found.ceilings.model.sizes] == [1.0]
    assert sum("times the batch was not tried: shape" in p for p in found.problems) == 2


def test_a_device_without_the_memory_is_said_and_its_memory_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, given_back = ModelCall.run, []

    def limited(call: ModelCall, arguments: Arguments) -> None:
        if arguments.positional[0].shape[0] > 4:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        run(call, arguments)

    monkeypatch.setattr(ModelCall, "run", limited)
    monkeypatch.setattr(model_trial, "give_back_memory", lambda: given_back.append(True))
    problems: list[str] = []
    module = nn.Linear(4, 2)
    found = trials(module, torch.ones(4, 4), problems=problems).run()

    assert [size.factor for size in found.sizes] == [1.0, 0.5]
    assert problems == ["2 times the batch was not tried: the device has not the memory"]
    assert given_back == [True]


def test_a_process_that_fills_the_memory_does_not_double(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_trial, "_may_double", lambda: False)
    problems: list[str] = []
    found = trials(nn.Linear(4, 2), torch.ones(4, 4), problems=problems).run()

    assert [size.factor for size in found.sizes] == [1.0, 0.5]
    assert "as much memory again" in problems[0]


def test_an_optimizer_that_needs_a_closure_is_told_of() -> None:
    class Picky(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            if torch.get_num_threads():
                raise TypeError("step() needs a closure")

    module = nn.Linear(4, 2)
    optimizer = Picky(module.parameters(), lr=0.1)
    problems: list[str] = []
    call = called(module, torch.ones(4, 4))
    found = ModelTrials([call], 4, [optimizer], problems.append).run()

    assert len(found.sizes) == 3
    assert found.optimizer_ns == []
    assert problems == ["the optimizer alone was not tried: step() needs a closure"]


def test_compiled_models_are_let_be(tmp_path: Path) -> None:
    model = torch.compile(Net(), backend="eager")
    try:
        found = recorded(tmp_path, model)  # type: ignore[arg-type]
    finally:
        torch._dynamo.reset()

    assert found.ceilings is not None
    assert found.ceilings.model_step_ns
    assert found.ceilings.model is None
    assert any("torch.compile would compile anew" in problem for problem in found.problems)


# Calls --------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    """Batch in the second dimension of one input, nested containers, one in place change."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(3, 5, batch_first=True)
        self.shapes: list[Any] = []
        self.autocast: list[Any] = []

    def forward(self, batch: dict[str, Any], state: torch.Tensor, *, scale: float) -> Any:
        self.shapes.append((batch["parts"][0].shape, batch["parts"][1].shape, state.shape))
        self.autocast = list(autocast_in_force())
        batch["parts"][0].mul_(scale)
        output, last = self.cell(batch["parts"][0], state.float())
        return {"all": output, "last": (last, batch["parts"][1])}


def test_a_call_is_made_again_with_other_sizes_in_its_contexts() -> None:
    module = Recurrent()
    parts = (torch.ones(4, 7, 3, requires_grad=True), torch.arange(9))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        call = called(module, {"parts": parts}, torch.zeros(1, 4, 5), scale=2.0)
    assert call.has_batch(4)
    assert not call.has_batch(6)
    for factor in (2.0, 0.5):
        arguments = fresh(call.arguments(4, factor))
        module.shapes.clear()
        with torch.no_grad():  # the call's own mode counts
            call.run(arguments)
        size = int(4 * factor)
        assert module.shapes == [((size, 7, 3), (9,), (1, size, 5))]
    assert module.autocast == [("cpu", torch.bfloat16)]
    assert all(p.grad is not None for p in module.parameters())
    assert torch.equal(parts[0], torch.ones(4, 7, 3))


def test_what_cannot_be_repeated_is_refused() -> None:
    class Graph:
        pass

    calls = ModelCalls(1000.0)
    calls.note(nn.Linear(4, 2), (Graph(),), {})
    assert calls.reason == "a Graph among its arguments cannot be repeated"

    calls = ModelCalls(40.0)
    calls.note(nn.Linear(4, 2), (torch.ones(4, 4),), {})
    assert calls.reason == "its inputs are too large to be kept"

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(nn.Linear(4, 2))
    with pytest.raises(NotRepeatableError, match="TorchScript"):
        called(scripted, torch.ones(4, 4))

    class Silent(nn.Linear):
        def forward(self, x: torch.Tensor) -> Any:
            return Graph()

    silent = called(Silent(4, 2), torch.ones(4, 4))
    with pytest.raises(NotRepeatableError, match="does not lead back"):
        silent.run(silent.arguments(4, 1.0))


def test_the_dimension_of_the_batch() -> None:
    assert batch_dimension(torch.Size([8, 3]), 8) == 0
    assert batch_dimension(torch.Size([3, 8]), 8) == 1
    assert batch_dimension(torch.Size([3, 3, 8]), 8) is None
    assert batch_dimension(torch.Size([]), 8) is None
    assert samples_of({"a": torch.tensor(1), "b": [torch.ones(6, 2)]}) == 6
    assert samples_of("nothing") is None


def test_the_numbers_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr("stepscope.profiler.cgroup.cpu_quota", lambda: 6.5)

    assert thread_counts(6) == [1, 3, 6]
    assert thread_counts(16) == [1, 3, 6, 16]
    monkeypatch.setattr("stepscope.profiler.cgroup.cpu_quota", lambda: 0.5)
    assert thread_counts(1) == [1]
