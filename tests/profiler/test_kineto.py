"""The calls that torch.profiler has recorded: as its own tables have them, for less."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._C._autograd import DeviceType
from torch.autograd.profiler_util import EventList

from stepscope.profiler.kineto import Call, calls, calls_listed, calls_of


def trained() -> Any:
    """A `torch.profiler.profile` of two steps of a small network."""
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    optimizer = torch.optim.Adam(model.parameters())
    recorded = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])
    recorded.start()
    with torch.profiler.record_function("not over"):
        for _ in range(2):
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(model(torch.ones(4, 8)), torch.ones(4, 1))
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        recorded.stop()
    return recorded


def described(made: list[Call]) -> Counter[tuple[Any, ...]]:
    """What there is to know of calls, times by those of the first one."""
    origin = min(call.start for call in made)
    return Counter(
        (
            call.name,
            call.thread,
            call.scope,
            call.ended,
            call.start - origin,
            call.end - origin,
            call.own_ns,
            call.own_device_ns,
            call.caller.name if call.caller else None,
        )
        for call in made
    )


def test_the_calls_are_those_of_the_public_list() -> None:
    recorded = trained()
    found = calls_of(recorded.profiler.kineto_results.events())

    assert {"aten::addmm", "Optimizer.step#Adam.step"} <= {call.name for call in found}
    assert described(found) == described(calls_listed(recorded.events()))


def test_what_the_private_list_does_not_give_is_taken_from_the_public_one() -> None:
    recorded = trained()
    expected = described(calls_listed(recorded.events()))
    recorded.profiler.kineto_results = SimpleNamespace(events=lambda: [SimpleNamespace()])

    assert described(calls(recorded)) == expected


@dataclass
class Event:
    """Stands for a `_KinetoEvent`; what it is not told is empty."""

    label: str
    begin: int
    finish: int
    correlation: int = 0
    linked: int = 0
    device: DeviceType = DeviceType.CPU
    thread: int = 1

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        known = {
            "name": self.label,
            "device_type": self.device,
            "start_ns": self.begin,
            "end_ns": self.finish,
            "duration_ns": self.finish - self.begin,
            "start_us": self.begin // 1000,
            "duration_us": (self.finish - self.begin) // 1000,
            "start_thread_id": self.thread,
            "end_thread_id": self.thread,
            "correlation_id": self.correlation,
            "linked_correlation_id": self.linked,
            "cuda_elapsed_us": -1,
            "is_async": False,
            "is_hidden_event": False,
            "scope": 0,
        }
        empty: Any = [] if name.endswith(("shapes", "stack", "inputs", "kwinputs", "dtypes")) else 0
        return lambda: known.get(name, empty)


def test_kernels_belong_to_the_operator_that_launched_them() -> None:
    gpu = DeviceType.CUDA
    events = [
        Event("aten::linear", 0, 100_000, correlation=1),
        Event("aten::addmm", 10_000, 90_000, correlation=2),
        Event("cudaLaunchKernel", 20_000, 30_000, correlation=77, linked=2, thread=9),
        Event("gemm", 50_000, 250_000, correlation=77, linked=2, device=gpu),
        Event("cudaLaunchKernel", 40_000, 45_000, correlation=78, linked=2, thread=9),
        Event("bias", 250_000, 260_000, correlation=78, linked=2, device=gpu),
        Event("aten::copy_", 120_000, 180_000, correlation=3),
        Event("aten::copy_", 130_000, 170_000, correlation=4),
        Event("Memcpy", 300_000, 340_000, correlation=79, linked=4, device=gpu),
        Event("aten::is_leaf", 182_000, 183_000, correlation=5),
    ]
    found = calls_of(events)

    assert {call.name: call.own_device_ns for call in found} == {
        "aten::linear": 0,
        "aten::addmm": 210_000,
        "cudaLaunchKernel": 0,
        "aten::copy_": 40_000,
    }
    assert described(found) == described(calls_listed(as_torch_lists(events)))


def as_torch_lists(events: list[Event]) -> Any:
    """The public list that PyTorch makes of `events`."""
    profiler = torch.autograd.profiler.profile()
    if not hasattr(profiler, "_needs_processing"):
        pytest.skip("older versions of PyTorch tell devices otherwise")
    profiler.use_device = "cuda"
    result: Any = SimpleNamespace(
        events=lambda: events, trace_start_ns=lambda: 0, trace_start_us=lambda: 0
    )
    listed: Any = EventList(profiler._parse_kineto_results(result), use_device="cuda")  # type: ignore[no-untyped-call]
    listed._build_tree()
    return listed
