from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from loops import MS, Net, Pair, Points, all_steps, assert_exclusive, calls, record, spent
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, dataloader

from stepscope.profiler import profile
from stepscope.profiler.anchors import Leader
from stepscope.profiler.format import Profile
from stepscope.profiler.storage import load

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def count(recorded: Profile) -> int:
    return sum(steps.total for steps in all_steps(recorded))


def found(folder: Path, program: Callable[[], object], **options: int) -> Profile:
    """Profile a program that knows nothing of it."""
    return record(folder / "profile.json", lambda prof: program(), **options)


def batches(length: int = 40, workers: int = 0) -> DataLoader[Pair]:
    return DataLoader(Points(length), batch_size=4, num_workers=workers)


def loss_of(model: nn.Module, batch: Pair) -> torch.Tensor:
    return nn.functional.mse_loss(model(batch[0]), batch[1])


def backward(loss: torch.Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


def train(epochs: int = 1, accumulate: int = 1, length: int = 40, workers: int = 0) -> None:
    """A whole program: model, data and loop are made inside."""
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loader = batches(length, workers)
    for _ in range(epochs):
        for number, batch in enumerate(loader):
            backward(loss_of(model, batch))
            if number % accumulate == accumulate - 1:
                optimizer.step()
                optimizer.zero_grad()


# What ends a step ---------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_an_optimizer_step_ends_a_step(tmp_path: Path, workers: int) -> None:
    def body(prof: profile) -> None:
        with prof.phase("imports"):
            time.sleep(0.002)
        train(epochs=2, workers=workers)

    result = record(tmp_path / "profile.json", body)

    assert result.run.steps_by == "optimizer"
    assert count(result) == 20 - 1  # what ends with the first one began before it was known
    assert calls(result, "optimizer_steps") == 19
    assert result.problems == []
    assert_exclusive(result)
    for phase in ("forward", "backward", "optimizer", "data_wait"):
        assert all(sum(steps.phases[phase]) > 0 for steps in all_steps(result) if steps.total)
    assert spent(result, "imports") == 0  # the preparations are in no step


def test_accumulated_gradients_are_one_step(tmp_path: Path) -> None:
    result = found(tmp_path, lambda: train(accumulate=4, length=16 * 12))

    assert result.run.steps_by == "optimizer"
    assert count(result) == 12 - 1
    assert calls(result, "optimizer_steps") == 11


def test_each_of_many_optimizer_steps_per_batch_is_a_step(tmp_path: Path) -> None:
    def reinforce() -> None:
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for batch in batches(12):
            for _ in range(16):
                optimizer.zero_grad()
                backward(loss_of(model, batch))
                optimizer.step()

    result = found(tmp_path, reinforce)

    assert count(result) == 3 * 16 - 1


def test_the_second_optimizer_of_a_gan_ends_no_step(tmp_path: Path) -> None:
    def gan() -> None:
        players = [Net(), Net()]
        optimizers = [torch.optim.Adam(player.parameters()) for player in players]
        for batch in batches():
            for player, optimizer in zip(players, optimizers, strict=True):
                optimizer.zero_grad()
                backward(loss_of(player, batch))
                optimizer.step()

    result = found(tmp_path, gan)

    assert result.run.steps_by == "optimizer"
    assert count(result) == 9
    assert calls(result, "optimizer_steps") == 2 * 9


def test_the_next_optimizer_takes_over_from_one_that_is_gone(tmp_path: Path) -> None:
    def stages() -> None:
        train(length=24)
        train(length=40)

    result = found(tmp_path, stages)

    assert count(result) == 6 - 1 + 10


def test_a_closure_of_lbfgs_is_inside_its_step(tmp_path: Path) -> None:
    def fit() -> None:
        model = nn.Linear(4, 1)
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
        for batch in batches():

            def closure(batch: Pair = batch) -> torch.Tensor:
                optimizer.zero_grad()
                loss = loss_of(model, batch)
                backward(loss)
                return loss

            optimizer.step(closure)  # type: ignore[no-untyped-call]

    result = found(tmp_path, fit)

    assert result.run.steps_by == "optimizer"
    assert count(result) == 9
    assert_exclusive(result)


def test_an_optimizer_that_calls_another_ends_one_step(tmp_path: Path) -> None:
    class Outer(torch.optim.Optimizer):
        def __init__(self, inner: torch.optim.Optimizer) -> None:
            super().__init__(inner.param_groups, {})
            self.inner = inner

        def step(self, closure: object = None) -> None:  # type: ignore[override]
            self.inner.step()
            time.sleep(0.002)

    def fit() -> None:
        model = Net()
        optimizer = Outer(torch.optim.SGD(model.parameters(), lr=0.01))
        for batch in batches():
            backward(loss_of(model, batch))
            optimizer.step()

    result = found(tmp_path, fit)

    assert count(result) == 9
    assert spent(result, "optimizer") >= 9 * 2 * MS
    assert_exclusive(result)


def test_a_backward_pass_ends_a_step_where_the_update_is_by_hand(tmp_path: Path) -> None:
    def by_hand() -> None:
        model = Net()
        for batch in batches():
            backward(loss_of(model, batch))
            with torch.no_grad():
                for parameter in model.parameters():
                    assert parameter.grad is not None
                    parameter.sub_(0.01 * parameter.grad)
                    parameter.grad = None

    result = found(tmp_path, by_hand)

    assert result.run.steps_by == "backward"
    assert count(result) == 9
    assert spent(result, "backward") > 0
    assert spent(result, "after_backward") > 0
    assert_exclusive(result)


def test_a_backward_pass_inside_another_ends_no_step(tmp_path: Path) -> None:
    def checkpointed() -> None:
        model = Net()
        for batch in batches():
            x = batch[0].requires_grad_()
            backward(checkpoint(model, x, use_reentrant=True).sum())

    result = found(tmp_path, checkpointed)

    assert (result.run.steps_by, count(result)) == ("backward", 9)


def test_a_batch_begins_a_step_where_nothing_is_trained(tmp_path: Path) -> None:
    def predict() -> None:
        model = Net()
        loader = batches()
        for _ in range(2):
            for batch in loader:
                model(batch[0])
                time.sleep(0.001)

    result = found(tmp_path, predict)

    assert result.run.steps_by == "batch"
    assert count(result) == 2 * 10  # the ends of epochs are no batches
    assert spent(result, "python") + spent(result, "after_forward") >= 20 * MS
    assert spent(result, "data_wait") > 0
    assert_exclusive(result)


def test_two_loaders_read_in_turns_make_one_step(tmp_path: Path) -> None:
    def both() -> None:
        for _ in zip(batches(), batches(), strict=True):
            pass

    result = found(tmp_path, both)

    assert (result.run.steps_by, count(result)) == ("batch", 10)


def test_a_pass_over_the_data_before_training_is_dropped(tmp_path: Path) -> None:
    def main() -> None:
        for batch in DataLoader(Points(200), batch_size=2):
            batch[0].mean()
        train(length=80)

    result = found(tmp_path, main, operator_steps=2)

    assert result.run.steps_by == "optimizer"
    assert count(result) == 19 - (2 + 1)  # and the step of shapes
    assert result.window is not None
    assert result.window.first_step == 10  # not the one of the first pass
    assert result.configuration.batch_size == 4
    assert_exclusive(result)


# What ends none -----------------------------------------------------------------------------------


def validate(model: nn.Module) -> None:
    model.eval()
    with torch.no_grad():
        for batch in batches(80):
            loss_of(model, batch)
    model.train()


def test_batches_of_a_validation_are_no_steps(tmp_path: Path) -> None:
    def main() -> None:
        model = Net()
        for _ in range(3):
            for batch in batches(20):
                model(batch[0])
            validate(model)

    result = found(tmp_path, main)

    assert (result.run.steps_by, count(result)) == ("batch", 15)
    assert calls(result, "validations") == 2  # the last one comes after the last step


def test_a_validation_before_training_is_no_step(tmp_path: Path) -> None:
    def main() -> None:
        model = Net()
        validate(model)
        for batch in batches():
            model(batch[0])

    assert count(found(tmp_path, main)) == 10


def test_batches_in_a_phase_named_validation_are_no_steps(tmp_path: Path) -> None:
    def body(prof: profile) -> None:
        for _ in batches():
            pass
        with prof.phase("validation"):
            for _ in batches():
                pass

    assert count(record(tmp_path / "profile.json", body)) == 10


def test_one_event_alone_makes_no_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = found(tmp_path, lambda: backward(Net()(torch.ones(4)).sum()))

    assert count(result) == 0
    assert "no step was recorded" in capsys.readouterr().err
    assert "no two optimizer steps" in result.problems[0]


# The user's word ----------------------------------------------------------------------------------


def test_steps_of_the_user_replace_what_was_found(tmp_path: Path) -> None:
    def body(prof: profile) -> None:
        train(length=60)
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for batch in prof.steps(batches()):
            for _ in range(2):
                backward(loss_of(model, batch))
                optimizer.step()

    result = record(tmp_path / "profile.json", body)

    assert result.run.steps_by == "steps"
    assert count(result) == 10
    assert calls(result, "optimizer_steps") == 20
    assert_exclusive(result)


def test_step_takes_back_what_was_found_before_it(tmp_path: Path) -> None:
    def body(prof: profile) -> None:
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for number in range(5):
            for batch in batches(12):
                backward(loss_of(model, batch))
                optimizer.step()
            if number == 0:
                torch.save(model.state_dict(), tmp_path / "model.pt")
            prof.step()

    result = record(tmp_path / "profile.json", body)

    assert result.run.steps_by == "step"
    assert count(result) == 5
    assert result.steady.calls["optimizer_steps"] == [3] * 5
    assert [(mark.kind, mark.step) for mark in result.marks] == [("checkpoint", 0)]
    assert result.configuration.batch_size == 4
    assert_exclusive(result)


def test_automatic_steps_do_not_replace_the_users(tmp_path: Path) -> None:
    def body(prof: profile) -> None:
        for _ in prof.steps(batches()):
            pass
        train()

    result = record(tmp_path / "profile.json", body)

    assert (result.run.steps_by, count(result)) == ("steps", 10)


# Around it ----------------------------------------------------------------------------------------


def test_warm_up_and_window_count_the_steps_that_were_found(tmp_path: Path) -> None:
    result = found(tmp_path, lambda: train(length=160), warmup_steps=5, operator_steps=3)

    assert result.warmup.total == 5
    assert result.steady.total == 39 - 5 - (3 + 1)  # and the step of shapes
    assert result.window is not None
    assert (result.window.first_step, result.window.steps) == (15, 3)
    assert any("mm" in operator.name for operator in result.window.operators)
    assert_exclusive(result)


def test_recording_ends_after_so_many_steps(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    original = torch.autograd.backward
    with profile(path, operator_steps=0, warmup_steps=3, max_steps=5) as prof:
        train(length=80)
        assert not prof.recording
        assert torch.autograd.backward is original
        first = load(path)
        train(length=80)
    assert first.warmup.total == 3
    assert first.steady.total == 5
    assert first.run.ended == "completed"
    assert load(path) == first


def test_the_users_steps_end_after_so_many_too(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    with profile(path, operator_steps=0, warmup_steps=0, max_steps=4) as prof:
        assert len(list(prof.steps(batches()))) == 10
        assert load(path).steady.total == 4
        for _ in range(3):
            prof.step()
    assert load(path).steady.total == 4


def test_nothing_stays_hooked(tmp_path: Path) -> None:
    hooks = sys.modules["torch.optim.optimizer"]  # `torch.optim` hides it behind a class

    def state() -> list[object]:
        return [
            torch.autograd.backward,
            dataloader._BaseDataLoaderIter.__next__,
            *(dict(getattr(hooks, f"_global_optimizer_{when}_hooks")) for when in ("pre", "post")),
        ]

    before = state()
    found(tmp_path, train)
    assert state() == before


def test_an_error_of_ours_ends_the_recording_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(recorder: object) -> None:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr("stepscope.profiler.recorder.Recorder.discard", broken)
    result = found(tmp_path, train)
    assert "a mistake of ours" in result.problems[0]


class Turn:
    """Something that can be weakly referenced."""


def test_another_leads_after_many_turns_without_the_first() -> None:
    leader = Leader()
    first, second = Turn(), Turn()
    leader.comes(first)
    for _ in range(29):
        leader.comes(second)
    assert leader.leads(first)
    leader.comes(first)
    for _ in range(30):
        leader.comes(second)
    assert leader.leads(second)


def test_what_cannot_be_weakly_referenced_can_lead() -> None:
    leader = Leader()
    sampler = [[1, 2]]
    leader.comes(sampler)
    assert leader.leads(sampler)
    assert not leader.leads([[1, 2]])


def test_batches_that_a_resumed_run_skips_are_no_steps(tmp_path: Path) -> None:
    def body(prof: profile) -> None:
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for number, batch in enumerate(prof.steps(batches(60))):
            if number < 7:
                continue
            backward(loss_of(model, batch))
            optimizer.step()

    result = record(tmp_path / "profile.json", body)

    assert result.run.steps_by == "steps"
    assert count(result) == 15 - 7
    assert all(n == 1 for steps in all_steps(result) for n in steps.calls["optimizer_steps"])
