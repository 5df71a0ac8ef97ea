"""Traces recorded with stacks name places in the program; named ranges tell their device time."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from trace_documents import DATA, document, host, launch, step, work, write

from stepscope.advisor.advise import advise
from stepscope.advisor.html import render
from stepscope.advisor.places import places_of
from stepscope.advisor.rule_files import load_knowledge
from stepscope.advisor.traces.frames import frame_of
from stepscope.advisor.traces.profile import load_trace
from stepscope.profiler.format import Annotation, Profile

LOADER = "enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__"


def call(name: str, start: float, length: float) -> dict[str, Any]:
    """A call of a Python function."""
    return host(name, start, length, "python_function", **{"Python id": int(start)})


@pytest.mark.parametrize(
    ("name", "frame"),
    [
        ("train.py(12): step", ("train.py", 12, "step")),
        ("src/data/images.py(7): __getitem__", ("src/data/images.py", 7, "__getitem__")),
        ("/home/me/lib/train.py(30): <module>", ("/home/me/lib/train.py", 30, "<module>")),
        ("C:\\me\\train.py(3): main", ("C:\\me\\train.py", 3, "main")),
        ("/tmp/ipykernel_81/38.py(2): <module>", ("/tmp/ipykernel_81/38.py", 2, "<module>")),
        ("torch/optim/sgd.py(80): step", None),
        ("torchvision/transforms/functional.py(5): resize", None),
        ("threading.py(982): run", None),
        ("/usr/lib/python3.11/queue.py(154): get", None),
        ("/opt/conda/lib/python3.10/site-packages/mine/a.py(1): f", None),
        ("C:\\Python311\\Lib\\site-packages\\mine\\a.py(1): f", None),
        ("<built-in method item of Tensor object at 0x7f83c7666fd0>", None),
        ("<frozen os>(674): __getitem__", None),
        ("nn.Module: Linear_0", None),
    ],
)
def test_frames_of_libraries_are_left_out(name: str, frame: tuple[str, int, str] | None) -> None:
    assert frame_of(name) == frame


def stacked_step(start: float) -> list[dict[str, Any]]:
    """A step of 1,000 us: loads, uploads, computes, waits, and thinks in Python."""
    n = int(start) + 1
    return [
        step(n // 1000, start, 1000),
        host(LOADER, start, 200, "user_annotation"),
        call("torch/utils/data/dataloader.py(700): __next__", start, 200),
        call("data.py(7): decode", start + 20, 150),
        call("model.py(5): step", start + 200, 600),
        host("cudaMemcpyAsync", start + 210, 10, "cuda_runtime", correlation=n),
        work("Memcpy HtoD (Pageable -> Device)", n, start + 220, 30, "gpu_memcpy"),
        host("aten::mm", start + 260, 40),
        launch(n + 1, start + 280),
        work("volta_sgemm_128x32_nn", n + 1, start + 300, 200),
        call("log.py(3): show", start + 440, 330),
        call("<built-in method item of Tensor object at 0x7f0>", start + 445, 320),
        host("cudaStreamSynchronize", start + 450, 300, "cuda_runtime", correlation=n + 2),
    ]


def stacked(tmp_path: Path, **changes: str) -> Profile:
    events = [event for i in range(3) for event in stacked_step(1000.0 * i)]
    for event in events:
        event["name"] = changes.get(event["name"].partition("#")[0][:9], event["name"])
    events.append(call("train.py(40): main", -500, 5000))  # began long before
    events += [call("prefetch.py(9): run", -500, 5000) | {"tid": 2}]  # of another thread
    return load_trace(write(tmp_path / "trace.json", document(events)))


def seen(profile: Profile) -> dict[tuple[str, str], tuple[int, float]]:
    return {(s.phase, s.function): (s.calls, s.time_ns / 1000) for s in profile.sites}


def test_phases_are_divided_among_the_functions_that_were_running(tmp_path: Path) -> None:
    profile = stacked(tmp_path)
    assert seen(profile) == {
        # The device idles from 500 on, because the host waits; 250 us later it is back.
        ("sync", "show"): (3, 3 * 270),
        ("sync", "step"): (3, 3 * 30),
        ("sync", "main"): (3, 3 * 200),
        ("launch", "step"): (3, 3 * (10 + 50)),
        ("python", "step"): (3, 3 * 10),
        ("transfer", "step"): (3, 3 * 30),
    }
    sites = {(s.phase, s.function): s for s in profile.loaders[0].sites}
    assert {key: s.time_ns / 1000 for key, s in sites.items()} == {
        ("fetch", "decode"): 450,
        ("fetch", "main"): 150,
    }
    assert sites["fetch", "decode"].transform == "decode"
    assert sites["fetch", "main"].transform is None
    places = places_of(profile)
    assert str(places["host.sync"][0].file) == "log.py"
    assert places["cpu_preprocessing.transform"][0].transform == "decode"
    assert places["data_loading.host_to_device"][0].line == 5


def test_waiting_for_workers_is_placed_where_the_loop_asks(tmp_path: Path) -> None:
    profile = stacked(tmp_path, enumerate="enumerate(DataLoader)#_MultiProcessingDataLoaderIter")
    assert not profile.loaders
    waits = [s for s in profile.sites if s.phase == "data_wait"]
    assert {s.function for s in waits} == {"decode", "main"}
    assert places_of(profile)["data_loading.network"][0].file == "data.py"


def test_operators_of_older_versions_carry_their_stack(tmp_path: Path) -> None:
    stack = {"Call stack": "/x/site-packages/torch/nn/functional.py(9): linear;train.py(12): step"}
    events = []
    for i in range(3):
        events += [step(i, 100 * i, 100), launch(i + 1, 100 * i + 15)]
        events += [host("aten::linear", 100 * i + 10, 30, **stack), host("aten::mm", 100 * i, 5)]
        events += [work("sgemm", i + 1, 100 * i + 25, 30)]
    profile = load_trace(write(tmp_path / "trace.json", document(events)))
    assert seen(profile) == {("launch", "step"): (3, 45)}
    assert profile.sites[0].line == 12


def test_a_recorded_loop_is_placed(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters())

    def slow_thinking() -> None:
        sum(i * i for i in range(3000))

    with torch.profiler.profile(with_stack=True) as recorded:
        for _ in range(4):
            with torch.profiler.record_function("## forward ##"):
                loss = model(torch.ones(2, 4)).sum()
            slow_thinking()
            loss.backward()
            optimizer.step()
    recorded.export_chrome_trace(str(tmp_path / "trace.json"))
    profile = load_trace(tmp_path / "trace.json")
    thinking = next(s for s in profile.sites if (s.phase, s.function) == ("python", "<genexpr>"))
    assert thinking.file.endswith(Path(__file__).name)
    assert thinking.line == slow_thinking.__code__.co_firstlineno + 1
    assert thinking.calls > 3000
    assert all("torch" not in Path(s.file).parts for s in profile.sites)
    assert profile.trace is not None
    assert "## forward ##" in {a.name for a in profile.trace.annotations}


def test_ranges_tell_what_they_launched_once_each(tmp_path: Path) -> None:
    events = []
    for i in range(3):
        at, n = 100 * i, 10 * i
        events += [step(i, at, 100), host("outer", at, 60, "user_annotation")]
        events += [host("inner", at + 5, 20, "user_annotation"), launch(n + 1, at + 10)]
        events += [launch(n + 2, at + 40), launch(n + 3, at + 70)]
        events += [host("inner", at + 65, 20, "user_annotation")]
        events += [launch(n + 4, at + 50) | {"tid": 2}]  # of autograd's thread
        events += [work("sgemm", n + k, at + 20 * k, 10) for k in (1, 2, 3)]
        events += [work("dgemm", n + 4, at + 75, 5)]
        # The profiler's own account of the same on the device is no work.
        events += [work("outer", n + 9, at + 20, 30, "gpu_user_annotation")]
    profile = load_trace(write(tmp_path / "trace.json", document(events)))
    assert profile.trace is not None
    assert profile.trace.busy_ns == 3 * 35_000
    found = {a.name: a for a in profile.trace.annotations}
    assert set(found) == {"outer", "inner"}  # steps are no ranges of the user's
    assert found["outer"] == Annotation(name="outer", calls=3, time_ns=180_000, device_ns=75_000)
    assert found["inner"] == Annotation(name="inner", calls=6, time_ns=120_000, device_ns=60_000)
    page = render(advise(profile, load_knowledge([])), profile)
    assert '<th scope="row" class="mono any">outer</th>' in page


@pytest.mark.parametrize("name", ["launch_bound_ddp_a100", "mi250_rocm"])
def test_ranges_agree_with_kinetos_own_on_the_device(name: str) -> None:
    with gzip.open(DATA / f"{name}.json.gz", "rt") as file:
        events = json.load(file)["traceEvents"]
    works = [e for e in events if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    theirs: dict[str, float] = {}
    for span in (e for e in events if e.get("cat") == "gpu_user_annotation"):
        inside = (w["dur"] for w in works if _inside(w, span))
        theirs[span["name"]] = theirs.get(span["name"], 0.0) + sum(inside)
    trace = load_trace(DATA / f"{name}.json.gz").trace
    assert trace is not None
    ours = {a.name: (a.device_ns or 0) / 1000 for a in trace.annotations}
    for range_ in theirs.keys() - {"## backward ##", "ProfilerStep#1"}:
        assert ours[range_] == pytest.approx(theirs[range_], rel=0.01, abs=0.1)
    # Theirs is without what autograd's own thread launches while a range waits for it.
    assert ours.get("## backward ##", 0.0) >= theirs.get("## backward ##", 0.0)


def _inside(work_: dict[str, Any], span: dict[str, Any]) -> bool:
    same = (work_["pid"], work_["tid"]) == (span["pid"], span["tid"])
    return bool(
        same
        and span["ts"] - 0.001 <= work_["ts"]
        and work_["ts"] + work_["dur"] <= span["ts"] + span["dur"] + 0.001
    )
