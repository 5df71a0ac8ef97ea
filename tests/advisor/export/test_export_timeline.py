"""A profile as a timeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builders import MS, a_loader, a_profile, some_batches, some_steps
from chrome_traces import partly_overlapping, read, slices
from click.testing import CliRunner

from stepscope.advisor.cli import cli
from stepscope.advisor.traces.profile import load_trace
from stepscope.profiler.format import Batches, Mark, Meetings, Metric, Profile, Run, Samples, Steps
from stepscope.profiler.storage import save

HOSTILE = 'a "name"\\ </script>\x00\n\u2028 <b>'
WAIT = "enumerate(DataLoader)#_MultiProcessingDataLoaderIter.__next__"


def exported(folder: Path, *profiles: Profile) -> Path:
    paths = [folder / f"profile{i}.json" for i in range(len(profiles))]
    for path, profile in zip(paths, profiles, strict=True):
        save(profile, path)
    out = folder / "out.json.gz"
    arguments = ["export", *map(str, paths), "--to", "perfetto", "--out", str(out), "--force"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    return out


def shown(folder: Path, *profiles: Profile) -> dict[str, Any]:
    """The trace, which is in order whatever it holds."""
    trace = read(exported(folder, *profiles))
    assert partly_overlapping(trace) == []
    return trace


def tracks(trace: dict[str, Any], what: str) -> dict[int, str]:
    key = "pid" if what == "process" else "tid"
    named = [e for e in trace["traceEvents"] if e["name"] == f"{what}_name"]
    return {event[key]: event["args"]["name"] for event in named}


def with_phases(**changes: Any) -> Profile:
    steady = some_steps(20, 50)
    third = [wall // 3 for wall in steady.wall_ns]
    steady.phases = {
        "python": [wall - 2 * part for wall, part in zip(steady.wall_ns, third, strict=True)],
        "backward": third,
        "data_wait": third,
        "gc": [0] * 50,
    }
    return a_profile(steady=steady, **changes)


def test_steps_and_phases_come_back_when_it_is_read_as_a_trace(tmp_path: Path) -> None:
    profile = with_phases()
    found = load_trace(exported(tmp_path, profile))
    walls = profile.warmup.wall_ns + profile.steady.wall_ns
    assert found.steady.first == list(range(70))
    assert found.steady.wall_ns == pytest.approx(walls, abs=250)
    for phase in ("data_wait", "backward", "python"):
        steady = found.steady.phases[phase][20:]
        assert steady == pytest.approx(profile.steady.phases[phase], abs=250), phase


def test_phases_lie_in_their_step_in_the_order_of_a_step(tmp_path: Path) -> None:
    trace = shown(tmp_path, with_phases())
    step = slices(trace, "ProfilerStep#30")[0]
    inside = [
        event
        for event in slices(trace)
        if event["tid"] == step["tid"] and step["ts"] <= event["ts"] < step["ts"] + step["dur"]
    ]
    assert [e["args"].get("phase") for e in inside] == [None, "data_wait", "backward", "python"]
    assert sum(event["dur"] for event in inside[1:]) == pytest.approx(step["dur"])
    assert any("laid out" in note for note in trace["otherData"].values())


def test_steps_stand_where_they_were(tmp_path: Path) -> None:
    steady = some_steps(20, 3)
    steady.start_ns = [7_000 * MS, 7_100 * MS, 9_000 * MS]
    trace = shown(tmp_path, a_profile(steady=steady, warmup=some_steps(0, 0), window=None))
    starts = [slices(trace, f"ProfilerStep#{i}")[0]["ts"] for i in (20, 21, 22)]
    assert starts == [7_000_000, 7_100_000, 9_000_000]
    assert not any("does not say" in note for note in trace["otherData"].values())


def test_the_operator_window_fills_its_gap(tmp_path: Path) -> None:
    profile = a_profile(warmup=some_steps(0, 0))
    profile.steady.start_ns = [
        (i * 100 + (1000 if first >= 120 else 0)) * MS
        for i, first in enumerate(profile.steady.first)
    ]
    profile.steady.first = [first + (5 if first >= 120 else 0) for first in profile.steady.first]
    (window,) = [e for e in slices(shown(tmp_path, profile)) if "operator window" in e["name"]]
    assert window["dur"] == 260_000


def test_decimated_rows_say_that_they_are_sums(tmp_path: Path) -> None:
    steady = some_steps(20, 10, 100.0)
    steady.first, steady.count = [20 + 64 * i for i in range(10)], [64] * 10
    trace = shown(tmp_path, a_profile(steady=steady))
    (row,) = slices(trace, "ProfilerStep#84 to #147 (64 steps)")
    assert row["args"]["steps"] == 64
    assert row["dur"] == pytest.approx(steady.wall_ns[1] / 1000, abs=0.2)
    means = [e for e in trace["traceEvents"] if e["name"] == "step time (ms)"]
    assert means[21]["args"]["value"] == pytest.approx(steady.wall_ns[1] / 64 / MS)
    assert any("sums over them" in note for note in trace["otherData"].values())


def test_batches_stand_by_worker_with_what_their_time_went_to(tmp_path: Path) -> None:
    batches = Batches(
        stride=4, worker=[0, 1, 0], start_ns=[0, 5 * MS, 100 * MS], wall_ns=[90 * MS] * 3,
        cpu_ns=[60 * MS, 100 * MS, 10 * MS], run_delay_ns=[20 * MS, 5 * MS, 0],
    )  # fmt: skip
    trace = shown(tmp_path, a_profile(loaders=[a_loader(batches=batches)]))
    assert "DataLoader of ImageFolder" in tracks(trace, "process").values()
    threads = tracks(trace, "thread")
    assert {"worker 0, every 4th batch", "worker 1, every 4th batch"} <= set(threads.values())
    blocked = [(threads[e["tid"]][:8], e["dur"]) for e in slices(trace, "blocked")]
    assert blocked == [("worker 0", 10_000), ("worker 1", 0), ("worker 0", 80_000)]


def test_batches_of_one_worker_at_the_same_time_are_all_shown(tmp_path: Path) -> None:
    batches = some_batches([90, 90, 90])
    batches.start_ns = [0, 40 * MS, 95 * MS]
    trace = shown(tmp_path, a_profile(loaders=[a_loader(batches=batches)]))
    assert len(slices(trace, "batch")) == 3
    assert "worker 0, at the same time" in tracks(trace, "thread").values()


def test_resources_metrics_and_events(tmp_path: Path) -> None:
    profile = a_profile(
        samples=Samples(time_ns=[0, MS], columns={"rss_bytes": [1.5, None]}),
        metrics={"loss": Metric(step=[20, 21], time_ns=[MS, 2 * MS], value=[0.5, None])},
        marks=[Mark(kind="checkpoint", step=3, time_ns=5 * MS, duration_ns=2 * MS, detail="x.pt")],
    )
    trace = shown(tmp_path, profile)
    values = {e["name"]: e["args"] for e in trace["traceEvents"] if e["ph"] == "C"}
    assert values["rss_bytes"] == {"value": 1.5}
    assert values["logged: loss"] == {"value": 0.5}
    (mark,) = [e for e in trace["traceEvents"] if e["ph"] == "i"]
    assert (mark["name"], mark["ts"]) == ("checkpoint", 5000)
    assert mark["args"] == {"step": 3, "duration_ms": 2.0, "detail": "x.pt"}


def test_several_ranks_are_processes_of_one_timeline(tmp_path: Path) -> None:
    runs = [
        Run(started_at="", wall_ns=1, ended="completed", rank=rank, world_size=2) for rank in (0, 1)
    ]
    trace = shown(tmp_path, *(a_profile(run=run) for run in runs))
    names = list(tracks(trace, "process").values())
    assert {"rank 0: training", "rank 1: training"} <= set(names)
    assert len(slices(trace, "ProfilerStep#30")) == 2
    assert not tracks(trace, "process").keys() & tracks(trace, "thread").keys()


def test_ranks_are_put_on_one_clock(tmp_path: Path) -> None:
    def a_rank(rank: int, began_ms: int, ahead_ms: int) -> Profile:
        ends = [(100 * step - began_ms) * MS for step in range(20)]
        run = Run(started_at="", wall_ns=1, ended="completed", rank=rank, world_size=2, job="this")
        meetings = Meetings(
            clock=f"{rank}",
            origin_ns=(1_700_000_000_000 + began_ms + ahead_ms) * MS,
            steps=list(range(20)),
            ends_ns=ends,
        )
        return a_profile(run=run, meetings=meetings)

    trace = shown(tmp_path, a_rank(0, 70, 0), a_rank(1, 20, 3000))
    (first, second) = (step["ts"] for step in slices(trace, "ProfilerStep#30"))
    assert first - second == 50_000  # it began so much later
    assert "Moved by 50.000 ms" in " ".join(trace["otherData"].values())


def test_nothing_in_a_profile_breaks_it(tmp_path: Path) -> None:
    steady = Steps(
        first=[5, 3], count=[0, 1], wall_ns=[-5, 10], wall_max_ns=[0, 0], start_ns=[9, -1],
        phases={HOSTILE: [-1, 1 << 40], "data_wait": [3, 3]},
    )  # fmt: skip
    loader = a_loader(dataset=HOSTILE, batches=some_batches([-1, 0]))
    marks = [Mark(kind=HOSTILE, step=-1, time_ns=-5)]
    trace = shown(tmp_path, a_profile(steady=steady, loaders=[loader], marks=marks))
    assert f"DataLoader of {HOSTILE}" in tracks(trace, "process").values()


def test_the_same_profile_gives_the_same_bytes(tmp_path: Path) -> None:
    first = exported(tmp_path, a_profile()).read_bytes()
    assert exported(tmp_path, a_profile()).read_bytes() == first
