from __future__ import annotations

import random
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loops import MS, Net, Pair, Points, PointStream, SleepyPoints, all_steps, assert_exclusive
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler

from stepscope.profiler import machine, probing, profile
from stepscope.profiler.format import Batches, Profile
from stepscope.profiler.reading import Plan, ReadAhead, compare, plan
from stepscope.profiler.storage import load
from stepscope.profiler.turnstile import Turnstile

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
EXTRA = 10
"""Iterations that are added when every batch is followed by an optimizer step."""


@pytest.fixture(autouse=True)
def uncalibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    """How fast the machine is does not matter here, and takes a while to find out."""
    monkeypatch.setattr(machine, "calibrate", lambda: None)


class Noisy(Points):
    """Samples with noise of every kind of generator; where they are made, these numbers count."""

    def __getitem__(self, index: int) -> Pair:
        x, y = super().__getitem__(index)
        noise = torch.rand(4) + random.random() + np.random.rand()
        return x + 0.1 * noise, y


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.net = Net()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.net(self.norm(x))
        return result


class Training:
    """A loop with dropout, BatchNorm, Adam, a scheduler and random numbers of its own."""

    def __init__(self, accumulate: int = 1) -> None:
        torch.manual_seed(1)
        random.seed(2)
        np.random.seed(3)
        self.model = Model()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 5, 0.95)
        self.mixing = np.random.default_rng(4)
        self.accumulate = accumulate
        self.seen = 0
        self.losses: list[float] = []

    def step(self, batch: Pair) -> None:
        x, y = batch
        x.mul_(1 + 0.01 * self.mixing.random() + 0.01 * random.random())
        loss = nn.functional.mse_loss(self.model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        self.seen += 1
        if self.seen % self.accumulate == 0:
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.scheduler.step()
        self.losses.append(loss.item())

    def state(self) -> list[torch.Tensor]:
        values = [v.detach().clone() for v in self.model.state_dict().values()]
        for state in self.optimizer.state.values():
            values += [v.clone() for v in state.values()]
        return values


def train(
    prof: profile, loader: Any, epochs: int = 1, accumulate: int = 1
) -> tuple[Training, list[float]]:
    """Train; returns also the losses of the extra iterations."""
    training = Training(accumulate)
    extra: list[float] = []
    for _ in range(epochs):
        for batch in prof.steps(loader):
            trying = prof.trying
            training.step(batch)
            if trying:
                extra.append(training.losses.pop())
            prof.log(loss=training.losses[-1] if training.losses else 0.0)
    return training, extra


def both(
    tmp_path: Path, make: Any, epochs: int = 1, accumulate: int = 1, **options: Any
) -> tuple[Profile, list[float]]:
    """Train with and without a trial; both must come to the same, bit for bit."""
    path = tmp_path / "profile.json"
    with profile(path, enabled=False) as prof:
        plain, _ = train(prof, make(), epochs, accumulate)
    options = {"operator_steps": 0, "warmup_steps": 0, "probe": True} | options
    with profile(path, **options) as prof:
        tried, extra = train(prof, make(), epochs, accumulate)

    assert tried.losses == plain.losses
    assert len(set(plain.losses)) > 0.9 * len(plain.losses)
    assert all(torch.equal(a, b) for a, b in zip(tried.state(), plain.state(), strict=True))
    recorded = load(path)
    assert_exclusive(recorded)
    logged = recorded.metrics["loss"].value
    assert logged == plain.losses[: len(logged)]
    return recorded, extra


# Nothing is changed -------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_the_losses_are_bit_identical(tmp_path: Path, workers: int) -> None:
    recorded, extra = both(
        tmp_path,
        lambda: DataLoader(Noisy(480), batch_size=4, shuffle=True, num_workers=workers),
        operator_steps=0,
    )

    ceilings = recorded.ceilings
    assert ceilings is not None
    assert len(extra) == EXTRA
    assert len(ceilings.model_step_ns) == 8
    assert len(ceilings.loader_batch_ns) >= 8
    assert min(ceilings.model_step_ns) > 0
    kept = sum(steps.total for steps in all_steps(recorded))
    # Out of the statistics: the step of the copy, the step after the trial, what was read ahead.
    assert 120 - kept == 2 if workers == 0 else 20 < 120 - kept < 40
    assert [mark.detail for mark in recorded.marks if mark.kind == "probe"] == (
        ["model", "loader"] if workers else ["model"]
    )


@pytest.mark.parametrize("accumulate", [3, 4])
def test_a_count_of_batches_stays_in_turn(tmp_path: Path, accumulate: int) -> None:
    _, extra = both(tmp_path, lambda: DataLoader(Noisy(240), batch_size=4), accumulate=accumulate)

    assert len(extra) == 12


def test_the_order_of_a_stream_is_kept_with_persistent_workers(tmp_path: Path) -> None:
    recorded, extra = both(
        tmp_path,
        lambda: DataLoader(PointStream(400), 4, num_workers=2, persistent_workers=True),
        epochs=2,
    )

    assert len(extra) == EXTRA
    assert recorded.ceilings is not None
    assert recorded.ceilings.loader_batch_ns


def test_short_epochs_are_tried_at_the_end_of_one(tmp_path: Path) -> None:
    recorded, extra = both(
        tmp_path, lambda: DataLoader(Noisy(100), 4, shuffle=True, num_workers=2), epochs=2
    )

    assert len(extra) == EXTRA
    assert recorded.ceilings is not None
    assert len(recorded.ceilings.model_step_ns) == 8


def test_the_end_of_an_epoch_ends_reading_ahead(tmp_path: Path) -> None:
    recorded, _ = both(
        tmp_path, lambda: DataLoader(Noisy(200), 4, shuffle=True, num_workers=2), epochs=3
    )

    assert recorded.ceilings is not None
    assert len(recorded.ceilings.loader_batch_ns) == 8
    marks = [mark for mark in recorded.marks if mark.detail == "loader"]
    assert len(marks) == 2  # ten batches were left in the first epoch


class DrawingSampler(Sampler[int]):
    """Draws every index from the global state, between the draws of the loop."""

    def __iter__(self) -> Iterator[int]:
        for _ in range(240):
            yield int(torch.randint(240, (1,)))

    def __len__(self) -> int:
        return 240


def test_a_sampler_that_draws_is_not_read_ahead(tmp_path: Path) -> None:
    recorded, _ = both(
        tmp_path,
        lambda: DataLoader(Noisy(240), 4, sampler=DrawingSampler(), num_workers=2),
    )

    assert recorded.ceilings is not None
    assert recorded.ceilings.loader_batch_ns == []
    assert any("draws from the global random state" in p for p in recorded.problems)


def test_other_iterables_are_not_read_ahead(tmp_path: Path) -> None:
    def batches() -> list[Pair]:
        return [(torch.rand(4, 4), torch.rand(4, 1)) for _ in range(60)]

    torch.manual_seed(7)
    kept = batches()
    recorded, extra = both(tmp_path, lambda: [(x.clone(), y) for x, y in kept])

    assert len(extra) == EXTRA
    assert recorded.ceilings is not None
    assert recorded.ceilings.loader_batch_ns == []
    assert any("list_iterator cannot be read ahead" in p for p in recorded.problems)


# Leaving in the middle ----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["break", "raise", "kept"])
def test_a_loop_that_is_left_in_a_trial_has_its_state_back(tmp_path: Path, how: str) -> None:
    training = Training()
    before: list[torch.Tensor] = []
    kept: list[Any] = []

    def loop(prof: profile) -> None:
        steps = iter(prof.steps(DataLoader(Noisy(240), 4)))
        if how == "kept":
            kept.append(steps)
        for batch in steps:
            if not prof.trying:
                before[:] = []
            elif not before:
                before.extend(training.state())
            elif len(training.losses) == 44:
                assert not all(map(torch.equal, before, training.state()))
                if how == "raise":
                    raise LookupError
                break
            training.step(batch)

    with profile(tmp_path / "p.json", warmup_steps=0, operator_steps=0, probe=True) as prof:
        try:
            loop(prof)
        except LookupError:
            assert how == "raise"
        if how != "kept":
            assert all(map(torch.equal, before, training.state()))
        assert prof.trying == (how == "kept")
    assert all(map(torch.equal, before, training.state()))
    assert load(tmp_path / "p.json").ceilings is None


class BrokenLate(Points):
    def __getitem__(self, index: int) -> Pair:
        if index == 4 * 50:
            raise LookupError("sample 200 is broken")
        return super().__getitem__(index)


def test_an_error_of_the_loader_comes_at_its_place(tmp_path: Path) -> None:
    seen: list[float] = []
    training = Training()

    def loop(prof: profile) -> None:
        for batch in prof.steps(DataLoader(BrokenLate(400), 4, num_workers=2)):
            if not prof.trying:
                seen.append(float(batch[0][0, 0]))
            training.step(batch)

    with (
        pytest.raises(LookupError, match="200"),
        profile(tmp_path / "p.json", warmup_steps=0, operator_steps=0, probe=True) as prof,
    ):
        loop(prof)

    assert seen == [pytest.approx(4 * i / 400) for i in range(50)]


def test_the_recording_may_be_full_right_after_the_trial(tmp_path: Path) -> None:
    recorded, extra = both(tmp_path, lambda: DataLoader(Noisy(480), 4, num_workers=2), max_steps=30)

    assert len(extra) == EXTRA
    assert recorded.steady.total == 30


# What cannot be tried -----------------------------------------------------------------------------


def test_what_cannot_be_kept_is_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "_memory_to_spare", lambda: 100.0)
    recorded, extra = both(tmp_path, lambda: DataLoader(Noisy(240), 4))

    assert extra == []
    assert recorded.ceilings is not None  # of the loader
    assert recorded.ceilings.model_step_ns == []
    assert any("the model alone was not tried: more than" in p for p in recorded.problems)


def test_errors_of_the_trial_stay_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ValueError("broken")

    monkeypatch.setattr(probing, "Snapshot", broken)
    monkeypatch.setattr(ReadAhead, "run", broken)
    recorded, extra = both(tmp_path, lambda: DataLoader(Noisy(240), 4, num_workers=2))

    assert extra == []
    assert recorded.ceilings is None
    assert sum("broken" in problem for problem in recorded.problems) == 2


def test_a_loop_that_is_too_short_or_hidden_is_said_to_be(tmp_path: Path) -> None:
    recorded, extra = both(tmp_path, lambda: DataLoader(Noisy(40), 4))
    assert extra == []
    assert any("takes 40 steady steps" in problem for problem in recorded.problems)

    path = tmp_path / "hidden.json"
    with profile(path, operator_steps=0, probe=True) as prof:
        for _ in DataLoader(Noisy(40), 4):
            prof.step()
    assert any("use `prof.steps(loader)`" in problem for problem in load(path).problems)


def test_nothing_is_tried_unless_asked_for(tmp_path: Path) -> None:
    recorded, extra = both(tmp_path, lambda: DataLoader(Noisy(240), 4), probe=False)

    assert extra == []
    assert recorded.ceilings is None


RANKS = """
    import os, sys, torch
    from datetime import timedelta
    from pathlib import Path
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset
    from stepscope.profiler import agreement, profile

    agreement.all_ranks_ready.__defaults__ = (timedelta(seconds=int(sys.argv[2])),)
    torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[1]}/store",
                                         rank=int(os.environ["RANK"]), world_size=2)
    rank = torch.distributed.get_rank()
    enabled = rank == 0 or sys.argv[3] == "both"
    torch.manual_seed(rank)
    model = nn.parallel.DistributedDataParallel(nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = TensorDataset(torch.rand(100, 4))
    extra = 0
    with profile(sys.argv[1] + "/p.json", enabled=enabled, probe=sys.argv[3] != "none",
                 warmup_steps=0, operator_steps=0) as prof:
        for (x,) in prof.steps(DataLoader(data, 2)):
            extra += prof.trying
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    print(rank, extra, model.module.weight.tolist())
    torch.distributed.destroy_process_group()
"""


def run_ranks(folder: Path, patience: int, who: str) -> list[str]:
    folder.mkdir()
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(RANKS), str(folder), str(patience), who],
            env={**__import__("os").environ, "RANK": str(rank), "WORLD_SIZE": "2"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    return [rank.communicate(timeout=120)[0].strip() for rank in ranks]


def test_ranks_try_together_or_not_at_all(tmp_path: Path) -> None:
    plain = run_ranks(tmp_path / "plain", 1, "none")
    together = run_ranks(tmp_path / "both", 30, "both")
    alone = run_ranks(tmp_path / "one", 1, "one")

    weights = [line.split(" ", 2)[2] for line in plain]
    assert [line.split(" ", 2)[1:] for line in together] == [["10", w] for w in weights]
    assert [line.split(" ", 2)[1:] for line in alone] == [["0", w] for w in weights]


# One at a time ------------------------------------------------------------------------------------


def test_fetches_are_compared_with_fetches_that_nobody_disturbs(tmp_path: Path) -> None:
    recorded, _ = both(tmp_path, lambda: DataLoader(SleepyPoints(360, 0.004), 4, num_workers=2))

    assert recorded.ceilings is not None
    solo = recorded.ceilings.solo
    assert solo is not None
    assert solo.batches >= 2
    assert solo.wall_ns >= 16 * MS
    assert solo.together_wall_ns >= 16 * MS
    assert solo.cpu_ns < solo.wall_ns / 2


def test_the_turnstile_lets_one_in_and_gives_up_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepscope.profiler.turnstile._PATIENCE_SECONDS", 0.05)
    main = Turnstile(tmp_path, make=True)
    one, other = Turnstile(tmp_path), Turnstile(tmp_path)
    entered: list[str] = []

    def inner(name: str) -> str:
        entered.append(name)
        return name

    def outer(name: str) -> str:
        begin = time.perf_counter()
        other.guard(inner)(f"{name} inside")
        entered.append("waited" if time.perf_counter() - begin >= 0.05 else "passed")
        return inner(name)

    one.guard(outer)("free")
    main.one_at_a_time(True)
    one.guard(outer)("held")
    main.one_at_a_time(False)
    one.guard(outer)("free")

    free = ["free inside", "passed", "free"]
    assert entered == [*free, "held inside", "waited", "held", *free]
    for each in (main, one, other):
        each.close()


def test_without_the_file_there_is_no_turnstile(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="one-at-a-time"):
        Turnstile(tmp_path)


def fetches(*rows: tuple[int, int]) -> Batches:
    return Batches(
        worker=[0 for _ in rows],
        start_ns=[start for start, _ in rows],
        wall_ns=[end - start for start, end in rows],
        cpu_ns=[1 for _ in rows],
        run_delay_ns=[0 for _ in rows],
    )


def test_solo_fetches_are_those_that_overlap_with_none() -> None:
    together = [(0, 40), (5, 45), (40, 80), (45, 99)]  # the last two go on after the switch
    solo = [(100, 110), (110, 122), (125, 137)]
    late = [(137, 160), (138, 150)]

    found = compare(fetches(*together, *solo, *late), 0, 60, 140)

    assert found is not None
    assert (found.batches, found.wall_ns, found.together_wall_ns) == (3, 11, 44)
    assert compare(fetches(*together, *solo[:1], *late), 0, 60, 140) is None


@pytest.mark.parametrize(
    ("workers", "prefetch", "limit", "expected"),
    [
        (1, 2, 256, Plan(3, 8, 0)),
        (2, 2, 256, Plan(6, 8, 8)),
        (8, 2, 256, Plan(24, 24, 32)),
        (2, 2, 15, Plan(6, 8, 0)),
        (2, 2, 11, Plan(6, 4, 0)),
        (2, 2, 7, Plan(0, 0, 0)),
        (2, 2, 0, Plan(0, 0, 0)),
    ],
)
def test_the_plan_fits_in_memory(workers: int, prefetch: int, limit: int, expected: Plan) -> None:
    assert plan(workers, prefetch, limit) == expected


class Large(Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.zeros(1 << 10)


def test_batches_that_are_too_large_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepscope.profiler.reading._MAX_BYTES", 5 << 12)
    path = tmp_path / "p.json"
    with profile(path, warmup_steps=0, operator_steps=0, probe=True) as prof:
        for _ in prof.steps(DataLoader(Large(), 1, num_workers=2)):
            pass

    recorded = load(path)
    assert recorded.ceilings is None or recorded.ceilings.loader_batch_ns == []
    assert any("too large to be kept" in problem for problem in recorded.problems)
