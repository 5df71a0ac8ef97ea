"""What the advisor says of recorded traces, and of small ones whose times are known exactly."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from trace_documents import DATA, document, host, launch, step, work, write

from stepscope.advisor.advice import Advice
from stepscope.advisor.advise import advise
from stepscope.advisor.rule_files import load_knowledge
from stepscope.advisor.traces.errors import TraceError
from stepscope.advisor.traces.profile import load_trace
from stepscope.profiler.format import Profile
from stepscope.profiler.storage import load, save

KNOWLEDGE = load_knowledge([])


@cache
def judged(name: str) -> tuple[Profile, Advice]:
    profile = load_trace(DATA / name)
    return profile, advise(profile, KNOWLEDGE, name)


@pytest.mark.parametrize(
    ("name", "cause", "share"),
    [
        ("resnet50_workers_0", "cpu_preprocessing.transform", 0.34),
        ("resnet50_workers_4", "compute.arithmetic", 0.44),
        ("busy_v100_ns", "compute.arithmetic", 0.51),
        ("launch_bound_a100", "compute.launch", 0.82),
        ("launch_bound_ddp_a100", "compute.launch", 0.70),
        ("nccl_exposed_v100", "compute.launch", 0.39),
        ("cpu_only_gloo_rank-34", "communication.collective", 0.82),
        ("mi250_rocm", "compute.launch", 0.88),
        ("dlrm/dlrm_rank1", "communication.collective", 0.56),
        ("dlrm/dlrm_rank7", "compute.launch", 0.52),
    ],
)
def test_the_largest_cause_of_recorded_traces(name: str, cause: str, share: float) -> None:
    _, advice = judged(f"{name}.json.gz")
    shares = {line.cause: line.share for line in advice.breakdown}
    assert shares[cause] == pytest.approx(share, abs=0.02)
    assert sum(shares.values()) == pytest.approx(1.0)
    assert advice.verdict.cause == cause


def test_slow_loading_is_told_apart_from_its_mended_twin() -> None:
    _, slow = judged("resnet50_workers_0.json.gz")
    _, mended = judged("resnet50_workers_4.json.gz")
    assert "no_workers" in {finding.rule for finding in slow.findings}
    assert "sy-workers" in {step.method for step in slow.plan}
    assert "no_workers" not in {finding.rule for finding in mended.findings}
    first = slow.plan[0].predicted
    measured = slow.step_seconds / mended.step_seconds
    assert first.low / 1.1 <= measured <= first.high


def test_what_a_device_trace_tells() -> None:
    profile, advice = judged("nccl_overlapped_a100.json.gz")
    trace = profile.trace
    assert trace is not None
    assert (profile.run.rank, profile.run.world_size) == (3, 8)
    assert profile.environment.gpus[0].name == "NVIDIA A100-PG509-200"
    assert {c.name for c in trace.categories} >= {"gemm", "collective", "optimizer", "embedding"}
    assert {(c.direction, c.memory) for c in trace.copies} >= {("HtoD", "pinned")}
    assert 0.5 < float(str(advice.facts["gpu.tensor_core_share"])) < 1
    assert 0.4 < float(str(advice.facts["comm.overlap_share"])) < 0.8
    assert advice.facts["loader.pin_memory"] is True
    assert trace.launch_delay is not None
    assert sum(trace.launch_delay.counts) > 1000


def test_what_a_trace_of_rocm_tells() -> None:
    trace = judged("mi250_rocm.json.gz")[0].trace
    assert trace is not None
    (copies,) = trace.copies
    assert (copies.direction, copies.memory, copies.calls) == ("HtoD", "unknown", 2)
    assert copies.bytes == 2 * 2560  # told of the calls that started them
    assert (trace.occupancy, trace.sm_efficiency) == (None, None)
    assert trace.launch_delay is not None


@pytest.mark.parametrize(
    "fact",
    [
        "cpu.usable_cores", "cpu.demand_cores", "torch.intra_op_threads", "logging.per_step",
        "env.compile_disabled", "memory.growth_bytes", "loader.persistent_workers",
        "share.host.logging", "share.data_loading.storage",
    ],
)  # fmt: skip
def test_what_a_trace_cannot_tell_is_absent(fact: str) -> None:
    for name in ("resnet50_workers_0", "cpu_only_gloo_rank-34"):
        assert fact not in judged(f"{name}.json.gz")[1].facts


@pytest.mark.parametrize("path", sorted(DATA.rglob("*.json.gz")), ids=lambda path: path.name)
def test_every_moment_has_an_owner_and_the_profile_is_valid(path: Path, tmp_path: Path) -> None:
    profile = load_trace(path)
    assert sum(map(sum, profile.steady.phases.values())) == sum(profile.steady.wall_ns)
    assert all(time >= 0 for column in profile.steady.phases.values() for time in column)
    save(profile, tmp_path / "profile.json")
    assert load(tmp_path / "profile.json") == profile


def device_step(start: float) -> list[dict[str, Any]]:
    """One step of 1,000 us: loading, launching, computing, exchanging, copying, reading back."""
    loader = "enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__"
    n = int(start) + 1
    return [
        step(n // 1000, start, 1000),
        host(loader, start, 200, "user_annotation"),
        host("cudaMemcpyAsync", start + 210, 10, "cuda_runtime", correlation=n),
        work("Memcpy HtoD (Pageable -> Device)", n, start + 220, 30, "gpu_memcpy"),
        host("aten::mm", start + 220, 100),
        launch(n + 1, start + 300),
        work("volta_sgemm_128x32_nn", n + 1, start + 310, 200),
        host("nccl:all_reduce", start + 330, 20, "user_annotation"),
        launch(n + 2, start + 335),
        work("ncclKernel_AllReduce_RING", n + 2, start + 400, 210, stream=20),
        host("Optimizer.step#SGD.step", start + 360, 60, "user_annotation"),
        host("aten::add_", start + 370, 40),
        launch(n + 3, start + 380),
        work("void at::native::vectorized_elementwise_kernel<4>", n + 3, start + 610, 50),
        host("aten::item", start + 430, 330),
        host("cudaStreamSynchronize", start + 440, 300, "cuda_runtime", correlation=n + 4),
    ]  # fmt: skip


def test_a_device_trace_is_divided_exactly(tmp_path: Path) -> None:
    events = [event for i in range(4) for event in device_step(1000.0 * i)]
    path = write(tmp_path / "trace.json", document(events))
    profile = load_trace(path)
    us = {name: [ns / 1000 for ns in column] for name, column in profile.steady.phases.items()}
    first = {name: column[1] for name, column in us.items() if column[1]}
    assert first == {
        "data_wait": 200,  # the device idles, the host takes a batch
        "transfer": 30,
        "arithmetic": 200,
        "collective": 100,  # of 210, the first 110 beside the product
        "optimizer_device": 50,  # launched inside the optimizer's step
        "launch": 70,  # between the copy and the product, and before it
        "sync": 340,  # from the end of the queue to the next step: the host had waited for it
        "python": 10,
    }
    assert profile.trace is not None
    assert profile.trace.communication_ns == 4 * 210_000
    assert profile.trace.busy_ns == 4 * (30 + 300 + 50) * 1000
    assert profile.steady.calls["syncs"] == [1, 1, 1, 1]
    operators = {(o.name, o.phase): o for o in profile.window.operators} if profile.window else {}
    assert operators["aten::mm", "forward"].self_device_ns == 4 * 200_000
    assert operators["aten::add_", "optimizer"].self_device_ns == 4 * 50_000


@pytest.mark.parametrize(
    ("marks", "by", "steps"),
    [
        ([], "whole", 1),
        ([("Optimizer.step#SGD.step", 90)], "optimizer", 4),
        ([("enumerate(DataLoader)#x", 5)], "batch", 4),
        ([("Optimizer.step#SGD.step", 90), ("Optimizer.step#Adam.step", 80)], "optimizer", 4),
    ],
)
def test_steps_are_found_without_profiler_steps(
    tmp_path: Path, marks: list[tuple[str, int]], by: str, steps: int
) -> None:
    events = [
        event
        for i in range(5)
        for event in [
            host("aten::mm", 100 * i + 20, 30),
            *(host(name, 100 * i + at, 5, "user_annotation") for name, at in marks),
        ]
    ]
    profile = load_trace(write(tmp_path / "trace.json", document(events)))
    assert (profile.run.steps_by, profile.steady.total) == (by, steps)
    if by != "whole":
        assert profile.steady.wall_ns[1] == 100_000


def test_a_step_ends_when_the_device_is_done(tmp_path: Path) -> None:
    events = []
    for i in range(3):  # the host runs ahead: it needs 100 us for a step, the device 500
        events += [step(i, 100 * i, 100), host("aten::mm", 100 * i + 10, 50)]
        events += [launch(i + 1, 100 * i + 20)]
        events += [work("sgemm", i + 1, 30 + 500 * i, 500)]
    profile = load_trace(write(tmp_path / "trace.json", document(events)))
    assert profile.steady.wall_ns == [530_000, 500_000, 500_000]
    assert profile.steady.phases["arithmetic"] == [500_000] * 3


@pytest.mark.parametrize(
    ("name", "rank"),
    [
        ("rank-70.json", 70),
        ("worker3_step_1.json", 3),
        ("trace_rank2.pt.trace.json", 2),
        ("x.json", 0),
    ],
)
def test_the_rank_may_stand_in_the_name(tmp_path: Path, name: str, rank: int) -> None:
    path = write(tmp_path / name, document([host("aten::mm", 0, 10)]))
    assert load_trace(path).run.rank == rank


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([], "has no events"),
        ([{"ph": "X", "cat": "game", "name": "x", "ts": 0, "dur": 1}], "another tool.*game"),
    ],
)
def test_traces_of_others_are_refused(tmp_path: Path, events: list[Any], words: str) -> None:
    with pytest.raises(TraceError, match=words):
        load_trace(write(tmp_path / "trace.json", document(events)))


@pytest.mark.parametrize(
    ("odd", "arithmetic"),
    [
        ({"dur": 1.8446744073709551e16}, 0),  # a negative length, written as if it were unsigned
        ({"dur": -5}, 0),
        ({"dur": "12"}, 12),
        ({"ts": "nan"}, 0),
        ({"name": None}, 0),
        ({"args": None}, 100),
        ({"args": {"correlation": 2**64 - 1, "bytes": 2**70, "blocks per SM": "x"}}, 100),
        ({"args": {"correlation": "1", "est. achieved occupancy %": "N/A"}}, 100),
    ],
)
def test_odd_values_of_a_kernel_cost_at_most_itself(
    tmp_path: Path, odd: dict[str, Any], arithmetic: int
) -> None:
    events = []
    for i in range(3):
        events += [step(i, 1000 * i, 1000), launch(i + 1, 1000 * i + 10)]
        events += [work("sgemm", i + 1, 1000 * i + 200, 100)]
    events[2] |= odd
    profile = load_trace(write(tmp_path / "trace.json", document(events)))
    assert profile.steady.phases["arithmetic"] == [arithmetic * 1000, 100_000, 100_000]
    assert sum(map(sum, profile.steady.phases.values())) == 3_000_000


def test_memory_of_the_allocator(tmp_path: Path) -> None:
    events = [host("aten::mm", 0, 10), step(0, 0, 30), work("sgemm", 1, 5, 4)]
    events += [host("Optimizer.step#SGD.step", 20, 5, "user_annotation")]
    events += [host("autograd::engine::evaluate_function: MmBackward0", 11, 4)]
    kind = {"ph": "i", "name": "[memory]", "cat": "cpu_instant_event", "s": "t"}
    for i in range(50):
        held = {"Total Allocated": 10 * i, "Total Reserved": 1000 - abs(i - 20)}
        args = {"Device Type": 1, "Device Id": 0, "Bytes": 1} | held
        events += [{**kind, "ts": i, "args": args}]
    path = write(
        tmp_path / "trace.json",
        document(events, deviceProperties=[{"id": 0, "name": "A", "totalGlobalMem": 2000}]),
    )
    profile = load_trace(path)
    assert profile.trace is not None
    assert profile.trace.peak_reserved_bytes == 1000
    peaks = {"forward": 90, "backward": 140, "optimizer": 240, "python": 290}
    assert profile.trace.peak_allocated_by_phase == peaks
    assert advise(profile, KNOWLEDGE).facts["gpu.memory_share"] == 0.5


def test_kernels_are_counted_and_turned_images_told() -> None:
    facts = judged("launch_bound_ddp_a100.json.gz")[1].facts

    assert facts["gpu.kernels_per_step"] == pytest.approx(900)
    assert facts["gpu.launches_per_second"] == pytest.approx(4046, rel=0.01)
    assert facts["gpu.layout_share"] == pytest.approx(0.0996, abs=0.001)
