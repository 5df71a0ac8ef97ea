"""What the loops share: a small model, a training step, data that costs next to nothing."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

Pair = tuple[Tensor, Tensor]
Batch = TypeVar("Batch")

WIDTH, CLASSES, BATCH = 256, 10, 64
ENDLESS = 1 << 22
"""Samples in an epoch that no run reaches the end of; they repeat after `Vectors.distinct`."""
STORED_BYTES = 64 << 20


class Vectors(Dataset[Pair]):
    """Labelled random vectors in memory; subclasses say in `prepare` what a sample costs."""

    distinct = 1024

    def __init__(self, length: int = ENDLESS) -> None:
        chance = torch.Generator().manual_seed(1)
        self.x = torch.randn(self.distinct, WIDTH, generator=chance)
        self.y = torch.randint(CLASSES, (self.distinct,), generator=chance)
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Pair:
        self.prepare(index)
        return self.x[index % self.distinct], self.y[index % self.distinct]

    def prepare(self, index: int) -> None:
        """What has to be done before sample `index` is there."""


def mlp(hidden: int = 512, depth: int = 2) -> nn.Sequential:
    """A perceptron; with the defaults and 64 samples about 5 ms a step on two cores."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Linear(WIDTH, hidden), nn.ReLU()]
    for _ in range(depth):
        layers += [nn.Linear(hidden, hidden), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden, CLASSES))


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """The cheapest optimizer there is."""
    return torch.optim.SGD(model.parameters(), lr=1e-3)


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Pair) -> Tensor:
    """One usual step; returns the loss of every sample, cut off the graph."""
    x, y = batch
    optimizer.zero_grad()
    losses = nn.functional.cross_entropy(model(x), y, reduction="none")
    losses.mean().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return losses.detach()


def train(batches: Iterable[Pair], model: nn.Module | None = None) -> Iterator[None]:
    """The usual loop, with the usual model if none is given."""
    model = model or mlp()
    optimizer = sgd(model)
    for batch in batches:
        train_step(model, optimizer, batch)
        yield


def forever(loader: DataLoader[Batch]) -> Iterator[Any]:
    """Batches of epoch after epoch; ends the workers when it is closed."""
    try:
        while True:
            yield from loader
    finally:
        if loader.persistent_workers and loader._iterator is not None:
            loader._iterator._shutdown_workers()  # type: ignore[attr-defined]


def batches_of(dataset: Dataset[Pair], workers: int = 2, **options: Any) -> Iterator[Pair]:
    """Batches of `dataset` from a loader with the usual settings."""
    return forever(
        DataLoader(dataset, options.pop("batch_size", BATCH), num_workers=workers, **options)
    )


@contextmanager
def arithmetic_threads(count: int) -> Iterator[None]:
    """As many threads for one operator, until the context is left."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def chosen(index: int, share: float) -> bool:
    """True for `share` of all numbers, evenly spread: 0.25 takes every fourth."""
    return int((index + 1) * share) > int(index * share)


def work(array: np.ndarray[Any, Any], rounds: int) -> np.ndarray[Any, Any]:
    """Something like an augmentation: `rounds` of blurring and changing the contrast."""
    for _ in range(rounds):
        array = np.clip(1.02 * (array + np.roll(array, 1, 0) + np.roll(array, 1, 1)) / 3, 0, 1)
    return array


@cache
def folder() -> Path:
    """A folder for files, made when first needed and removed when this process ends."""
    path, owner = Path(tempfile.mkdtemp(prefix="ground-truth-")), os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # a forked child leaves it alone
            shutil.rmtree(path, ignore_errors=True)

    atexit.register(remove)
    return path


@cache
def stored_file() -> Path:
    """A file of `STORED_BYTES` random bytes, all of them on the disk."""
    path, chance = folder() / "stored.bin", np.random.default_rng(0)
    with path.open("wb") as file:
        for _ in range(STORED_BYTES >> 20):
            file.write(chance.bytes(1 << 20))
        file.flush()
        os.fsync(file.fileno())
    return path


@contextmanager
def processes(number: int) -> Iterator[Pool]:
    """A pool that ends when its processes have done what they were asked for.

    `Pool.terminate`, which leaving a pool's own context calls, may wait for ever for the lock of a
    process that it has killed amid an answer.
    """
    pool = multiprocessing.get_context("fork").Pool(number)
    try:
        yield pool
    finally:
        pool.close()
        pool.join()
