"""Loops that are as they should be: no change that leaves the results alone gains 10 %.

At severity 0.0 their data costs nothing, so that the bench can see that it did not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import repeat

import torch
from torch import Tensor, nn

from ground_truth.loop import healthy
from ground_truth.parts import (
    BATCH,
    CLASSES,
    WIDTH,
    Pair,
    Vectors,
    arithmetic_threads,
    batches_of,
    mlp,
    sgd,
    train,
    train_step,
)
from ground_truth.workers import Augmented


def data(batches: Iterable[Pair], severity: float) -> Iterable[Pair]:
    """The batches, or at 0.0 the first of them again and again."""
    return batches if severity else repeat(next(iter(batches)))


class Convolutional(nn.Module):
    """Three convolutions over the vector taken as a picture of 16 x 16."""

    def __init__(self, channels: int = 24) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, stride=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(channels, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.view(-1, 1, 16, 16))  # type: ignore[no-any-return]


@healthy()
def small_cnn(severity: float) -> Iterator[None]:
    """A convolutional network with a worker that has little to do."""
    yield from train(data(batches_of(Vectors(), workers=1), severity), Convolutional())


@healthy()
def cheap_inline_data(severity: float) -> Iterator[None]:
    """No workers, and none needed."""
    model = mlp(hidden=1024, depth=3)
    yield from train(data(batches_of(Vectors(), workers=0), severity), model)


@healthy()
def hidden_augmentation(severity: float) -> Iterator[None]:
    """One arithmetic thread, one worker that augments on the other core for most of the step."""
    batches = data(batches_of(Augmented(1, side=16), workers=1), severity)
    with arithmetic_threads(1):
        yield from train(batches, mlp(hidden=1024, depth=2))


@healthy()
def tabular(severity: float) -> Iterator[None]:
    """A table in memory, cut into batches by hand: there is no loader at all."""
    chance = torch.Generator().manual_seed(1)
    x, y = torch.randn(8192, WIDTH, generator=chance), torch.arange(8192) % CLASSES
    model = mlp(hidden=1024, depth=2)
    optimizer = sgd(model)
    while True:
        order = torch.randperm(len(x), generator=chance)
        for rows in order.view(-1, 2 * BATCH):
            train_step(model, optimizer, (x[rows], y[rows]))
            yield


@healthy(period=50)
def rare_validation(severity: float) -> Iterator[None]:
    """Validates one batch in fifty steps."""
    model = mlp(hidden=1024, depth=2)
    held_back = torch.randn(BATCH, WIDTH, generator=torch.Generator().manual_seed(2))
    training = train(data(batches_of(Vectors(), workers=1), severity), model)
    for number, _ in enumerate(training, start=1):
        if number % 50 == 0:
            model.eval()
            with torch.no_grad():
                model(held_back)
            model.train()
        yield


class Attentive(nn.Module):
    """A small transformer over the vector as 32 tokens."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(8, 64)
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
        self.encode = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.classify = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.encode(self.embed(x.view(-1, 32, 8)))
        return self.classify(tokens.mean(1))  # type: ignore[no-any-return]


@healthy()
def transformer(severity: float) -> Iterator[None]:
    """A small transformer, fed by two workers that wait for it."""
    yield from train(data(batches_of(Vectors()), severity), Attentive())
