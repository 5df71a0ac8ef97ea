from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_cuda import US, FakeAllocator, FakeCuda, FakeEvent
from loops import Points, record
from torch import nn
from torch.utils.data import DataLoader

from stepscope.profiler import profile
from stepscope.profiler.device.clock import OWN_SHARE
from stepscope.profiler.device.division import ClockBridge, Moment, divide
from stepscope.profiler.device.recorder import DeviceRecorder
from stepscope.profiler.format import DeviceTimes

MS = 1000.0
"""Milliseconds in the microseconds of the simulated loops."""
Loop = Callable[["Simulated"], None]


class Simulated:
    """A loop on a simulated device, recorded as the probes would."""

    def __init__(
        self, patch: pytest.MonkeyPatch, drift: float = 0.0, warmup_steps: int = 0
    ) -> None:
        self.cuda = FakeCuda(drift)
        self.cuda.install(patch)
        FakeAllocator().install(patch)
        self.problems: list[str] = []
        self.recorder = DeviceRecorder(warmup_steps, self.problems.append)

    def phase(self, name: str, body: Callable[[], None]) -> None:
        previous = self.recorder.enter(self.recorder.phase(name))
        body()
        self.recorder.leave(previous)

    def kernels(self, count: int, microseconds: float, cost: float = 5.0) -> None:
        for _ in range(count):
            self.cuda.launch(microseconds, cost=cost)

    def run(self, step: Loop, steps: int = 30) -> DeviceTimes:
        for _ in range(steps):
            step(self)
            self.recorder.end_step()
        self.cuda.synchronise()
        self.recorder.close()
        device = self.recorder.device([])
        assert device is not None
        assert device.times is not None
        return device.times


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Simulated:
    return Simulated(monkeypatch)


def model(kernel_us: float, cost_us: float) -> Loop:
    """Forward of 50 kernels, backward of 100, optimizer of 10."""

    def step(loop: Simulated) -> None:
        loop.phase("forward", lambda: loop.kernels(50, kernel_us, cost_us))
        loop.phase("backward", lambda: loop.kernels(100, kernel_us, cost_us))
        loop.phase("optimizer", lambda: loop.kernels(10, kernel_us, cost_us))

    return step


def shares(times: DeviceTimes) -> dict[str, float]:
    wall = sum(times.steps.wall_ns)
    return {name: sum(column) / wall for name, column in times.steps.phases.items()}


def test_a_device_that_is_behind_works_all_the_time(loop: Simulated) -> None:
    found = shares(loop.run(model(kernel_us=50, cost_us=5)))
    assert found["forward"] == pytest.approx(5 / 16, abs=0.01)
    assert found["backward"] == pytest.approx(10 / 16, abs=0.01)
    assert found["optimizer_device"] == pytest.approx(1 / 16, abs=0.01)
    assert sum(found.values()) == pytest.approx(1)


def test_a_device_that_keeps_up_is_paced_by_the_host(loop: Simulated) -> None:
    found = shares(loop.run(model(kernel_us=2, cost_us=20)))
    assert found["forward_paced"] == pytest.approx(5 / 16, abs=0.01)
    assert found["backward_paced"] == pytest.approx(10 / 16, abs=0.01)
    assert found["optimizer_paced"] == pytest.approx(1 / 16, abs=0.01)


def test_a_device_that_is_behind_from_the_start_is_seen_to_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = Simulated(monkeypatch, warmup_steps=10)
    times = loop.run(model(kernel_us=50, cost_us=5), steps=60)
    assert min(times.steps.first) >= 10
    assert times.steps.total >= 30
    assert set(shares(times)) == {"forward", "backward", "optimizer_device"}


def test_waiting_for_data_counts_only_as_far_as_the_device_is_idle(loop: Simulated) -> None:
    def step(loop: Simulated) -> None:
        loop.phase("data_wait", lambda: loop.cuda.host(6 * MS))
        model(kernel_us=50, cost_us=10)(loop)  # the host is done after 1.6 ms, the device after 8

    times = loop.run(step)
    found = shares(times)
    begin, end = loop.cuda.work[0][0], loop.cuda.work[-1][1]
    busy = loop.cuda.busy(begin, end) / (end - begin)
    assert "data_wait" not in found or found["data_wait"] < 0.01
    assert found["forward"] + found["backward"] + found["optimizer_device"] == pytest.approx(
        busy, abs=0.01
    )

    def starving(loop: Simulated) -> None:
        loop.phase("data_wait", lambda: loop.cuda.host(16 * MS))
        model(kernel_us=50, cost_us=10)(loop)

    with pytest.MonkeyPatch.context() as patch:
        found = shares(Simulated(patch).run(starving))
    # 16 ms of waiting and 1.6 of launching; of 8 ms of work, 6.4 are under way as it begins.
    assert found["data_wait"] == pytest.approx((16 - 6.4) / 17.6, abs=0.01)


def test_idling_after_a_wait_for_the_device_is_the_waits(loop: Simulated) -> None:
    def step(loop: Simulated) -> None:
        model(kernel_us=50, cost_us=5)(loop)
        loop.phase("sync", loop.cuda.synchronise)
        loop.cuda.host(2 * MS)  # Python, with nothing left for the device

    found = shares(loop.run(step))
    assert found["sync"] == pytest.approx(2 / 10, abs=0.01)
    assert sum(found.values()) == pytest.approx(1)


@pytest.mark.parametrize("drift", [-50e-6, 50e-6])
def test_clocks_that_drift_are_kept_together(monkeypatch: pytest.MonkeyPatch, drift: float) -> None:
    loop = Simulated(monkeypatch, drift)

    def step(loop: Simulated) -> None:
        loop.phase("data_wait", lambda: loop.cuda.host(100 * MS))
        model(kernel_us=50, cost_us=5)(loop)

    # Over 10 s the clocks are 0.5 ms apart; the first and the last steps are divided alike.
    times = loop.run(step, steps=100)
    waits = times.steps.phases["data_wait"]
    assert waits[-1] == pytest.approx(waits[1], rel=0.01)
    assert shares(times)["data_wait"] == pytest.approx(93.6 / 101.6, abs=0.01)


def test_short_steps_are_left_out_as_often_as_it_takes(loop: Simulated) -> None:
    def step(loop: Simulated) -> None:
        loop.phase("forward", lambda: loop.kernels(20, 3))
        loop.phase("backward", lambda: loop.kernels(20, 3))

    times = loop.run(step, steps=2000)
    began, ended = loop.cuda.work[0][0], loop.cuda.now
    assert times.own_ns <= 1.05 * OWN_SHARE * (ended - began)
    assert times.steps.total >= 50
    assert times.events == 4 * times.steps.total


def test_steps_of_ten_milliseconds_are_nearly_all_followed(loop: Simulated) -> None:
    def step(loop: Simulated) -> None:
        loop.phase("data_wait", lambda: loop.cuda.host(20))
        loop.phase("transfer", lambda: loop.cuda.launch(100))
        model(kernel_us=60, cost_us=10)(loop)
        loop.phase("sync", loop.cuda.synchronise)

    times = loop.run(step, steps=100)
    assert times.steps.total >= 90
    assert times.events / times.steps.total <= 14
    assert times.own_ns <= 0.005 * sum(times.steps.wall_ns)


def test_events_are_used_again(loop: Simulated) -> None:
    loop.run(model(kernel_us=50, cost_us=5), steps=300)
    assert loop.cuda.events <= 24 * 8
    assert loop.cuda.recorded > loop.cuda.events


def test_nothing_is_recorded_into_a_graph(loop: Simulated) -> None:
    def step(loop: Simulated) -> None:
        loop.cuda.capturing = True
        model(kernel_us=50, cost_us=5)(loop)
        loop.cuda.capturing = False

    for _ in range(5):
        model(kernel_us=50, cost_us=5)(loop)
        loop.recorder.end_step()
    for _ in range(3):
        step(loop)
        loop.recorder.end_step()
    times = loop.run(model(kernel_us=50, cost_us=5), steps=60)
    assert times.lost_steps >= 1
    assert times.steps.total >= 30
    assert not {5, 6, 7} & set(times.steps.first)
    assert loop.problems == []


@pytest.mark.parametrize("after", [0, 5])
def test_a_driver_that_refuses_ends_the_following_only(loop: Simulated, after: int) -> None:
    for number in range(20):
        if number == after:
            loop.cuda.refuse = RuntimeError("CUDA error: out of memory")
        model(kernel_us=500, cost_us=5)(loop)
        loop.recorder.end_step()
    assert loop.recorder.steps("steady").total == 20
    assert loop.problems == [
        "the device's time was not followed to the end: RuntimeError('CUDA error: out of memory')"
    ]


def test_a_program_that_never_uses_its_device_is_not_made_to(loop: Simulated) -> None:
    loop.cuda.initialised = False
    for _ in range(5):
        loop.phase("forward", lambda: loop.cuda.host(MS))
        loop.recorder.end_step()
    assert loop.recorder.device([]) is None
    assert loop.cuda.events == 0


def test_a_step_with_very_many_phases_is_given_up(loop: Simulated) -> None:
    def step(loop: Simulated) -> None:
        for _ in range(40):
            loop.phase("forward", lambda: loop.kernels(1, 300, 100))

    for _ in range(5):
        step(loop)
        loop.recorder.end_step()
    times = loop.run(model(kernel_us=50, cost_us=5))
    assert times.lost_steps >= 1
    assert times.steps.total >= 20
    assert min(times.steps.first) >= 5


def test_steps_kept_out_of_the_tables_are_not_followed(loop: Simulated) -> None:
    step = model(kernel_us=50, cost_us=5)
    for number in range(20):
        loop.recorder.in_window = 5 <= number < 10
        step(loop)
        loop.recorder.end_step()
    times = loop.run(step, steps=5)
    assert not set(range(5, 10)) & set(times.steps.first)


def test_steps_that_turn_out_to_be_none_are_forgotten(loop: Simulated) -> None:
    step = model(kernel_us=50, cost_us=5)
    for _ in range(20):
        loop.phase("validation", lambda: loop.kernels(160, 50))
        loop.recorder.end_step()
    loop.recorder.discard()
    times = loop.run(step, steps=20)
    assert times.steps.first == sorted(times.steps.first)
    assert "validation" not in times.steps.phases


# The division itself ------------------------------------------------------------------------------


def test_a_mark_that_is_reached_at_once_ends_an_idle_stretch() -> None:
    late, soon = 500 * US, 10 * US
    moments = [
        Moment(0, late, "data_wait"),
        Moment(3000 * US, 3000 * US + soon, "forward"),
        Moment(3100 * US, 3100 * US + late, "backward"),
        Moment(3200 * US, 5000 * US, ""),
    ]
    assert divide(moments) == {
        "data_wait": 2500 * US + soon,
        "forward": 600 * US - soon,
        "backward": 1400 * US,
    }
    assert divide(moments[:1]) == {}


def test_a_clock_is_bounded_by_setting_and_seeing() -> None:
    bridge = ClockBridge()
    # The device is 5 ms behind from the start: too late a time is corrected as soon as one is seen.
    assert bridge.on_host([100, 200], [5000, 5100], seen_ns=9000) == [100, 200]
    assert bridge.on_host([300], [5400], seen_ns=9000) == [500]
    assert bridge.on_host([900], [5500], seen_ns=9000) == [900]
    assert bridge.on_host([1000], [6500], seen_ns=1500) == [1500]


# In a recording ----------------------------------------------------------------------------------


def test_a_profile_holds_what_the_device_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the machine's own clock, and with a device that is done with everything at once."""
    cuda = FakeCuda()
    clock = time.perf_counter_ns
    FakeAllocator().install(monkeypatch)
    cuda.install(monkeypatch)
    monkeypatch.setattr(time, "perf_counter_ns", clock)
    monkeypatch.setattr(cuda, "reach", clock)
    monkeypatch.setattr(FakeEvent, "query", lambda _: True)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    layer = nn.Linear(4, 1)

    def body(prof: profile) -> None:
        for x, _ in prof.steps(DataLoader(Points(160), batch_size=4)):
            layer(x).sum().backward()
            time.sleep(0.005)

    recorded = record(tmp_path / "profile.json", body)
    assert recorded.device is not None
    times, memory = recorded.device.times, recorded.device.memory
    assert times is not None
    assert memory is not None
    assert times.device == 0
    assert 1 <= times.steps.total <= 40
    assert times.events >= 4 * times.steps.total
    assert len(memory.course.time_ns) >= 1
    assert recorded.problems == [
        "NVML cannot be used: import of pynvml halted; None in sys.modules"
    ]
