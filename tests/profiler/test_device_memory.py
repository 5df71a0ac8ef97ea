"""The allocator's figures, on a fake of its statistics."""

from __future__ import annotations

import time

import pytest
from fake_cuda import FakeAllocator, FakeCuda
from torch import nn, optim

from stepscope.profiler.device.recorder import DeviceRecorder
from stepscope.profiler.format import DeviceMemory, PhaseMemory
from stepscope.profiler.observed import describe_optimizer

MB = 10**6


class Loop:
    """A simulated loop that allocates."""

    def __init__(self, patch: pytest.MonkeyPatch, allocator: FakeAllocator | None = None) -> None:
        self.cuda, self.allocator = FakeCuda(), allocator or FakeAllocator()
        self.cuda.install(patch)
        self.allocator.install(patch)
        self.problems: list[str] = []
        self.recorder = DeviceRecorder(10, self.problems.append)

    def phase(self, name: str, *sizes: int) -> None:
        """Hold so much, one after the other, inside a phase."""
        previous = self.recorder.enter(self.recorder.phase(name))
        for size in sizes:
            self.cuda.host(10_000)
            self.allocator.hold(size * MB)
        self.recorder.leave(previous)

    def step(self) -> None:
        """100 MB stay; activations of 60 MB come and go; the optimizer needs 5 for a moment."""
        self.phase("forward", 160)
        self.phase("backward", 170, 120)
        self.phase("optimizer", 125, 100)
        self.recorder.end_step()

    @property
    def memory(self) -> DeviceMemory:
        device = self.recorder.device([])
        assert device is not None
        assert device.memory is not None
        return device.memory


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    return Loop(monkeypatch)


def test_memory_is_read_at_ends_of_steps_now_and_then(loop: Loop) -> None:
    for _ in range(200):  # of 50 ms
        loop.step()
    memory = loop.memory
    assert memory.device == 0
    assert memory.total_bytes == 80 * 2**30
    assert memory.peak_allocated_bytes == memory.peak_reserved_bytes == 170 * MB
    columns = memory.course.columns
    assert set(columns["allocated_bytes"]) == {100.0 * MB}
    assert columns["reserved_bytes"][-1] == 170 * MB
    assert columns["step"] == sorted(columns["step"], key=lambda step: step or 0)
    assert 18 <= len(memory.course.time_ns) <= 30
    assert loop.allocator.reads < 60
    assert loop.problems == []


def test_phases_of_early_steps_tell_where_the_peak_is(loop: Loop) -> None:
    for _ in range(3):
        loop.phase("forward", 100)  # as in a first step that computes nothing yet
        loop.recorder.end_step()
    for _ in range(10):
        loop.step()
    phases = loop.memory.phases
    assert phases["forward"] == PhaseMemory(
        begin_bytes=100 * MB, end_bytes=160 * MB, peak_bytes=160 * MB
    )
    assert phases["backward"] == PhaseMemory(
        begin_bytes=160 * MB, end_bytes=120 * MB, peak_bytes=170 * MB
    )
    assert phases["optimizer"].peak_bytes is None


def test_a_peak_from_before_the_run_is_not_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    allocator = FakeAllocator()
    allocator.hold(900 * MB)
    allocator.hold(100 * MB)
    loop = Loop(monkeypatch, allocator)
    for _ in range(30):
        loop.step()
    assert loop.memory.peak_allocated_bytes == 160 * MB  # where forward ended; 170 was not seen
    allocator.peak = allocator.allocated  # torch.cuda.reset_peak_memory_stats()
    for _ in range(30):
        loop.step()
    assert loop.memory.peak_allocated_bytes == 170 * MB


def test_reading_takes_no_time_of_any_step(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    statistics = loop.allocator.statistics

    def slow(device: int) -> dict[str, object]:
        loop.cuda.host(400_000)
        return statistics(device)

    for _ in range(12):
        loop.step()
    monkeypatch.setattr("torch.cuda.memory_stats_as_nested_dict", slow)
    for _ in range(40):
        loop.step()
    steps = loop.recorder.steps("steady")
    assert max(steps.wall_max_ns) <= 51 * MB
    assert time.perf_counter_ns() == loop.cuda.now


def test_an_allocator_without_statistics_is_let_be(loop: Loop) -> None:
    loop.allocator.refuse = RuntimeError("the allocator has no statistics")
    for _ in range(20):
        loop.step()
    assert loop.allocator.reads == 2  # one of them before the loop
    assert loop.problems == [
        "the device's memory was not followed: RuntimeError('the allocator has no statistics')"
    ]
    assert loop.recorder.steps("steady").total == 10


def test_an_optimizer_tells_what_it_holds() -> None:
    model = nn.Linear(100, 10, bias=False)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model.weight.sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    found = describe_optimizer(optimizer)
    assert found.parameter_bytes == found.gradient_bytes == found.state_bytes == 4000
