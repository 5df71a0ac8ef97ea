"""Trackers, progress bars, checkpoints and compilation: what may be imported late."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from loops import MS, Net, assert_exclusive, calls, record, run_steps, spent

from stepscope.profiler import profile
from stepscope.profiler.format import Profile, Site


def sites(recorded: Profile, phase: str) -> list[Site]:
    return [site for site in recorded.sites if site.phase == phase and site.calls]


# Logging ------------------------------------------------------------------------------------------


def a_tracker(monkeypatch: pytest.MonkeyPatch) -> Any:
    module: Any = ModuleType("wandb")
    module.log = lambda values: time.sleep(0.005)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


@pytest.mark.parametrize("late", [False, True])
def test_a_tracker_is_timed_also_when_it_is_imported_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    tracker = None if late else a_tracker(monkeypatch)
    original = tracker.log if tracker else None

    def body(prof: profile) -> None:
        nonlocal tracker, original
        if tracker is None:
            tracker = a_tracker(monkeypatch)
            original = tracker.log
            prof.step()
        run_steps(prof, lambda: tracker.log({"loss": 1.0}))

    result = record(tmp_path / "profile.json", body)
    assert calls(result, "log_calls") == 3
    assert spent(result, "logging") >= 3 * 5 * MS
    assert tracker is not None
    assert tracker.log is original
    (site,) = sites(result, "logging")
    assert (site.file, site.calls) == (__file__, 3)
    assert site.time_ns >= 3 * 5 * MS


def test_lines_are_charged_to_who_wrote_them(tmp_path: Path) -> None:
    logger = logging.Logger("a loop", logging.INFO)
    logger.addHandler(logging.NullHandler())

    def step() -> None:
        logger.info("one")
        for _ in range(3):
            logger.warning("two")

    result = record(tmp_path / "profile.json", lambda prof: run_steps(prof, step))
    first = step.__code__.co_firstlineno
    assert {site.line - first: site.calls for site in sites(result, "logging")} == {1: 3, 3: 9}


def test_a_log_that_is_synced_line_by_line_is_logging(tmp_path: Path) -> None:
    with (tmp_path / "loss.txt").open("w") as log:

        def step() -> None:
            log.write("loss\n")
            log.flush()
            os.fsync(log.fileno())

        result = record(tmp_path / "profile.json", lambda prof: run_steps(prof, step))
    assert spent(result, "logging") > 0
    assert spent(result, "checkpoint") == 0
    assert calls(result, "log_calls") == 0


# Checkpoints --------------------------------------------------------------------------------------


def test_what_belongs_to_a_checkpoint_is_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = {}
    for owner, name in ((os, "fsync"), (shutil, "copyfile")):
        slow[name] = getattr(owner, name)

        def slowly(*args: Any, name: str = name, **kwargs: Any) -> Any:
            time.sleep(0.01)
            return slow[name](*args, **kwargs)

        monkeypatch.setattr(owner, name, slowly)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step() -> None:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        with (tmp_path / "part").open("wb") as file:
            torch.save(state, file)
            os.fsync(file.fileno())
        os.replace(tmp_path / "part", tmp_path / "last.pt")  # noqa: PTH105
        shutil.copyfile(tmp_path / "last.pt", tmp_path / "best.pt")

    result = record(tmp_path / "profile.json", lambda prof: run_steps(prof, step))
    assert calls(result, "checkpoints") == 3
    assert spent(result, "checkpoint") >= 3 * 20 * MS
    assert spent(result, "logging") == 0
    lines = {site.line - step.__code__.co_firstlineno for site in sites(result, "checkpoint")}
    assert lines == {1, 3, 4, 5, 6}
    assert_exclusive(result)


def test_a_copy_without_checkpoint_is_none(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")

    def step() -> None:
        shutil.copyfile(tmp_path / "a", tmp_path / "b")
        os.replace(tmp_path / "b", tmp_path / "c")  # noqa: PTH105

    result = record(tmp_path / "profile.json", lambda prof: run_steps(prof, step))
    assert spent(result, "checkpoint") == 0


# Compilation --------------------------------------------------------------------------------------


def test_compilation_is_told_from_running(tmp_path: Path) -> None:
    model = Net()
    x = torch.ones(2, 4)

    def slowly(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        time.sleep(0.02)
        return graph.forward

    def body(prof: profile) -> None:
        compiled = torch.compile(model, backend=slowly)
        run_steps(prof, lambda: compiled(x).sum().backward(), 5)

    result = record(tmp_path / "profile.json", body)
    torch._dynamo.reset()
    assert calls(result, "compilations") >= 1
    assert spent(result, "compilation") >= 20 * MS
    assert result.steady.phases["compilation"][-1] == 0
    assert result.steady.phases["forward"][-1] > 0
    assert any(mark.kind == "compilation" for mark in result.marks)
    assert_exclusive(result)
    handler = torch._dynamo.callback.callback_handler
    assert not any("stepscope" in repr(callback) for callback in handler.start_callbacks)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_torchscript_is_compilation(tmp_path: Path) -> None:
    model = Net().eval()

    def trace() -> None:
        torch.jit.trace(model, torch.ones(2, 4))  # type: ignore[no-untyped-call]

    result = record(tmp_path / "profile.json", lambda prof: run_steps(prof, trace, 2))

    assert calls(result, "compilations") == 2
    assert spent(result, "compilation") > 0
    assert_exclusive(result)


# Garbage ------------------------------------------------------------------------------------------


def test_who_asks_for_a_collection_is_named(tmp_path: Path) -> None:
    import gc  # noqa: PLC0415

    result = record(tmp_path / "profile.json", lambda prof: run_steps(prof, gc.collect, 3))
    assert calls(result, "collections") >= 3
    assert sum(site.calls for site in sites(result, "gc")) == 3
    assert_exclusive(result)
