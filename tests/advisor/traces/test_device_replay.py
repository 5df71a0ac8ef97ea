"""Is the device's idle time of a live profile what the trace of the same steps says it is?"""

from __future__ import annotations

import pytest
from device_replay import Replay
from trace_documents import DATA

from stepscope.advisor import device_path
from stepscope.advisor.device_path import DEVICE_PHASES, on_device_path
from stepscope.advisor.traces.profile import load_trace
from stepscope.profiler.format import Profile

_LAUNCHED_BY_HOST = ("launch", "optimizer", "python", "queue", "transfer", "readback")


def shares(profile: Profile) -> dict[str, float]:
    wall = sum(profile.steady.wall_ns)
    return {name: sum(column) / wall for name, column in profile.steady.phases.items()}


@pytest.mark.parametrize(
    "name",
    [
        "busy_v100_ns",
        "launch_bound_ddp_a100",
        "nccl_exposed_v100",
        "resnet50_workers_0",
        "resnet50_workers_4",
    ],
)
def test_idle_time_agrees_with_the_trace(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_path, "MIN_STEPS", 1)  # these traces are short
    path = DATA / f"{name}.json.gz"
    trace = load_trace(path)
    assert trace.trace is not None
    assert trace.trace.busy_ns is not None
    truth = shares(trace)
    busy = trace.trace.busy_ns / sum(trace.steady.wall_ns)

    found = shares(on_device_path(Replay(path).into(load_trace(path))))
    assert sum(found.values()) == pytest.approx(1, abs=1e-6)
    for cause in ("data_wait", "sync"):
        assert found.get(cause, 0.0) == pytest.approx(truth.get(cause, 0.0), abs=0.02), cause

    # A pageable copy holds up the host as well; the trace calls what is beyond the copy launching.
    copying = found.get("transfer", 0.0) - truth.get("transfer", 0.0)
    worked = sum(found.get(phase, 0.0) for phase in DEVICE_PHASES) - max(0.0, copying)
    assert worked == pytest.approx(busy, abs=0.02)
    by_host = sum(found.get(phase, 0.0) for phase in _LAUNCHED_BY_HOST)
    assert by_host == pytest.approx(sum(truth.get(p, 0.0) for p in _LAUNCHED_BY_HOST), abs=0.02)
