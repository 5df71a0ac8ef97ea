"""A log folder for TensorBoard: what its plugin needs, and what its parser makes of it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from builders import MS, a_profile, even_steps, some_steps
from chrome_traces import partly_overlapping, read, slices
from click.testing import CliRunner
from trace_documents import DATA, document, host, launch, step, work, write

from stepscope.advisor.cli import cli
from stepscope.advisor.inputs import load_input
from stepscope.advisor.traces.profile import load_trace
from stepscope.profiler.format import Collective, Profile, Run
from stepscope.profiler.storage import save

NEEDED = "needs the other tools: pip install 'stepscope[peers]'"
NCCL = "ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)"


def exported(folder: Path, *paths: Path) -> Path:
    logs = folder / "logs"
    arguments = ["export", *map(str, paths), "--to", "tensorboard", "--out", str(logs)]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    return logs


def repaired(folder: Path, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    path = write(folder / "trace.json", document(events))
    return slices(read(exported(folder, path) / "trace.pt.trace.json.gz"))


def named(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [event for event in events if event["name"] == name]


# What is written, without the plugin ------------------------------------------------------------


def test_a_collective_gets_an_operator_around_its_call(tmp_path: Path) -> None:
    kernel = work(NCCL, 9, 200, 80)
    kernel["args"] |= {"External id": 4, "In msg nelems": 1024, "dtype": "Float"}
    call = launch(9, 100) | {"args": {"correlation": 9, "External id": 4}}
    around = host("record_param_comms", 90, 40) | {"args": {"External id": 4}}
    found = repaired(tmp_path, [step(1, 0, 500), around, call, kernel])
    (operator,) = named(found, "nccl:all_reduce")
    assert (operator["ts"], operator["dur"], operator["cat"]) == (100, 5, "cpu_op")
    assert operator["args"]["Input Dims"] == [[1024]]
    number = operator["args"]["External id"]
    for name in (NCCL, "cudaLaunchKernel"):
        args = named(found, name)[0]["args"]
        assert (args["External id"], args["original External id"]) == (number, 4)
    assert named(found, "record_param_comms")[0]["args"]["External id"] == 4


@pytest.mark.parametrize("first", ["call", "kernel"])
def test_the_order_of_events_in_the_file_does_not_matter(tmp_path: Path, first: str) -> None:
    events = [launch(9, 100), work(NCCL, 9, 200, 80)]
    if first == "kernel":
        events.reverse()
    assert len(named(repaired(tmp_path, [step(1, 0, 500), *events]), "nccl:all_reduce")) == 1


def test_a_collective_whose_call_is_not_there_is_one_too(tmp_path: Path) -> None:
    graph = host("cudaGraphLaunch", 100, 5, "cuda_runtime", correlation=9)
    kernels = [work(NCCL, 9, 200, 80), work("gemm", 9, 300, 50)]
    found = repaired(tmp_path, [step(1, 0, 500), graph, *kernels])
    (operator,) = named(found, "nccl:all_reduce")
    assert (operator["ts"], operator["dur"]) == (200, 80)
    assert "External id" not in named(found, "cudaGraphLaunch")[0]["args"]


def test_names_are_those_that_the_parser_knows(tmp_path: Path) -> None:
    events = [
        step(1, 0, 500),
        host("enumerate(DataLoader)#_MultiProcessingDataLoaderIter.__next__", 0, 9,
             "user_annotation"),
        host("next_batch", 10, 9, "user_annotation"),
        host("Optimizer.step#SGD.step", 20, 9, "user_annotation"),
        host("my annotation", 30, 9, "user_annotation"),
        host("ProfilerStep#1", 0, 500, "gpu_user_annotation"),
        launch(1, 40), work("gemm", 1, 50, 5),
    ]  # fmt: skip
    found = repaired(tmp_path, events)
    assert [(event["cat"], event["name"]) for event in found] == [
        ("user_annotation", "ProfilerStep#1"),
        ("cpu_op", "enumerate(DataLoader)#_MultiProcessingDataLoaderIter.__next__"),
        ("cpu_op", "enumerate(DataLoader)#next_batch.__next__"),
        ("cpu_op", "Optimizer.step#SGD.step"),
        ("user_annotation", "my annotation"),
        ("annotation", "ProfilerStep#1"),
        ("Runtime", "cudaLaunchKernel"),
        ("kernel", "gemm"),
    ]


def test_steps_are_added_where_there_are_none(tmp_path: Path) -> None:
    ends = (100, 210, 330, 460)
    events = [host("Optimizer.step#SGD.step", end - 10, 10, "user_annotation") for end in ends]
    found = repaired(tmp_path, [*events, host("aten::mm", 0, 50)])
    steps = [event for event in found if event["name"].startswith("ProfilerStep#")]
    assert [(event["ts"], event["dur"]) for event in steps] == [(100, 110), (210, 120), (330, 130)]


def test_what_would_stop_the_parser_is_mended(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = [
        step(1, 0, 500),
        {"ph": "X", "name": "no category", "pid": 1, "tid": 1, "ts": 1, "dur": 1},
        host("named thread", 2, 1) | {"tid": "main"},
        host("no arguments", 3, 1) | {"args": None},
        {"ph": "s", "id": 1, "pid": 1, "tid": 1, "ts": 4, "cat": "ac2g"},
        host("odd", 5, 1) | {"name": 7, "cat": None, "tid": ["a"], "dur": -1},
        work(NCCL, 0, 5, 1) | {"args": None},
        work("far away", 1, 5, 1) | {"args": {"device": 64, "stream": 7, "correlation": 1}},
    ]
    path = write(tmp_path / "trace.json", document(events))
    trace = read(exported(tmp_path, path) / "trace.pt.trace.json.gz")
    assert all("name" in event for event in trace["traceEvents"])
    found = slices(trace)
    assert all(isinstance(e["args"], dict) and isinstance(e["cat"], str) for e in found)
    assert all(isinstance(event["tid"], int) for event in found)
    assert named(found, "far away")[0]["args"]["device"] == 0


def test_a_trace_of_torch_1_9_is_left_as_it_is(tmp_path: Path) -> None:
    path = DATA / "resnet50_workers_0.json.gz"
    logs = exported(tmp_path, path)
    before, after = read(path), read(logs / "resnet50_workers_0.pt.trace.json.gz")
    assert after["traceEvents"] == before["traceEvents"]
    assert after["deviceProperties"] == before["deviceProperties"]


def test_decimated_rows_are_shown_as_their_mean_step(tmp_path: Path) -> None:
    steady = some_steps(20, 10, 640.0)
    steady.first, steady.count = [20 + 64 * i for i in range(10)], [64] * 10
    save(a_profile(steady=steady), tmp_path / "long.json")
    trace = read(exported(tmp_path, tmp_path / "long.json") / "long.pt.trace.json.gz")
    assert partly_overlapping(trace) == []
    (shown,) = slices(trace, "ProfilerStep#84")
    assert shown["dur"] == pytest.approx(steady.wall_ns[1] / 64 / 1000, abs=0.2)
    assert any("mean" in note for note in trace["stepscope"]["notes"])


# What the plugin's parser makes of it -----------------------------------------------------------


class Parsed(NamedTuple):
    """What torch-tb-profiler says of one worker."""

    worker: str
    data: Any
    shares: dict[str, float]
    """Parts of the step by role."""


@pytest.fixture
def parsed() -> Callable[[Path], list[Parsed]]:
    """Its parser and report generator on each file of a log folder."""
    data = pytest.importorskip("torch_tb_profiler.profiler.data", reason=NEEDED)
    consts = pytest.importorskip("torch_tb_profiler.consts", reason=NEEDED)
    generators = pytest.importorskip("torch_tb_profiler.profiler.run_generator", reason=NEEDED)
    roles = pytest.importorskip("torch_tb_profiler.profiler.event_parser", reason=NEEDED)
    logging.getLogger("torch_tb_profiler").setLevel(logging.CRITICAL)

    def parse(logs: Path) -> list[Parsed]:
        found = []
        for path in sorted(logs.iterdir()):
            worker = consts.WORKER_PATTERN.match(path.name).group(1)
            read_ = data.RunProfileData.parse(worker, None, str(path), str(logs))
            generators.RunGenerator(worker, None, read_).generate_run_profile()
            costs = read_.avg_costs.costs
            shares = {
                role.name: costs[role] / costs[roles.ProfileRole.Total]
                for role in roles.ProfileRole
            }
            found.append(Parsed(worker, read_, shares))
        return found

    return parse


def share(profile: Profile, *phases: str) -> float:
    wall = sum(profile.steady.wall_ns)
    return sum(sum(profile.steady.phases.get(phase, [])) for phase in phases) / wall


Parse = Callable[[Path], list[Parsed]]


@pytest.mark.filterwarnings("ignore")  # theirs, not ours
@pytest.mark.parametrize(
    "name",
    ["nccl_overlapped_a100", "nccl_exposed_v100", "launch_bound_ddp_a100", "cuda_graphs_a100"],
)
def test_it_sees_communication_again(tmp_path: Path, parsed: Parse, name: str) -> None:
    path = DATA / f"{name}.json.gz"
    shutil.copy(path, tmp_path / "was.pt.trace.json.gz")
    logs = tmp_path / "before"
    logs.mkdir()
    shutil.copy(path, logs / "was.pt.trace.json.gz")
    (before,), (after,) = parsed(logs), parsed(exported(tmp_path, path))
    ours = load_trace(path)
    assert before.shares["Communication"] < 0.035
    assert after.shares["Communication"] == pytest.approx(share(ours, "collective"), abs=0.01)
    wall = sum(ours.steady.wall_ns) / ours.steady.total / 1000
    assert after.data.avg_costs.costs[-1] == pytest.approx(wall, rel=0.02)
    assert after.data.has_runtime
    assert not before.data.has_runtime


@pytest.mark.filterwarnings("ignore")
def test_it_sees_the_loader_again(tmp_path: Path, parsed: Parse) -> None:
    events = []
    for i in range(4):
        begin, number = 1000.0 * i, i + 1
        events += [
            step(i, begin, 1000),
            host("enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__", begin, 600,
                 "user_annotation"),
            host("aten::mm", begin + 650, 50) | {"args": {"External id": 100 + i}},
            launch(number, begin + 660) | {
                "args": {"correlation": number, "External id": 100 + i}
            },
            work("gemm", number, begin + 700, 250),
        ]  # fmt: skip
        events[-1]["args"]["External id"] = 100 + i
    path = write(tmp_path / "trace.json", document(events))
    (seen,) = parsed(exported(tmp_path, path))
    assert seen.shares["DataLoader"] == pytest.approx(share(load_trace(path), "data_wait"))
    assert seen.shares["DataLoader"] == pytest.approx(0.6)
    assert seen.shares["Kernel"] == pytest.approx(0.25)
    assert [k.op_name for k in seen.data.kernel_list_groupby_name_op] == ["aten::mm"]
    assert "DataLoader" in seen.data.recommendations[0]


@pytest.mark.filterwarnings("ignore")
def test_it_reads_every_kind_of_trace(tmp_path: Path, parsed: Parse) -> None:
    names = ("busy_v100_ns", "cpu_only_gloo_rank-34", "launch_bound_a100", "mi250_rocm")
    logs = exported(tmp_path, *(DATA / f"{name}.json.gz" for name in names))
    assert [each.worker for each in parsed(logs)] == sorted(names)


@pytest.mark.filterwarnings("ignore")
def test_it_reads_profiles_of_ours(tmp_path: Path, parsed: Parse) -> None:
    phases = {"data_wait": 40.0, "forward": 20.0, "backward": 20.0, "optimizer": 5.0}
    phases |= {"communication": 10.0, "python": 5.0}
    exchange = Collective(
        backend="nccl", gradient_bytes=1, buckets=1, communication_ns=1, overlap_ns=0, backward_ns=1
    )
    for rank in (0, 1):
        run = Run(started_at="", wall_ns=MS, ended="completed", rank=rank, world_size=2)
        profile = a_profile(
            warmup=some_steps(0, 0), steady=even_steps(phases), run=run, collectives=[exchange]
        )
        save(profile, tmp_path / f"profile.rank{rank}.json")
    logs = exported(tmp_path, *sorted(tmp_path.glob("*.json")))
    found = parsed(logs)
    assert [each.worker for each in found] == ["profile.rank0", "profile.rank1"]
    assert [each.data.distributed_info["rank"] for each in found] == [0, 1]
    for each in found:
        assert each.data.steps_names == [str(i) for i in range(20, 120)]
        expected = {"DataLoader": 0.4, "CpuOp": 0.45, "Communication": 0.1, "Other": 0.05}
        assert {role: each.shares[role] for role in expected} == pytest.approx(expected, abs=1e-4)
        assert len(each.data.comm_node_list) == 100


@pytest.mark.filterwarnings("ignore")
def test_its_distributed_view_sees_who_waits_for_whom(tmp_path: Path, parsed: Parse) -> None:
    loader = pytest.importorskip("torch_tb_profiler.profiler.loader", reason=NEEDED)
    workers = [
        loader.DistributedRunProfileData(each.data)
        for each in parsed(exported(tmp_path, DATA / "dlrm"))
    ]
    view = loader.RunLoader("run", str(tmp_path), None)._process_distributed_profiles(workers, None)
    waits = {name: wait for name, (_, wait) in view.steps_to_wait["data"]["all"].items()}
    ours = load_input(DATA / "dlrm").ranks
    assert ours is not None
    # The one that comes last waits least.
    assert min(waits, key=waits.__getitem__) == f"dlrm_rank{ours.stragglers[0].rank}"
    mean_us = sum(waits.values()) / len(waits)
    assert mean_us == pytest.approx(ours.waiting_ns / 1000, rel=0.05)
