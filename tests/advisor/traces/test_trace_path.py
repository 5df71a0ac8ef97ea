"""Critical paths and replays of small traces whose answers are known, and of recorded ones."""

from __future__ import annotations

from functools import partial, reduce
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from trace_documents import DATA, document, host, launch, step, work, write

from stepscope.advisor.inputs import load_input
from stepscope.advisor.ranks.paths import job_path, joined
from stepscope.advisor.traces.errors import TraceError
from stepscope.advisor.traces.legs import Legs, paths_of
from stepscope.advisor.traces.load import analyse
from stepscope.advisor.traces.path_tables import replay
from stepscope.advisor.traces.profile import load_trace
from stepscope.advisor.traces.replay import Replays
from stepscope.advisor.traces.scenarios import Scenario
from stepscope.profiler.format import CriticalPath, Profile

GEMM, ADD = "volta_sgemm_128x32_nn", "vectorized_elementwise_kernel"
REDUCE = "ncclKernel_AllReduce_RING"


def path_of(profile: Profile) -> CriticalPath:
    assert profile.trace is not None
    assert profile.trace.critical_path is not None
    return profile.trace.critical_path


def owners(tmp_path: Path, events: list[dict[str, Any]]) -> dict[str, float]:
    """Microseconds of all steps by owner."""
    profile = load_trace(write(tmp_path / "trace.json", document(events)))
    total = {name: sum(column) / 1000 for name, column in path_of(profile).owners.items()}
    assert sum(total.values()) * 1000 == sum(profile.steady.wall_ns)
    return {name: time for name, time in total.items() if time}


def replayed(tmp_path: Path, events: list[dict[str, Any]], **change: Any) -> float:
    """Microseconds that all steps would take."""
    path = write(tmp_path / "trace.json", document(events))
    return replay(path, Scenario(**change), "").wall_ns / 1000


def sync(start: float, length: float, number: int = 0) -> dict[str, Any]:
    return host("cudaStreamSynchronize", start, length, "cuda_runtime", correlation=number)


def synchronised() -> list[dict[str, Any]]:
    """A batch, one product, and the host waiting for it: 500 us."""
    return [
        step(0, 0, 500),
        host("enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__", 0, 100),
        host("aten::mm", 110, 40),
        launch(1, 130, 10),
        work(GEMM, 1, 145, 300),
        host("aten::item", 160, 300),
        sync(170, 280),
    ]


def test_the_path_goes_through_what_the_host_waited_for(tmp_path: Path) -> None:
    assert owners(tmp_path, synchronised()) == {
        "data_loading": 100,
        "python": 10 + 40,  # before and after the operators
        "operators": 20 + 10,  # up to the launch, and behind the wait
        "launch": 10 + 5,  # the call, and until the kernel begins
        "gemm": 300,
        "sync": 5,
    }


def test_operators_and_kernels_on_the_path_are_named(tmp_path: Path) -> None:
    path = path_of(load_trace(write(tmp_path / "trace.json", document(synchronised()))))
    assert [(o.name, o.host_ns, o.device_ns) for o in path.operators] == [
        ("aten::mm", 20_000, 300_000),
        ("aten::item", 10_000, 0),
    ]
    assert [(k.name, k.category, k.calls, k.time_ns) for k in path.kernels] == [
        (GEMM, "gemm", 1, 300_000)
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, 500),
        ({"faster": (("gemm", 2.0),)}, 350),
        ({"faster": ((GEMM, 2.0),)}, 350),
        ({"faster": (("aten::mm", 2.0),)}, 500 - 20 / 2 - 10 / 2 - 300 / 2),
        ({"faster": (("gemm", 1000.0),)}, 225),  # the host arrives later
        ({"faster": (("data_loading", float("inf")),)}, 400),
        ({"launch_free": True}, 100 + 300 + 5),
        ({"hide_communication": True}, 500),
    ],
)
def test_replays_of_a_synchronised_step(
    tmp_path: Path, change: dict[str, Any], expected: float
) -> None:
    assert replayed(tmp_path, synchronised(), **change) == pytest.approx(expected, abs=1)


def queued() -> list[dict[str, Any]]:
    """Four products and an exchange between them, launched long before they run: 1,030 us."""
    events = [step(0, 0, 200)]
    for i in range(4):
        events += [host("aten::mm", 10 + 40 * i, 20), launch(i + 1, 15 + 40 * i)]
    events += [launch(9, 25 + 40, 5)]
    return [
        *events,
        work(GEMM, 1, 30, 200),
        work(GEMM, 2, 232, 200),
        work(REDUCE, 9, 436, 300, stream=20),  # waits for the second product
        work(GEMM, 3, 440, 150),  # beside it
        work(ADD, 4, 740, 290),  # waits for it
    ]


def test_a_queue_is_followed_across_streams(tmp_path: Path) -> None:
    assert owners(tmp_path, queued()) == {
        "python": 10,
        "operators": 5,
        "launch": 15,
        "gemm": 400,
        "collective": 300,
        "elementwise": 290,
        "queue": 2 + 4 + 4,
    }


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, 1030),
        ({"faster": ((REDUCE, 2.0),)}, 1030 - 146),  # the third product takes over
        ({"hide_communication": True}, 1030 - 146),
        ({"faster": (("gemm", 2.0),)}, 1030 - 200),
        ({"faster": (("elementwise", 2.0),)}, 1030 - 145),
        ({"launch_free": True}, 1030 - 30),
    ],
)
def test_replays_of_a_queue(tmp_path: Path, change: dict[str, Any], expected: float) -> None:
    assert replayed(tmp_path, queued(), **change) == pytest.approx(expected, abs=6)


def test_the_turn_goes_to_the_backward_thread_and_back(tmp_path: Path) -> None:
    backward = [
        host("autograd::engine::evaluate_function: MmBackward0", 200, 300),
        host("aten::mm", 250, 200),
    ]
    events = [
        step(0, 0, 600),
        host("aten::mm", 0, 190),
        *(event | {"tid": 2} for event in backward),
        host("Optimizer.step#SGD.step", 500, 100, "user_annotation"),
        host("aten::add_", 510, 80),
    ]
    assert owners(tmp_path, events) == {"operators": 190 + 300 + 80, "python": 10 + 20}
    path = path_of(load_trace(tmp_path / "trace.json"))
    assert {o.name: o.host_ns for o in path.operators} == {
        "aten::mm": 390_000,
        "autograd::engine::evaluate_function: MmBackward0": 100_000,
        "aten::add_": 80_000,
    }
    faster = ("autograd::engine::evaluate_function: MmBackward0", 2.0)
    assert replayed(tmp_path, events, faster=(faster,)) == 600 - 300 / 2


def recorded_wait(kind: str, stream: int, start: float, number: int, **args: Any) -> dict[str, Any]:
    """An event of `cuda_sync`."""
    return work(kind, number, start, 1, "cuda_sync", stream) | {
        "args": {"device": 0, "stream": stream, "correlation": number, **args}
    }


def two_streams(told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The host waits for the second stream, whose work ends before that of the first: 420 us."""
    return [
        step(0, 0, 420),
        host("aten::mm", 0, 60),
        launch(1, 10),
        launch(2, 30),
        work(GEMM, 1, 20, 397),
        work(ADD, 2, 40, 374, stream=20),
        sync(70, 348, 5),
        *told,
    ]


def test_recorded_waits_tell_which_stream_was_waited_for(tmp_path: Path) -> None:
    guessed = owners(tmp_path, two_streams([]))
    told = owners(tmp_path, two_streams([recorded_wait("Stream Sync", 20, 417, 5)]))
    assert guessed["gemm"] == 397
    assert "elementwise" not in guessed
    assert told["elementwise"] == 374
    assert "gemm" not in told


def test_recorded_waits_hold_in_a_replay_though_they_held_nothing(tmp_path: Path) -> None:
    events = [
        step(0, 0, 100),
        host("aten::mm", 0, 90),
        launch(1, 10),
        launch(2, 20),
        host("cudaStreamWaitEvent", 30, 1, "cuda_runtime", correlation=7),
        launch(3, 40),
        work(GEMM, 1, 20, 400),
        work(ADD, 2, 30, 300, stream=20),
        work(GEMM, 3, 421, 100),  # waits for both
    ]
    told = recorded_wait("Stream Wait Event", 7, 40, 7, wait_on_stream=20)
    faster = {"faster": ((GEMM, 4.0),)}
    assert replayed(tmp_path, events, **faster) == 330  # of the second stream
    assert replayed(tmp_path, [*events, told], **faster) == pytest.approx(330 + 1 + 25, abs=1)


def test_a_blocking_copy_is_a_wait(tmp_path: Path) -> None:
    events = [
        step(0, 0, 300),
        host("aten::mm", 0, 30),
        launch(1, 10),
        work(GEMM, 1, 20, 200),
        host("aten::to", 40, 250),
        host("cudaMemcpyAsync", 50, 190, "cuda_runtime", correlation=2),
        work("Memcpy DtoH (Device -> Pageable)", 2, 222, 10, "gpu_memcpy"),
    ]
    found = owners(tmp_path, events)
    assert (found["gemm"], found["memcpy"], found["queue"]) == (200, 10, 2)
    assert found["sync"] == 8
    assert replayed(tmp_path, events, faster=(("gemm", 2.0),)) == pytest.approx(200, abs=1)


@pytest.mark.parametrize("file", sorted(DATA.rglob("*.json.gz")), ids=lambda file: file.name)
def test_paths_sum_to_the_steps_and_replays_give_the_recording(file: Path) -> None:
    trace = analyse(file, partial(Replays, scenario=Scenario()))
    lengths = [end - begin for begin, end in zip(trace.times, trace.times[1:], strict=False)]
    assert [step.total() for step in trace.sums.paths.owners] == lengths
    assert all(time >= 0 for step in trace.sums.paths.owners for time in step.values())
    (replays,) = trace.sums.watchers
    assert isinstance(replays, Replays)
    (again,) = replays.by_name.values()
    assert [step.total() for step in again.paths.owners] == pytest.approx(lengths, abs=2)


def test_the_path_tells_what_binds_recorded_steps() -> None:
    def shares(name: str) -> dict[str, float]:
        found = path_of(load_trace(DATA / f"{name}.json.gz")).owners
        total = sum(map(sum, found.values()))
        return {owner: sum(column) / total for owner, column in found.items()}

    device = shares("busy_v100_ns")
    host_bound = shares("launch_bound_a100")
    assert sum(device.get(name, 0) for name in ("operators", "python", "launch", "sync")) < 0.05
    assert sum(host_bound.get(name, 0) for name in ("operators", "python", "launch")) > 0.95
    assert shares("resnet50_workers_0")["data_loading"] == pytest.approx(0.34, abs=0.01)


def test_rank_1_without_waiting_takes_as_long_as_rank_7_which_never_waited() -> None:
    waiting, last = (DATA / "dlrm" / f"dlrm_rank{rank}.json.gz" for rank in (1, 7))
    hidden = replay(waiting, Scenario(hide_communication=True), "")
    assert hidden.recorded_ns > 1.5 * hidden.wall_ns
    assert hidden.wall_ns == pytest.approx(sum(load_trace(last).steady.wall_ns), rel=0.01)


def test_loading_for_free_is_what_the_mended_twin_takes() -> None:
    free = Scenario(faster=(("data_loading", float("inf")),))
    predicted = replay(DATA / "resnet50_workers_0.json.gz", free, "")
    mended = load_trace(DATA / "resnet50_workers_4.json.gz").steady.wall_ns
    assert predicted.wall_ns / predicted.steps == pytest.approx(median(mended), rel=0.08)


def test_a_report_replays_the_first_steps_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [
        event | {"ts": event["ts"] + 500 * i, "name": event["name"].replace("#0", f"#{i}")}
        for i in range(5)
        for event in synchronised()
    ]
    path = write(tmp_path / "trace.json", document(events))
    monkeypatch.setattr("stepscope.advisor.traces.replay._ENOUGH_EVENTS", 2 * len(synchronised()))
    free = {each.scenario: each for each in path_of(load_trace(path)).replayed}
    assert set(free) == {"launch_free", "data_loading_free"}
    assert free["data_loading_free"].steps in (2, 3)
    assert next(iter(free["launch_free"].owners)) == "gemm"


def test_what_the_trace_has_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no such operator or kernel; near it: aten::mm"):
        replayed(tmp_path, synchronised(), faster=(("aten::mmm", 2.0),))
    with pytest.raises(TraceError, match="is a wait"):
        replayed(tmp_path, synchronised(), faster=(("queue", 2.0),))


def rank_that_computes(rank: int, first: float, second: float) -> list[dict[str, Any]]:
    """Two products, each before an exchange; all ranks leave the exchanges at 500 and 1,000 us."""
    events = [step(0, 0, 1000)]
    for i, length in enumerate((first, second)):
        a, n = 500 * i, 10 * i
        events += [
            host("aten::mm", a, 20),
            launch(n + 1, a + 5),
            launch(n + 2, a + 12),
            work(GEMM, n + 1, a + 10, length),
            work(REDUCE, n + 2, a + 12 + length, 488 - length, stream=20),
            sync(a + 20, 480),
        ]
    return events


def test_the_path_of_a_job_changes_ranks_where_one_came_last(tmp_path: Path) -> None:
    for rank, lengths in enumerate([(400, 100), (200, 450), (300, 300)]):
        write(tmp_path / f"rank{rank}.json", document(rank_that_computes(rank, *lengths)))
    found = path_of(load_input(tmp_path))
    assert {name: time for name, (time,) in found.owners.items() if time} == {
        "gemm": 400_000 + 450_000,
        "collective": (488 - 400 + 488 - 450) * 1000,
        "operators": 2 * 5_000,
        "launch": 2 * 5_000,
        "queue": 2 * 2_000,
    }
    assert found.ranks == {1: 462_000, 0: 412_000}


def test_time_before_a_late_rank_began_its_step_is_told_apart(tmp_path: Path) -> None:
    for rank, late in enumerate([0, 300]):
        events = [
            step(0, late, 700 - late),
            host("aten::mm", late, 20),
            launch(1, late + 5),
            work(REDUCE, 1, late + 12, 488 - late),
            sync(late + 20, 480 - late),
        ]
        write(tmp_path / f"rank{rank}.json", document(events))
    found = path_of(load_input(tmp_path))
    assert {name: time for name, (time,) in found.owners.items() if time} == {
        "straggler": 300_000,
        "collective": 188_000,
        "python": 200_000,
        "operators": 5_000,
        "launch": 7_000,
    }
    assert found.ranks == {0: 200_000, 1: 12_000}


def test_paths_of_ranks_join_in_any_order() -> None:
    ranks = []
    for rank in range(8):
        trace = analyse(DATA / "dlrm" / f"dlrm_rank{rank}.json.gz", Legs)
        (legs,) = trace.sums.watchers
        assert isinstance(legs, Legs)
        ranks.append(paths_of(legs, rank, [0]))
    forward, backward = reduce(joined, ranks), reduce(joined, reversed(ranks))
    pairs = [joined(a, b) for a, b in zip(ranks[::2], ranks[1::2], strict=True)]
    assert forward == backward == reduce(joined, pairs) == joined(forward, ranks[3])
    found = job_path(forward)
    assert found is not None
    assert max(found.ranks, key=found.ranks.__getitem__) in (1, 7)
    slowest = max(step.wall_ns for paths in ranks for step in paths[0].values())
    assert sum(sum(column) for column in found.owners.values()) == slowest
