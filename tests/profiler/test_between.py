"""The trial in loops that do not go through `prof.steps(loader)`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from loops import Points
from test_probing import EXTRA, Noisy, Training
from torch.utils.data import DataLoader, dataloader

from stepscope.profiler import machine, profile
from stepscope.profiler.format import Profile
from stepscope.profiler.storage import load

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
Loop = Callable[[profile, Training, Any], None]


@pytest.fixture(autouse=True)
def uncalibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    """How fast the machine is does not matter here, and takes a while to find out."""
    monkeypatch.setattr(machine, "calibrate", lambda: None)


def a_step(prof: profile, training: Training, batch: Any, extra: list[float]) -> None:
    trying = prof.trying
    training.step(batch)
    if trying:
        extra.append(training.losses.pop())


def plain(prof: profile, training: Training, loader: Any, extra: list[float]) -> None:
    for batch in loader:
        a_step(prof, training, batch, extra)


def ends_its_steps(prof: profile, training: Training, loader: Any, extra: list[float]) -> None:
    for batch in loader:
        a_step(prof, training, batch, extra)
        prof.step()


def reads_ahead(prof: profile, training: Training, loader: Any, extra: list[float]) -> None:
    batches = iter(loader)
    following = next(batches, None)
    while following is not None:
        batch, following = following, next(batches, None)
        a_step(prof, training, batch, extra)


def both(
    path: Path, loop: Callable[..., None], workers: int, accumulate: int = 1, **options: Any
) -> tuple[Profile, list[float]]:
    """Train with and without a trial; both must come to the same, bit for bit."""

    def trained(prof: profile) -> tuple[Training, list[float]]:
        training, extra = Training(accumulate), list[float]()
        loader = DataLoader(Noisy(480), batch_size=4, shuffle=True, num_workers=workers)
        loop(prof, training, loader, extra)
        return training, extra

    with profile(path, enabled=False) as prof:
        without, _ = trained(prof)
    options = {"operator_steps": 0, "warmup_steps": 0, "probe": True} | options
    with profile(path, **options) as prof:
        tried, extra = trained(prof)
    assert tried.losses == without.losses
    assert all(torch.equal(a, b) for a, b in zip(tried.state(), without.state(), strict=True))
    return load(path), extra


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("loop", [plain, ends_its_steps])
def test_a_loop_is_tried_between_its_batches(tmp_path: Path, loop: Loop, workers: int) -> None:
    recorded, extra = both(tmp_path / "p.json", loop, workers)

    assert recorded.problems == []
    assert recorded.ceilings is not None
    assert len(extra) == EXTRA
    assert len(recorded.ceilings.model_step_ns) == 8
    assert recorded.ceilings.loader_batch_ns


def test_micro_batches_stay_in_turn(tmp_path: Path) -> None:
    recorded, extra = both(tmp_path / "p.json", plain, 2, accumulate=2)

    assert recorded.ceilings is not None
    assert extra


def test_a_loop_that_reads_ahead_is_not_tried(tmp_path: Path) -> None:
    recorded, extra = both(tmp_path / "p.json", reads_ahead, 2)

    assert recorded.ceilings is None
    assert extra == []
    assert ["done with the one before" in problem for problem in recorded.problems] == [True]


def test_what_was_read_ahead_outlives_the_recording(tmp_path: Path) -> None:
    original = dataloader._BaseDataLoaderIter.__next__

    def left_early(prof: profile, training: Training, loader: Any, extra: list[float]) -> None:
        batches: Iterator[Any] = iter(loader)
        for batch in batches:
            a_step(prof, training, batch, extra)
            if extra and not prof.trying:  # the trial of the model is over, and its batches wait
                break
        prof.__exit__(None, None, None)
        for batch in batches:
            a_step(prof, training, batch, extra)

    recorded, _ = both(tmp_path / "p.json", left_early, 2)

    assert recorded.ceilings is not None
    assert dataloader._BaseDataLoaderIter.__next__ is original


def test_workers_end_with_the_loop_that_is_left(tmp_path: Path) -> None:
    with profile(tmp_path / "p.json", probe=True):
        batches = iter(DataLoader(Points(400), batch_size=4, num_workers=1))
        next(batches)
        worker = batches._workers[0]  # type: ignore[attr-defined]
        del batches
        assert not worker.is_alive()
