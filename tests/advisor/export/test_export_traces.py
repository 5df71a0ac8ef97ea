"""Traces of torch.profiler as one timeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chrome_traces import partly_overlapping, read, slices
from click.testing import CliRunner
from trace_documents import DATA, document, host, launch, step, work, write

from stepscope.advisor.cli import cli
from stepscope.advisor.inputs import load_input
from stepscope.advisor.traces.profile import load_trace


def exported(out: Path, *paths: Path) -> Path:
    arguments = ["export", *map(str, paths), "--to", "perfetto", "--out", str(out)]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    return out


def original(path: Path) -> list[dict[str, Any]]:
    return list(read(path)["traceEvents"])


@pytest.mark.parametrize("name", ["mi250_rocm", "launch_bound_a100", "nccl_exposed_v100"])
def test_a_trace_means_the_same_afterwards(tmp_path: Path, name: str) -> None:
    path = DATA / f"{name}.json.gz"
    out = exported(tmp_path / "out.json.gz", path)
    assert load_trace(out).steady == load_trace(path).steady
    before, after = original(path), original(out)
    moved = [e for e in after if e["ph"] == "M" and "overlapping" in str(e["args"])]
    assert len(after) == len(before) + len(moved)


def test_work_that_overlaps_gets_a_track_of_its_own(tmp_path: Path) -> None:
    kernels = [
        work("outer", 1, 100, 50), work("inner", 2, 110, 10), work("next", 3, 150, 10),
        work("across", 4, 155, 20), work("again", 5, 156, 30), work("after", 6, 175, 5),
    ]  # fmt: skip
    begin = 1_669_783_687_413_904  # microseconds since 1970, as traces of torch 2.0 have them
    for kernel in kernels:
        kernel["ts"] += begin
    path = write(tmp_path / "trace.json", document([step(1, begin, 500), *kernels]))
    trace = read(exported(tmp_path / "out.json.gz", path))
    first = slices(trace, "outer")[0]["tid"]
    place = {e["name"]: e["tid"] for e in slices(trace) if e["cat"] == "kernel"}
    assert [name for name, tid in place.items() if tid == first] == [
        "outer", "inner", "next", "after",
    ]  # fmt: skip
    assert place["across"] != place["again"]
    assert partly_overlapping(trace) == []


def test_ranks_lie_side_by_side(tmp_path: Path) -> None:
    out = exported(tmp_path / "out.json.gz", DATA / "dlrm")
    trace = read(out)
    ranks = sorted((DATA / "dlrm").glob("*.json.gz"))
    before = [event for path in ranks for event in slices(read(path))]
    assert len(slices(trace)) == len(before)
    assert sorted(e["ts"] for e in slices(trace)) == sorted(e["ts"] for e in before)
    names: dict[int, str] = {}
    for event in trace["traceEvents"]:
        if event["name"] == "process_name":
            names[event["pid"]] = event["args"]["name"]
    assert {names[event["pid"]].partition(":")[0] for event in slices(trace)} == {
        f"dlrm_rank{rank}" for rank in range(8)
    }


def test_a_clock_that_is_wrong_is_set_right(tmp_path: Path) -> None:
    """Real traces of one machine, one of which had its clock set ahead."""
    ahead_us = 40_000
    folder = tmp_path / "traces"
    folder.mkdir()
    expected = []
    for rank in (0, 5, 7):
        trace = read(DATA / f"dlrm/dlrm_rank{rank}.json.gz")
        expected += [event["ts"] for event in slices(trace)]
        for event in trace["traceEvents"]:
            if rank == 5 and "ts" in event:
                event["ts"] += ahead_us
        write(folder / f"rank{rank}.json", trace)
    ranks = load_input(folder).ranks
    assert ranks is not None
    wrong, *others = ranks.clocks
    assert wrong.rank == 5
    assert wrong.offset_ns == pytest.approx(ahead_us * 1000, abs=5000)
    assert all(abs(clock.offset_ns) < 5000 for clock in others)

    shown = read(exported(tmp_path / "out.json.gz", folder))
    pairs = zip(sorted(event["ts"] for event in slices(shown)), sorted(expected), strict=True)
    assert max(abs(a - b) for a, b in pairs) < 5
    assert [key for key in shown["otherData"] if "clock" in key] == ["rank5.json, clock"]


def test_clocks_and_arrows_of_several_traces_are_kept_apart(tmp_path: Path) -> None:
    arrow = {"ph": "s", "id": 3, "cat": "ac2g", "name": "ac2g", "pid": 1, "tid": 1, "ts": 5}
    events = [step(1, 0, 100), arrow]
    for i in (0, 1):
        base = 1_000_000_000 + 250_000 * i
        write(tmp_path / f"r{i}.json", document(events, baseTimeNanoseconds=base))
    out = exported(tmp_path / "out.json.gz", tmp_path / "r0.json", tmp_path / "r1.json")
    trace = read(out)
    assert [event["ts"] for event in slices(trace)] == [0, 250]
    assert {e["id"] for e in trace["traceEvents"] if e["ph"] == "s"} == {"r0.3", "r1.3"}


def test_a_damaged_trace_is_strict_json_afterwards(tmp_path: Path) -> None:
    odd = host("n\x01ame \udc80", 10, 5, value=float("nan"))
    late = {"ph": "X", "name": "without time"}
    text = json.dumps(document([step(1, 0, 100), odd, late, launch(1, 50), work("k", 1, 60, 5)]))
    (tmp_path / "trace.json").write_text(text[:-2].replace("\\u0001", "\x01"), encoding="utf-8")
    out = tmp_path / "out.json.gz"
    arguments = ["export", str(tmp_path / "trace.json"), "--to", "perfetto", "--out", str(out)]
    result = CliRunner().invoke(cli, arguments)
    assert "1 events could not be read and are left out; the file ends early" in result.stderr
    trace = read(out)
    names = [event["name"] for event in slices(trace)]
    assert names == ["ProfilerStep#1", "n\x01ame ?", "cudaLaunchKernel", "k"]
    assert slices(trace)[1]["args"] == {"value": None}
