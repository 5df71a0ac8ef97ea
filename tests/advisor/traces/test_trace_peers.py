"""The numbers of other tools on the same traces; docs/traces.md says where and why we differ."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from trace_documents import DATA

from stepscope.advisor.traces.owners import DEVICE_OWNERS
from stepscope.advisor.traces.profile import load_trace
from stepscope.profiler.format import Profile

NEEDED = "needs the other tools: pip install 'stepscope[peers]'"
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs, not ours


@pytest.fixture
def hta(tmp_path: Path) -> Any:
    """HolisticTraceAnalysis on a trace of `DATA`."""
    module = pytest.importorskip("hta.trace_analysis", reason=NEEDED)
    logging.getLogger("hta").setLevel(logging.ERROR)

    def analysed(name: str) -> Any:
        path = shutil.copy(DATA / f"{name}.json.gz", tmp_path / "rank0.json.gz")
        return module.TraceAnalysis(
            trace_files={0: str(path)}, trace_dir=str(tmp_path), include_last_profiler_step=True
        )

    return analysed


def share(profile: Profile, *phases: str) -> float:
    wall = sum(profile.steady.wall_ns)
    return sum(sum(profile.steady.phases.get(phase, [])) for phase in phases) / wall


@pytest.mark.parametrize(
    "name", ["nccl_overlapped_a100", "nccl_exposed_v100", "launch_bound_ddp_a100", "busy_v100_ns"]
)
def test_busy_and_exposed_time_agree_with_hta(hta: Any, name: str) -> None:
    theirs = hta(name).get_temporal_breakdown(visualize=False).iloc[0]
    profile = load_trace(DATA / f"{name}.json.gz")
    assert profile.trace is not None
    assert profile.trace.busy_ns is not None
    wall_us = sum(profile.steady.wall_ns) / 1000
    busy_us = theirs["compute_time(us)"] + theirs["non_compute_time(us)"]
    # They round each begin up and each end down to microseconds: a kernel loses up to two.
    kernels = sum(category.calls for category in profile.trace.categories)
    assert profile.trace.busy_ns / 1000 == pytest.approx(busy_us, abs=2 * kernels, rel=0.005)
    # Theirs counts copies on the device and fills, which we count as moving memory.
    exposed = share(profile, "collective", "transfer", "readback") * wall_us
    moved = sum(c.time_ns for c in profile.trace.copies if c.direction == "DtoD") / 1000
    non_compute = theirs["non_compute_time(us)"]
    assert exposed - 0.01 * wall_us <= non_compute <= exposed + moved + 0.01 * wall_us


@pytest.mark.parametrize("name", ["nccl_overlapped_a100", "launch_bound_ddp_a100"])
def test_overlap_of_communication_agrees_with_hta(hta: Any, name: str) -> None:
    theirs = hta(name).get_comm_comp_overlap(visualize=False)["comp_comm_overlap_pctg"].iloc[0]
    profile = load_trace(DATA / f"{name}.json.gz")
    assert profile.trace is not None
    communication = profile.trace.communication_ns
    assert communication is not None
    exposed = sum(profile.steady.phases["collective"])
    assert 1 - exposed / communication == pytest.approx(theirs / 100, abs=0.02)


@pytest.fixture
def tensorboard(tmp_path: Path) -> Any:
    """torch-tb-profiler on a trace of `DATA`."""
    data = pytest.importorskip("torch_tb_profiler.profiler.data", reason=NEEDED)
    logging.getLogger("torch_tb_profiler").setLevel(logging.ERROR)

    def parsed(name: str) -> Any:
        path = shutil.copy(DATA / f"{name}.json.gz", tmp_path / "worker0.pt.trace.json.gz")
        return data.RunProfileData.parse("worker0", None, str(path), str(tmp_path))

    return parsed


@pytest.mark.parametrize(
    "name", ["resnet50_workers_0", "launch_bound_ddp_a100", "nccl_overlapped_a100"]
)
def test_occupancy_agrees_with_torch_tb_profiler(tensorboard: Any, name: str) -> None:
    parsed, trace = tensorboard(name), load_trace(DATA / f"{name}.json.gz").trace
    assert trace is not None
    device, metrics = trace.device, parsed.gpu_metrics_parser
    efficiency = metrics.avg_approximated_sm_efficiency_per_device[device]
    assert trace.sm_efficiency == pytest.approx(efficiency, rel=0.005)
    occupancy = metrics.avg_occupancy_per_device[device]
    assert trace.occupancy == pytest.approx(occupancy / 100, rel=0.005)
    theirs = parsed.kernel_stat
    for kernel in trace.kernels[:5]:
        assert kernel.blocks_per_sm == pytest.approx(theirs["blocks_per_sm"][kernel.name], rel=0.02)
        assert kernel.occupancy == pytest.approx(theirs["occupancy"][kernel.name] / 100, rel=0.02)


@pytest.mark.parametrize("name", ["resnet50_workers_0", "resnet50_workers_4"])
def test_step_times_agree_with_torch_tb_profiler(tensorboard: Any, name: str) -> None:
    parsed = tensorboard(name)
    kernel, memcpy, memset, _, _, loading, _, _, total = parsed.avg_costs.costs
    profile = load_trace(DATA / f"{name}.json.gz")
    assert profile.trace is not None
    assert profile.trace.busy_ns is not None
    wall = sum(profile.steady.wall_ns)
    assert wall / profile.steady.total / 1000 == pytest.approx(total, rel=1e-6)
    assert profile.trace.busy_ns / wall == pytest.approx(
        (kernel + memcpy + memset) / total, abs=1e-3
    )
    # Theirs charges the gaps between queued kernels to the loader, ours to the queue.
    assert share(profile, "data_wait") == pytest.approx(loading / total, abs=0.005)


def on_path(profile: Profile, step: int) -> dict[str, float]:
    """Microseconds on the critical path of one step: on the device, exchanging, in between."""
    assert profile.trace is not None
    assert profile.trace.critical_path is not None
    owners = {name: c[step] / 1000 for name, c in profile.trace.critical_path.owners.items()}
    host = ("data_loading", "operators", "python", "launch", "sync", "allocation", "profiler")
    return {
        "device": sum(time for name, time in owners.items() if name in DEVICE_OWNERS),
        "queue": owners.get("queue", 0),
        "host": sum(owners.get(name, 0) for name in host),
    }


@pytest.mark.parametrize("name", ["busy_v100_ns", "event_sync"])
def test_the_device_on_the_critical_path_agrees_with_hta(hta: Any, name: str) -> None:
    annotation = "ProfilerStep" if name == "busy_v100_ns" else ""
    graph, found = hta(name).critical_path_analysis(
        rank=0, annotation=annotation, instance_id=0 if annotation else None
    )
    assert found
    theirs = graph.get_critical_path_breakdown().groupby("bound_by").duration.sum()
    ours = on_path(load_trace(DATA / f"{name}.json.gz"), 0)
    # They round kernels to microseconds, and count gaps between kernels as one kind.
    assert ours["device"] == pytest.approx(theirs["gpu_compute_bound"], rel=0.04, abs=4)
    gaps = theirs.get("gpu_kernel_kernel_overhead", 0)
    assert ours["queue"] == pytest.approx(gaps, rel=0.5, abs=5)
