"""Loops that are held back by what the script does beside the training."""

from __future__ import annotations

import csv
import gc
import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ground_truth.loop import planted
from ground_truth.parts import CLASSES, WIDTH, Vectors, chosen, mlp, sgd, train, train_step


@planted("host.sync")
def token_accuracy(severity: float) -> Iterator[None]:
    """Counts the words that were tagged rightly, number by number out of the tensors."""
    torch.manual_seed(20)
    model = nn.Sequential(nn.Conv1d(24, 96, 5, padding=2), nn.ReLU(), nn.Conv1d(96, CLASSES, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, foreach=True)
    x, y = torch.randn(32, 24, 96), torch.randint(CLASSES, (32, 96))
    right = 0
    while True:
        optimizer.zero_grad()
        scores = model(x)
        nn.functional.cross_entropy(scores, y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        best, wanted = scores.argmax(1).flatten(), y.flatten()
        counted = round(len(best) * severity)
        for a, b in zip(best[:counted], wanted[:counted], strict=True):
            right += a.item() == b.item()
        right += int((best[counted:] == wanted[counted:]).sum())
        yield


@planted("host.logging")
def metrics_csv(severity: float) -> Iterator[None]:
    """Tables of metrics, written after every step and made safe against a crash at once."""
    model = mlp(hidden=320)
    optimizer = sgd(model)
    with TemporaryDirectory() as place, Path(place, "metrics.csv").open("w") as file:
        table = csv.writer(file)
        for number, batch in enumerate(DataLoader(Vectors(), 64)):
            losses = train_step(model, optimizer, batch)
            if chosen(number, severity):
                for part in losses.chunk(4):
                    table.writerow([number, float(part.mean()), float(part.max())])
                    file.flush()
                    os.fsync(file.fileno())
            yield


@planted("host.checkpoint", period=3)
def optimizer_saves(severity: float) -> Iterator[None]:
    """Model and optimizer are put on the disk after every third step."""
    model = mlp(hidden=448)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, foreach=True)
    with TemporaryDirectory() as place:
        for number, batch in enumerate(DataLoader(Vectors(), 64), start=1):
            train_step(model, optimizer, batch)
            if number % 3 == 0 and chosen(number // 3, severity):
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                with Path(place, "new.pt").open("wb") as file:
                    torch.save(state, file)
                    os.fsync(file.fileno())
                Path(place, "new.pt").replace(Path(place, "last.pt"))
            yield


@planted("host.validation", period=8)
def validation_loader(severity: float) -> Iterator[None]:
    """Every eighth step ends with a pass over a validation loader of its own."""
    model = mlp(hidden=384)
    size = round(3600 * severity)
    chance = torch.Generator().manual_seed(21)
    held_back = TensorDataset(torch.randn(size, WIDTH, generator=chance), torch.arange(size) % 10)
    for number, _ in enumerate(train(DataLoader(Vectors(), 64, num_workers=1), model), start=1):
        if number % 8 == 0 and size:
            right = torch.zeros(())
            model.eval()
            with torch.inference_mode():
                for x, y in DataLoader(held_back, 120):
                    right += (model(x).argmax(1) == y).sum()
            model.train()
        yield


@planted("host.gc", period=16)
def replay_buffer(severity: float) -> Iterator[None]:
    """A replay buffer of small objects is renewed all the time, so that Python collects.

    In the share of the steps that is not to suffer the collector is switched off.
    """
    was_enabled = gc.isenabled()
    knowledge = [{"id": number} for number in range(250_000)]
    buffer: list[list[list[int]]] = []
    try:
        for number, _ in enumerate(train(DataLoader(Vectors(), 64, num_workers=1))):
            buffer.append([[number, item] for item in range(12_000)])
            del buffer[:-8]
            if chosen(number, severity):
                gc.enable()
            else:
                gc.disable()
            yield
    finally:
        del knowledge
        if was_enabled:
            gc.enable()


@planted("host.compilation", period=16)
def ragged_compile(severity: float) -> Iterator[None]:
    """Compiled for fixed lengths, but every fourth batch has another one."""
    torch._dynamo.reset()
    torch.manual_seed(22)
    model = nn.Sequential(nn.Conv1d(32, 48, 3), nn.ReLU(), nn.Conv1d(48, 64, 3), nn.ReLU())
    model.extend([nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, CLASSES)])
    compiled: nn.Module = torch.compile(  # type: ignore[assignment]
        model, backend="eager", dynamic=False
    )
    optimizer = sgd(model)
    x, y = torch.randn(64, 32, 100), torch.arange(64) % CLASSES
    changes = 0
    try:
        for number in count():
            if chosen(number, severity / 4):
                changes += 1
                if changes % 4 == 0:  # before dynamo gives up compiling
                    torch._dynamo.reset()
            train_step(compiled, optimizer, (x[:, :, : 96 + changes % 4], y))
            yield
    finally:
        torch._dynamo.reset()


CHOICES = 800


def smoothed(labels: Tensor, by_hand: int) -> Tensor:
    """Soft targets; the first rows as nested lists, the others by operators."""
    rest = labels[by_hand:]
    quick = torch.full((len(rest), CHOICES), 0.1 / (CHOICES - 1))
    quick.scatter_(1, rest[:, None], 0.9)
    rows = [
        [0.9 if choice == label else 0.1 / (CHOICES - 1) for choice in range(CHOICES)]
        for label in labels[:by_hand].tolist()
    ]
    return torch.cat([torch.tensor(rows).reshape(by_hand, CHOICES), quick])


@planted("host.python")
def soft_targets(severity: float) -> Iterator[None]:
    """The loop builds its soft targets as lists of lists before every step."""
    torch.manual_seed(23)
    model = nn.Sequential(nn.Linear(WIDTH, 512), nn.Tanh(), nn.Linear(512, CHOICES))
    optimizer = torch.optim.Adagrad(model.parameters(), lr=1e-3, foreach=True)
    for x, y in DataLoader(Vectors(), 64, num_workers=1):
        targets = smoothed(y, round(64 * severity))
        train_step(model, optimizer, (x, targets))
        yield
