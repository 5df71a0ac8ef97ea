"""Loops that are held back by what stands beside the training in them."""

from __future__ import annotations

import gc
import logging
import os
import random
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from ground_truth.loop import planted
from ground_truth.parts import Vectors, batches_of, mlp, sgd, train_step


def steps(model: nn.Module | None = None) -> Iterator[Tensor]:
    """Usual training steps with nothing wrong; each gives its samples' losses."""
    model = model or mlp()
    optimizer = sgd(model)
    for batch in batches_of(Vectors(), workers=1):
        yield train_step(model, optimizer, batch)


@planted("host.sync")
def item_calls(severity: float) -> Iterator[None]:
    """Asks for the value of every sample's loss, many times over."""
    total = 0.0
    for losses in steps():
        each = losses.unbind()
        for _ in range(round(250 * severity)):
            for loss in each:
                total += loss.item()
        yield


class SyncedHandler(logging.FileHandler):
    """Every line is on the disk before the program goes on."""

    def flush(self) -> None:
        super().flush()
        if self.stream is not None:
            os.fsync(self.stream.fileno())


@planted("host.logging")
def logging_fsync(severity: float) -> Iterator[None]:
    """A log that is made safe line by line."""
    logger = logging.getLogger("ground_truth.logging_fsync")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    with TemporaryDirectory() as log_folder:
        handler = SyncedHandler(Path(log_folder, "training.log"))
        logger.addHandler(handler)
        try:
            for losses in steps():
                for number, loss in enumerate(losses[: round(24 * severity)].tolist()):
                    logger.info("sample %d loss %.4f", number, loss)
                yield
        finally:
            logger.removeHandler(handler)
            handler.close()


# Printing a tensor asks for its numbers one by one, so that it may count as waiting for them.
@planted("host.logging", accepted=("host.sync",))
def print_tensor(severity: float) -> Iterator[None]:
    """Prints tensors in every step."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        for losses in steps():
            for number in range(round(6 * severity)):
                print("losses", number, losses, file=nowhere)
            yield


@planted("host.checkpoint", period=5)
def checkpoints(severity: float) -> Iterator[None]:
    """Saves 40 MB after every fifth step."""
    state = [torch.zeros(1 << 18) for _ in range(round(40 * severity))]
    with TemporaryDirectory() as checkpoint_folder:
        for number, _ in enumerate(steps(), start=1):
            if number % 5 == 0 and state:
                torch.save(state, Path(checkpoint_folder, "checkpoint.pt"))
            yield


@planted("host.validation", period=10)
def validation(severity: float) -> Iterator[None]:
    """Validates after every tenth step, longer than it trains."""
    model = mlp()
    chance = torch.Generator().manual_seed(2)
    x = torch.randn(round(3000 * severity), 256, generator=chance)
    for number, _ in enumerate(steps(model), start=1):
        if number % 10 == 0 and len(x):
            model.eval()
            with torch.no_grad():
                for first in range(0, len(x), 100):
                    model(x[first : first + 100]).argmax(1)
            model.train()
        yield


@planted("host.gc", period=10)
def gc_pauses(severity: float) -> Iterator[None]:
    """Collects garbage after every tenth step, with many objects alive."""
    alive = [[number] for number in range(round(120_000 * severity))]
    for number, _ in enumerate(steps(), start=1):
        if number % 10 == 0 and alive:
            gc.collect()
        yield


class Reconfigured(nn.Module):
    """A model that is compiled for a setting which somebody keeps changing."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp()
        self.setting = ""

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * (1.0 + len(self.setting))  # type: ignore[no-any-return]


@planted("host.compilation", period=10)
def recompiles(severity: float) -> Iterator[None]:
    """A guarded value changes in `severity` of every tenth steps: compiled again."""
    torch._dynamo.reset()
    model = Reconfigured()
    compiled: nn.Module = torch.compile(model, backend="eager")  # type: ignore[assignment]
    optimizer = sgd(model)
    changes = 0
    try:
        for number, batch in enumerate(batches_of(Vectors(), workers=1)):
            if number % 10 == 0 and random.Random(number).random() < severity:
                changes += 1
                model.setting = "x" * (changes % 7)
                if changes % 7 == 0:  # before dynamo gives up compiling
                    torch._dynamo.reset()
            train_step(compiled, optimizer, batch)
            yield
    finally:
        torch._dynamo.reset()


def edit_distance(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


@planted("host.python")
def python_between(severity: float) -> Iterator[None]:
    """A metric computed in plain Python after every step."""
    chance = random.Random(0)
    texts = ["".join(chance.choices("acgt", k=60)) for _ in range(round(10 * severity))]
    for _ in steps():
        for text in texts:
            edit_distance(text, texts[0])
        yield


# The growth is paid for in page faults, in operators that do nothing but write.
@planted("memory.growth", accepted=("memory.bandwidth",), period=5)
def growth(severity: float) -> Iterator[None]:
    """Keeps 36 MB of every fifth step, up to 1 GB, which it then drops."""
    kept: list[Tensor] = []
    for number, losses in enumerate(steps()):
        if number % 5 == 0:
            # So large that it is always new memory from the system, never some that was freed.
            kept.append(losses.mean().repeat(round(severity * (9 << 20))))
        if len(kept) == 28:
            kept.clear()
        yield
