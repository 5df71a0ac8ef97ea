"""Loops that are as they should be: no exact change gains 10 %.

At 0.0 they lack what one could suspect: their data, their log, their checkpoints.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ground_truth.loop import healthy
from ground_truth.parts import (
    CLASSES,
    ENDLESS,
    WIDTH,
    Pair,
    Vectors,
    arithmetic_threads,
    mlp,
    sgd,
    train,
    train_step,
)

Batch = TypeVar("Batch")


def unless_removed(loader: Iterable[Batch], severity: float) -> Iterable[Batch]:
    """The loader, or at 0.0 its first batch again and again."""
    return loader if severity else repeat(next(iter(loader)))


class Pictures(Dataset[Pair]):
    """Pictures in memory that are taken out a batch at a time and mirrored."""

    def __init__(self) -> None:
        chance = torch.Generator().manual_seed(40)
        self.pictures = torch.randn(256, 3, 32, 32, generator=chance)

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> Pair:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[Pair]:
        pictures = self.pictures[torch.tensor(indices) % len(self.pictures)].flip(3)
        return list(zip(pictures, torch.tensor(indices) % CLASSES, strict=True))


@healthy()
def mirrored_pictures(severity: float) -> Iterator[None]:
    """A convolutional network whose small batches are made in the training thread."""
    torch.manual_seed(41)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 48, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(48, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, CLASSES),
    )
    yield from train(unless_removed(DataLoader(Pictures(), 32), severity), model)


class Bags(IterableDataset[tuple[Tensor, Tensor]]):
    """An endless stream of batches of 40 words a text, drawn a batch at a time."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        chance = torch.Generator().manual_seed(42)
        while True:
            words = torch.randint(2000, (96, 40), generator=chance)
            yield words, words.sum(1) % CLASSES


@healthy()
def stream_of_bags(severity: float) -> Iterator[None]:
    """Bags of words before a wide perceptron, from a stream of ready batches."""
    bag = nn.EmbeddingBag(2000, WIDTH, mode="mean")
    model = nn.Sequential(bag, mlp(hidden=1024))
    yield from train(unless_removed(DataLoader(Bags(), batch_size=None), severity), model)


@healthy()
def usual_extras(severity: float) -> Iterator[None]:
    """All one usually does in a step, each thing once: clip, schedule, ask the loss, log it."""
    model = mlp(hidden=768)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, foreach=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.999**step)
    logger = logging.getLogger("ground_truth.usual_extras")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    with TemporaryDirectory() as place:
        handler = logging.FileHandler(Path(place, "training.log"))
        logger.addHandler(handler)
        try:
            for number, (x, y) in enumerate(DataLoader(Vectors(), 128)):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x), y)
                loss.backward()  # type: ignore[no-untyped-call]
                if severity:
                    nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
                optimizer.step()
                if severity:
                    schedule.step()
                    logger.info("step %d loss %.4f", number, loss.item())
                yield
        finally:
            logger.removeHandler(handler)
            handler.close()


class Summed(Vectors):
    """A little plain Python before every sample."""

    def prepare(self, index: int) -> None:
        sum(number * index for number in range(400))


class Reader(nn.Module):
    """A recurrent network over the vector as eight steps, wide enough to be worth it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(43)
        self.lstm = nn.LSTM(32, 320, batch_first=True)
        self.head = nn.Linear(320, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x.reshape(-1, 8, 32))[0][:, -1])  # type: ignore[no-any-return]


@healthy()
def hidden_python(severity: float) -> Iterator[None]:
    """A wide LSTM in one thread; three workers are idle for most of its step."""
    with arithmetic_threads(1):
        loader = DataLoader(Summed(), 96, num_workers=3)
        yield from train(unless_removed(loader, severity), Reader())


@healthy(period=40)
def rare_checkpoint(severity: float) -> Iterator[None]:
    """Weights of 2 MB are saved once in forty steps."""
    model = mlp(hidden=512)
    optimizer = sgd(model)
    with TemporaryDirectory() as place:
        loader = DataLoader(Vectors(), 192, num_workers=2)
        for number, batch in enumerate(loader, start=1):
            train_step(model, optimizer, batch)
            if number % 40 == 0 and severity:
                torch.save(model.state_dict(), Path(place, "weights.pt"))
            yield
