"""Updates that a loop makes by hand, after a backward pass."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from loops import MS, Net, Points, all_steps, assert_exclusive, record, run_steps, spent
from torch.utils.data import DataLoader

from stepscope.profiler import profile
from stepscope.profiler.recorder import Recorder


def test_the_update_ends_where_something_else_begins() -> None:
    recorder = Recorder(0)
    backward, forward, logging = map(recorder.phase, ("backward", "forward", "logging"))
    for ending in (forward, recorder.wait):
        recorder.leave(recorder.enter(backward))
        recorder.begin_update()
        assert recorder.current == recorder.after_backward
        assert recorder.idle
        recorder.leave(recorder.enter(logging))
        assert recorder.current == recorder.after_backward
        recorder.leave(recorder.enter(backward))
        assert recorder.current == recorder.after_backward
        recorder.leave(recorder.enter(ending))
        assert recorder.current == recorder.python
    recorder.begin_update()
    recorder.end_step()
    assert recorder.current == recorder.python
    recorder.close()


def test_a_backward_pass_inside_something_else_begins_no_update() -> None:
    recorder = Recorder(0)
    outer = recorder.enter(recorder.phase("optimizer"))
    recorder.begin_update()
    assert recorder.current == recorder.phase("optimizer")
    recorder.leave(outer)
    recorder.close()


def test_the_loss_ends_where_something_else_begins() -> None:
    recorder = Recorder(0)
    forward, backward, sync = map(recorder.phase, ("forward", "backward", "sync"))
    for ending in (backward, recorder.wait):
        recorder.leave(recorder.enter(forward))
        recorder.begin_loss()
        assert recorder.current == recorder.after_forward
        assert recorder.idle
        recorder.leave(recorder.enter(sync))
        recorder.leave(recorder.enter(forward))
        assert recorder.current == recorder.after_forward
        recorder.leave(recorder.enter(ending))
        assert recorder.current == recorder.python
    recorder.begin_loss()
    recorder.end_step()
    assert recorder.current == recorder.python
    recorder.close()


def test_a_loss_that_is_a_function_has_a_phase(tmp_path: Path) -> None:
    model = Net()

    def step() -> None:
        with torch.no_grad():
            model(torch.ones(2, 4))
        time.sleep(0.005)
        scores = model(torch.ones(2, 4))
        time.sleep(0.01)
        scores.sum().backward()

    result = record(tmp_path / "profile.json", lambda prof: run_steps(prof, step))
    assert spent(result, "after_forward") >= 3 * 10 * MS
    assert spent(result, "python") >= 3 * 5 * MS
    assert_exclusive(result)


def test_the_way_into_an_optimizer_is_part_of_it(tmp_path: Path) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters())

    def step() -> None:
        model(torch.ones(2, 4)).sum().backward()
        time.sleep(0.01)
        optimizer.step()

    result = record(tmp_path / "profile.json", lambda prof: run_steps(prof, step))
    assert spent(result, "optimizer") >= 3 * 200_000
    assert spent(result, "after_backward") >= 3 * (10 * MS - 200_000)
    assert_exclusive(result)


def test_an_update_by_hand_has_a_name(tmp_path: Path) -> None:
    model = Net()

    def body(prof: profile) -> None:
        for x, y in prof.steps(DataLoader(Points(12), batch_size=4)):
            torch.nn.functional.mse_loss(model(x), y).backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                for parameter in model.parameters():
                    assert parameter.grad is not None
                    parameter.sub_(0.1 * parameter.grad)
                    parameter.grad = None
            time.sleep(0.01)

    result = record(tmp_path / "profile.json", body)
    assert spent(result, "after_backward") >= 3 * 10 * MS
    assert spent(result, "python") < 3 * 10 * MS
    assert_exclusive(result)


def test_where_steps_are_found_by_the_backward_pass_the_update_is_named_too(
    tmp_path: Path,
) -> None:
    model = Net()

    def body(prof: profile) -> None:
        for _ in range(8):
            model(torch.ones(2, 4)).sum().backward()
            time.sleep(0.01)

    result = record(tmp_path / "profile.json", body)
    assert result.run.steps_by == "backward"
    assert spent(result, "after_backward") >= 5 * 10 * MS
    assert_exclusive(result)


def test_validation_after_a_backward_pass_is_validation(tmp_path: Path) -> None:
    model = Net()

    def step() -> None:
        model(torch.ones(2, 4)).sum().backward()
        model.eval()
        time.sleep(0.01)
        model.train()
        time.sleep(0.005)

    result = record(tmp_path / "profile.json", lambda prof: run_steps(prof, step))
    assert spent(result, "validation") >= 3 * 10 * MS
    assert spent(result, "python") >= 3 * 5 * MS
    assert sum(steps.total for steps in all_steps(result)) == 3
    assert_exclusive(result)
