"""Runs one loop of the corpus the way another tool's documentation wants it; see `peers.py`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from itertools import count, repeat
from pathlib import Path
from typing import Any, cast

import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from ground_truth.corpus import LOOPS, Loop

Running = Generator[None, None, None]


def started(loop: Loop) -> closing[Running]:
    """The loop as planted; leaving the context ends its processes and threads."""
    return closing(cast(Running, loop.program(1.0)))


def least_steps(loop: Loop) -> int:
    """What a tool gets to see at least: 50 steps (train-doctor's default), two periods."""
    return max(50, 2 * loop.period)


def drive(loop: Loop, step: Callable[[], object], seconds: float, patience: float = 4.0) -> None:
    """Call `step` for `seconds` and, up to `patience` times as long, for `least_steps`.

    The clock starts after one more step, which may have to start workers.
    """
    least = least_steps(loop)
    step()
    start, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < seconds or (
        done < least and spent < patience * seconds
    ):
        step()
        done += 1
    print(f"{done} steps in {spent:.1f} s")


def has_optimizer(loop: Loop) -> bool:
    """Whether `Optimizer.step` ends a step, as the tools assume unless told otherwise."""
    seen: list[object] = []
    handle = register_optimizer_step_post_hook(lambda *_: seen.append(None))
    try:
        with started(loop) as program:
            next(program)
    finally:
        handle.remove()
    return bool(seen)


class MarkedSteps:
    """Puts a context around the body of `for batch in loader`, as the documentations show it.

    It opens when the batch has arrived and closes at the end of the step; without a DataLoader it
    lasts from yield to yield, and one of `no_batches` is taken before. The first step goes
    unmarked, to find the model and whether there is a DataLoader.
    """

    def __init__(
        self,
        program: Running,
        mark: Callable[[torch.nn.Module], AbstractContextManager[object]],
        no_batches: Iterable[None] = repeat(None),
    ) -> None:
        self.program = program
        self.mark = mark
        self.no_batches = iter(no_batches)
        self.model: torch.nn.Module | None = None
        self.fetches = False
        self.opened = ExitStack()
        self.within = False
        fetch = DataLoader.__iter__

        def handing_over(loader: DataLoader[Any]) -> Iterator[Any]:
            for batch in fetch(loader):
                self.fetches |= self.model is None
                self._begin()
                yield batch

        DataLoader.__iter__ = handing_over  # type: ignore[method-assign, assignment]

    def __call__(self) -> None:
        """One step."""
        if self.model is None:
            with self._looking_for_model():
                next(self.program)
            return
        if not self.fetches:
            next(self.no_batches)
            self._begin()
        next(self.program)
        self.opened.close()
        self.within = False

    def _begin(self) -> None:
        if self.model is not None and not self.within:  # else a further batch of the same step
            self.within = True
            self.opened.enter_context(self.mark(self.model))

    @contextmanager
    def _looking_for_model(self) -> Iterator[None]:
        """The outermost module with trained parameters that is called first is the model."""
        found: list[torch.nn.Module] = []

        def called(module: torch.nn.Module, _: Any) -> None:
            if not found and any(p.requires_grad for p in module.parameters()):
                found.append(module)

        handle = register_module_forward_pre_hook(called)
        try:
            yield
        finally:
            handle.remove()
        self.model = found[0] if found else torch.nn.Identity()


def traceml(loop: Loop, seconds: float, _: Path) -> None:
    """Under `traceml run`: `init()` patches torch, `trace_step` marks the steps.

    A loop without a DataLoader gets a wrapped iterator to wait for: without that signal TraceML
    gives no diagnosis at all.
    """
    import traceml_ai  # noqa: PLC0415 - installed only for this tool

    traceml_ai.init(mode="auto")
    with started(loop) as program:
        no_batches = traceml_ai.wrap_dataloader_fetch(repeat(None))
        drive(loop, MarkedSteps(program, traceml_ai.trace_step, no_batches), seconds)


def gpuprof(loop: Loop, seconds: float, folder: Path) -> None:
    """In `profile()`, which patches model, backward and optimizer; its manual steps without one."""
    from gpuprof import profile  # noqa: PLC0415 - installed only for this tool

    automatic, number = has_optimizer(loop), count()
    with (
        profile(loop.name, auto=automatic, db_path=str(folder / "gpuprof.db")) as profiler,
        started(loop) as program,
    ):
        if automatic:
            drive(loop, lambda: next(program), seconds)
        else:
            drive(loop, MarkedSteps(program, lambda _: profiler.step(next(number))), seconds)


def train_doctor(loop: Loop, seconds: float, _: Path) -> None:
    """Under `train-doctor profile`, which patches torch; with its marker if without optimizer."""
    from train_doctor import step  # noqa: PLC0415 - installed only for this tool

    automatic = has_optimizer(loop)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with started(loop) as program:

        def advance() -> None:
            next(program)
            if not automatic:
                step(device=device)

        drive(loop, advance, seconds)


TOOLS = {"traceml": traceml, "gpuprof": gpuprof, "train-doctor": train_doctor}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tool", choices=TOOLS)
    parser.add_argument("loop", choices=LOOPS)
    parser.add_argument("seconds", type=float)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    TOOLS[args.tool](LOOPS[args.loop], args.seconds, args.folder)
