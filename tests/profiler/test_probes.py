from __future__ import annotations

import builtins
import copy
import functools
import gc
import io
import logging
import os
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from loops import (
    MS,
    Net,
    Points,
    all_steps,
    assert_exclusive,
    calls,
    record,
    run_steps,
    spent,
)
from torch import nn
from torch.optim import optimizer as optimizers
from torch.utils.data import DataLoader, dataloader

from stepscope.profiler import profile
from stepscope.profiler.patches import Patches
from stepscope.profiler.probes import garbage


class SlowNet(nn.Module):
    """Sleeps in forward and in backward."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.01)
        result: torch.Tensor = SlowBackward.apply(self.layer(x))  # type: ignore[no-untyped-call]
        return result


class SlowBackward(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(context: Any, *gradients: Any) -> Any:
        time.sleep(0.02)
        return gradients[0]


def backward(loss: torch.Tensor) -> None:
    loss.sum().backward()  # type: ignore[no-untyped-call]


# What is timed ------------------------------------------------------------------------------------


def test_the_stages_of_a_step_are_told_apart(tmp_path: Path) -> None:
    model = SlowNet()
    optimizer = torch.optim.Adam(model.parameters(), foreach=False)

    def step() -> None:
        optimizer.zero_grad()
        backward(model(torch.ones(2, 4)))
        optimizer.step()
        time.sleep(0.005)

    result = record(tmp_path / "profile.json", lambda prof: run_steps(prof, step, 4))

    assert_exclusive(result)
    assert spent(result, "forward") >= 4 * 10 * MS
    assert spent(result, "backward") >= 4 * 20 * MS
    assert spent(result, "optimizer") > 0
    assert spent(result, "python") >= 4 * 5 * MS
    assert calls(result, "optimizer_steps") == 4
    (described,) = result.configuration.models
    assert (described.class_name, described.parameters, described.parameter_bytes) == (
        "SlowNet",
        5,
        20,
    )
    assert described.modules == {"SlowNet": 1, "Linear": 1}
    (found,) = result.configuration.optimizers
    assert (found.class_name, found.parameters, found.tensors) == ("Adam", 5, 2)
    assert found.state_tensors_per_parameter == 2
    assert found.foreach is False


def test_autograd_grad_is_backward(tmp_path: Path) -> None:
    model = SlowNet()

    def step() -> None:
        torch.autograd.grad(model(torch.ones(2, 4)).sum(), list(model.parameters()))

    result = record(tmp_path / "profile.json", lambda prof: run_steps(prof, step))
    assert spent(result, "backward") >= 3 * 20 * MS


def test_a_loss_module_is_forward(tmp_path: Path) -> None:
    class SlowLoss(nn.modules.loss._Loss):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            time.sleep(0.01)
            return x.sum()

    loss = SlowLoss()
    result = record(
        tmp_path / "profile.json", lambda prof: run_steps(prof, lambda: loss(torch.ones(2)))
    )
    assert spent(result, "forward") >= 3 * 10 * MS
    assert result.configuration.models == []


def test_a_model_that_is_built_late_is_found(tmp_path: Path) -> None:
    def body(prof: profile) -> None:
        prof.step()
        model = SlowNet()
        prof.step()
        run_steps(prof, lambda: model(torch.ones(2, 4)), 2)

    result = record(tmp_path / "profile.json", body)
    assert spent(result, "forward") >= 2 * 10 * MS
    assert [model.class_name for model in result.configuration.models] == ["SlowNet"]


def test_a_lazy_model_is_timed_before_it_has_shapes(tmp_path: Path) -> None:
    class LazyNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.LazyLinear(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            time.sleep(0.005)
            result: torch.Tensor = self.layer(x)
            return result

    model = LazyNet()
    result = record(
        tmp_path / "profile.json", lambda prof: run_steps(prof, lambda: model(torch.ones(2, 4)))
    )
    assert spent(result, "forward") >= 3 * 5 * MS
    assert result.problems == []


def test_the_closure_of_lbfgs_is_told_apart_from_the_optimizer(tmp_path: Path) -> None:
    model = SlowNet()
    optimizer: Any = torch.optim.LBFGS(model.parameters(), max_iter=3)
    evaluations = 0

    def closure() -> Any:
        nonlocal evaluations
        evaluations += 1
        optimizer.zero_grad()
        loss = model(torch.ones(2, 4)).pow(2).sum()
        backward(loss)
        return loss

    result = record(
        tmp_path / "profile.json",
        lambda prof: run_steps(prof, lambda: optimizer.step(closure), 2),
    )
    assert evaluations >= 2
    assert_exclusive(result)
    assert spent(result, "forward") >= evaluations * 10 * MS
    assert spent(result, "backward") >= evaluations * 20 * MS
    assert spent(result, "optimizer") > 0
    assert calls(result, "optimizer_steps") == 2


def test_an_optimizer_that_raises_does_not_keep_the_clock(tmp_path: Path) -> None:
    model = Net()
    optimizer: Any = torch.optim.LBFGS(model.parameters())

    def failing() -> torch.Tensor:
        raise FloatingPointError("no loss")

    def step() -> None:
        with pytest.raises(FloatingPointError, match="no loss"):
            optimizer.step(failing)

    def body(prof: profile) -> None:
        run_steps(prof, step, 1)
        run_steps(prof, lambda: time.sleep(0.02), 2)

    result = record(tmp_path / "profile.json", body)
    assert_exclusive(result)
    assert result.steady.phases["optimizer"][1:] == [0, 0]
    assert all(python >= 20 * MS for python in result.steady.phases["python"][1:])


def test_an_optimizer_of_an_unusual_kind_is_left_alone(tmp_path: Path) -> None:
    class Unusual(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            for group in self.param_groups:
                for parameter in group["params"]:
                    self.state[parameter] = [0]

    optimizer = Unusual(Net().parameters(), lr=0.1)
    result = record(tmp_path / "profile.json", lambda prof: run_steps(prof, optimizer.step))

    assert calls(result, "optimizer_steps") == 3
    assert result.configuration.optimizers == []
    assert [problem.partition(":")[0] for problem in result.problems] == [
        "a Unusual is not described"
    ]


def test_checkpoints_are_marked(tmp_path: Path) -> None:
    class SlowFile(io.BytesIO):
        def write(self, content: Any) -> int:
            time.sleep(0.01)
            return super().write(content)

    result = record(
        tmp_path / "profile.json",
        lambda prof: run_steps(prof, lambda: torch.save({"a": torch.ones(3)}, SlowFile())),
    )
    assert spent(result, "checkpoint") >= 3 * 10 * MS
    assert calls(result, "checkpoints") == 3
    assert [(mark.kind, mark.step) for mark in result.marks] == [
        ("checkpoint", 0),
        ("checkpoint", 1),
        ("checkpoint", 2),
    ]
    assert all(mark.duration_ns >= 10 * MS for mark in result.marks)
    assert_exclusive(result)


def test_collections_of_garbage_are_counted(tmp_path: Path) -> None:
    def body(prof: profile) -> None:
        gc.disable()
        try:
            run_steps(prof, gc.collect)
        finally:
            gc.enable()

    result = record(tmp_path / "profile.json", body)
    assert calls(result, "collections") == 3
    assert spent(result, "gc") > 0
    assert_exclusive(result)


def test_lines_written_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class SlowHandler(logging.Handler):
        def emit(self, entry: logging.LogRecord) -> None:
            time.sleep(0.01)

    logger = logging.Logger("a loop", logging.INFO)
    logger.addHandler(SlowHandler())

    def step() -> None:
        logger.info("a line")
        logger.debug("not written")
        print("loss")

    result = record(tmp_path / "profile.json", lambda prof: run_steps(prof, step))
    assert spent(result, "logging") >= 3 * 10 * MS
    assert calls(result, "log_calls") == 6
    assert capsys.readouterr().out == "loss\n" * 3


# Validation ---------------------------------------------------------------------------------------


def validate(model: nn.Module) -> None:
    """Evaluate over a loader, which takes at least 20 ms."""
    with torch.no_grad():
        for x, _ in DataLoader(Points(8), batch_size=4):
            model(x)
            time.sleep(0.01)


def test_eval_to_train_is_validation(tmp_path: Path) -> None:
    model = Net()

    def body(prof: profile) -> None:
        for number, (x, _) in enumerate(prof.steps(DataLoader(Points(16), batch_size=4))):
            backward(model(x))
            if number == 1:
                model.eval()
                validate(model)
                model.train()
                time.sleep(0.01)

    result = record(tmp_path / "profile.json", body)
    (steps,) = [steps for steps in all_steps(result) if steps.total]
    assert steps.calls["validations"] == [0, 1, 0, 0]
    assert steps.phases["validation"][1] >= 20 * MS
    assert steps.phases["python"][1] >= 10 * MS
    assert [steps.phases["validation"][row] for row in (0, 2, 3)] == [0, 0, 0]
    assert [loader.training for loader in result.loaders] == [True, False]
    assert_exclusive(result)


def test_validation_without_train_ends_with_the_next_batch(tmp_path: Path) -> None:
    model = Net()

    def body(prof: profile) -> None:
        for _ in range(2):
            for x, _ in prof.steps(DataLoader(Points(8), batch_size=4)):
                model(x)
            model.eval()
            validate(model)

    result = record(tmp_path / "profile.json", body)
    # The validation after the first epoch stands before the third step, the last one in none.
    (steps,) = [steps for steps in all_steps(result) if steps.total]
    assert [value >= 20 * MS for value in steps.phases["validation"]] == [False, False, True, False]
    assert steps.phases["data_wait"][2] > 0
    assert_exclusive(result)


def test_freezing_a_part_is_no_validation(tmp_path: Path) -> None:
    model = Net()

    def step() -> None:
        model.inner.eval()
        backward(model(torch.ones(2, 4)))
        time.sleep(0.01)
        model.train()

    result = record(tmp_path / "profile.json", lambda prof: run_steps(prof, step))
    assert spent(result, "after_backward") >= 3 * 10 * MS
    assert spent(result, "backward") > 0


def test_a_phase_named_validation_counts_as_one(tmp_path: Path) -> None:
    model = Net()

    def body(prof: profile) -> None:
        for _ in range(2):
            with prof.phase("validation"):
                model.eval()
                validate(model)
                model.train()
                time.sleep(0.005)
            prof.step()

    result = record(tmp_path / "profile.json", body)
    assert calls(result, "validations") == 2
    assert spent(result, "validation") >= 2 * 20 * MS
    assert spent(result, "data_wait") == 0
    assert [mark.kind for mark in result.marks] == ["validation", "validation"]
    assert_exclusive(result)


# Nothing is left behind, nothing is harmed --------------------------------------------------------


def watched() -> dict[str, object]:
    """Everything the probes replace, as it is now."""
    multi = dataloader._MultiProcessingDataLoaderIter
    single = dataloader._SingleProcessDataLoaderIter
    return {
        "torch.save": torch.save,
        "serialization.save": torch.serialization.save,
        "print": builtins.print,
        "callHandlers": vars(logging.Logger)["callHandlers"],
        "train": vars(nn.Module)["train"],
        "__call__": vars(nn.Module)["__call__"],
        "backward": torch.autograd.backward,
        "grad": torch.autograd.grad,
        "zero_grad": vars(torch.optim.Optimizer)["zero_grad"],
        "multi init": vars(multi)["__init__"],
        "multi reset": vars(multi)["_reset"],
        "single init": vars(single)["__init__"],
        "next": vars(dataloader._BaseDataLoaderIter)["__next__"],
        "worker loop": torch.utils.data._utils.worker._worker_loop,
        "to": vars(torch.Tensor).get("to"),
        "item": vars(torch.Tensor).get("item"),
        "truth": vars(torch.Tensor).get("__bool__"),
        "text": torch._tensor_str._str,
        "state": vars(nn.Module)["state_dict"],
        "files": [os.fsync, os.replace, os.rename, shutil.copyfile],
        "collect": gc.collect,
        "compilation": [torch.jit.trace, torch.jit.script],
        "synchronize": torch.cuda.synchronize,
        "classes": ["__call__" in vars(kind) for kind in (Net, nn.Linear, nn.MSELoss)],
        "gc": list(gc.callbacks),
        "pre hooks": list(optimizers._global_optimizer_pre_hooks),
        "post hooks": list(optimizers._global_optimizer_post_hooks),
    }


@pytest.mark.parametrize("ending", ["completed", "exception"])
def test_everything_is_put_back(tmp_path: Path, ending: str) -> None:
    model, lonely, loss = Net(), nn.Linear(2, 2), nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = watched()
    inside: dict[str, object] = {}

    def body(prof: profile) -> None:
        inside.update(watched())
        for x, y in prof.steps(DataLoader(Points(8), batch_size=4, num_workers=1)):
            optimizer.zero_grad()
            backward(loss(model(x), y))
            optimizer.step()
            lonely(torch.ones(2))
        if ending == "exception":
            raise ZeroDivisionError("the loop")

    if ending == "exception":
        with pytest.raises(ZeroDivisionError, match="the loop"):
            record(tmp_path / "profile.json", body)
    else:
        assert record(tmp_path / "profile.json", body).problems == []

    after = watched()
    assert after.keys() == before.keys()
    for name, value in before.items():
        assert after[name] is value or after[name] == value, name
    assert "__call__" not in vars(Net)
    unchanged = {name for name, value in inside.items() if value is before[name]}
    assert unchanged <= {"worker loop", "__call__", "to", "synchronize"}
    assert inside["classes"] == [True, True, True]


def test_somebody_elses_patch_on_top_of_ours_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "save", torch.save)  # puts the original back in the end
    monkeypatch.setattr(torch.autograd, "backward", torch.autograd.backward)
    seen: list[str] = []

    def wrap(name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def theirs(*args: Any, **kwargs: Any) -> Any:
            seen.append(name)
            return inner(*args, **kwargs)

        return theirs

    theirs: list[Any] = []

    def body(prof: profile) -> None:
        theirs.extend([wrap("save", torch.save), wrap("backward", torch.autograd.backward)])
        torch.save, torch.autograd.backward = theirs
        run_steps(prof, lambda: torch.save(1, io.BytesIO()))

    result = record(tmp_path / "profile.json", body)
    assert calls(result, "checkpoints") == 3
    assert [torch.save, torch.autograd.backward] == theirs

    torch.save(2, io.BytesIO())  # ours is still below theirs, and passes through
    x = torch.ones(2, requires_grad=True)
    backward(x)
    assert x.grad is not None
    assert seen == ["save"] * 4 + ["backward"]


def test_patches_are_undone_last_first() -> None:
    class Owner:
        def method(self) -> str:
            return "original"

    class Child(Owner):
        pass

    def prefixed(name: str, inner: Callable[..., str]) -> Callable[..., str]:
        return lambda self: name + inner(self)

    original = vars(Owner)["method"]
    patches = Patches()
    for owner, name in ((Owner, "a"), (Owner, "b"), (Child, "c")):
        patches.replace(owner, "method", functools.partial(prefixed, name))
    assert Child().method() == "cbaoriginal"
    patches.close()
    assert vars(Owner)["method"] is original
    assert "method" not in vars(Child)
    assert Child().method() == "original"


def test_models_are_copied_and_pickled_unharmed(tmp_path: Path) -> None:
    model = Net().eval()
    x = torch.ones(2, 4)
    expected = model(x)
    pickled: list[bytes] = []
    saved = io.BytesIO()

    def body(prof: profile) -> None:
        model(x)
        prof.step()
        pickled.append(pickle.dumps(model))
        torch.save(model, saved)
        assert torch.equal(copy.deepcopy(model)(x), expected)
        assert torch.equal(pickle.loads(pickled[0])(x), expected)

    record(tmp_path / "profile.json", body)
    assert b"stepscope" not in pickled[0]
    assert b"stepscope" not in saved.getvalue()
    assert torch.equal(pickle.loads(pickled[0])(x), expected)
    saved.seek(0)
    assert torch.equal(torch.load(saved, weights_only=False)(x), expected)


def test_places_where_the_compiler_goes_back_to_python_are_counted(tmp_path: Path) -> None:
    @torch.compile(backend="eager")
    def whole(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    @torch.compile(backend="eager")
    def in_two_parts(x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        torch._dynamo.graph_break()
        return y + 1

    def breaks(function: Callable[[torch.Tensor], torch.Tensor]) -> int | None:
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        path = tmp_path / "profile.json"
        result = record(path, lambda prof: run_steps(prof, lambda: function(torch.ones(2))))
        return result.configuration.graph_breaks

    assert breaks(torch.neg) is None
    assert breaks(whole) == 0
    assert breaks(in_two_parts) == 1
    torch._dynamo.reset()


def test_a_compiled_model_gives_the_same_result(tmp_path: Path) -> None:
    model = Net().eval()
    x = torch.ones(2, 4)
    expected = model(x)
    before = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.equal(before(x), expected)
    results: list[torch.Tensor] = []

    def body(prof: profile) -> None:
        within = torch.compile(model, backend="eager", fullgraph=True)

        @torch.compile(backend="eager", fullgraph=True)
        def function(value: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = model(value) + 0
            return result

        def step() -> None:
            results.extend([before(x), within(x), function(x)])

        run_steps(prof, step)

    result = record(tmp_path / "profile.json", body)
    torch._dynamo.reset()
    assert len(results) == 9
    assert all(torch.equal(found, expected) for found in results)
    assert spent(result, "forward") > 0
    assert any(model.compiled for model in result.configuration.models)
    assert "__call__" not in vars(Net)


def test_tracing_with_fx_gives_the_same_graph(tmp_path: Path) -> None:
    lonely = nn.Linear(4, 4)  # makes Linear a timed class
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    graphs: list[str] = []

    def body(prof: profile) -> None:
        lonely(torch.ones(4))
        graphs.append(str(torch.fx.symbolic_trace(model).graph))
        prof.step()

    expected = str(torch.fx.symbolic_trace(model).graph)
    record(tmp_path / "profile.json", body)
    assert graphs == [expected]


def test_a_probe_that_cannot_start_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no such hook")

    monkeypatch.setattr(garbage, "install", fail)
    model = SlowNet()
    result = record(
        tmp_path / "profile.json", lambda prof: run_steps(prof, lambda: model(torch.ones(2, 4)))
    )
    assert result.problems == ["probe garbage could not start: RuntimeError('no such hook')"]
    assert spent(result, "forward") >= 3 * 10 * MS


# A real device ----------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_real_device_is_watched(tmp_path: Path) -> None:
    def step() -> None:
        torch.ones(1000).to("cuda").sum().item()

    result = record(tmp_path / "profile.json", lambda prof: run_steps(prof, step))
    assert calls(result, "transfers") == 3
    assert calls(result, "syncs") == 3
    assert_exclusive(result)
