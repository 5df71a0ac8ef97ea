"""Loops as people write them: other numbers of workers, other kinds of data set, other orders."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from ground_truth.loop import planted
from ground_truth.parts import (
    BATCH,
    CLASSES,
    ENDLESS,
    WIDTH,
    Pair,
    Vectors,
    batches_of,
    chosen,
    forever,
    mlp,
    sgd,
    train,
    train_step,
)
from ground_truth.workers import Augmented


@planted("cpu_preprocessing.transform")
def zero_workers(severity: float) -> Iterator[None]:
    """Samples are prepared in the training thread."""
    yield from train(batches_of(Augmented(round(3 * severity)), workers=0))


@planted("cpu_preprocessing.transform")
def ten_workers(severity: float) -> Iterator[None]:
    """Ten workers where there are cores for two."""
    yield from train(batches_of(Augmented(round(6 * severity)), workers=10))


class Points(Dataset[Pair]):
    """Samples of sixteen numbers: any worker costs more than they do."""

    def __init__(self) -> None:
        chance = torch.Generator().manual_seed(1)
        self.x = torch.randn(1024, 16, generator=chance)

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> Pair:
        return self.x[index % 1024], torch.tensor(index % 2)


@planted("cpu_preprocessing.handover")
def tiny_items(severity: float) -> Iterator[None]:
    """A worker for batches that take a tenth of a millisecond; none at all is faster."""
    torch.manual_seed(0)
    workers = 1 if severity > 0 else 0
    yield from train(batches_of(Points(), workers, batch_size=4), nn.Linear(16, 2))


class Records(IterableDataset[Pair]):
    """A stream of compressed JSON, of which each worker takes its part."""

    def __init__(self, share: float) -> None:
        self.share = share
        chance = random.Random(0)
        self.plain = torch.randn(WIDTH, generator=torch.Generator().manual_seed(1))
        self.records = [
            zlib.compress(json.dumps([chance.gauss(0, 1) for _ in range(WIDTH)]).encode())
            for _ in range(256)
        ]

    def __iter__(self) -> Iterator[Pair]:
        info = get_worker_info()
        first, stride = (info.id, info.num_workers) if info else (0, 1)
        for index in range(first, ENDLESS, stride):
            x = self.plain
            if chosen(index // stride, self.share):
                x = torch.tensor(json.loads(zlib.decompress(self.records[index % 256])))
            yield x, torch.tensor(index % CLASSES)


@planted("cpu_preprocessing.transform")
def iterable_decode(severity: float) -> Iterator[None]:
    """An IterableDataset that unpacks and parses its records."""
    yield from train(batches_of(Records(severity)))


@planted("cpu_preprocessing.transform", period=25)
def two_loaders(severity: float) -> Iterator[None]:
    """A slow training loader beside one for validation that is asked twice in 25 steps."""
    model = mlp()
    held_back = forever(DataLoader(Vectors(), BATCH, num_workers=1, persistent_workers=True))
    training = train(batches_of(Augmented(round(6 * severity))), model)
    for number, _ in enumerate(training, start=1):
        if number % 25 == 0:
            model.eval()
            with torch.no_grad():
                for _ in range(2):
                    model(next(held_back)[0])
            model.train()
        yield


class Pole:
    """An environment in plain Python: a stick that falls."""

    def __init__(self) -> None:
        self.angle, self.speed = 0.05, 0.0

    def push(self, force: float, moments: int) -> float:
        for _ in range(moments):
            self.speed += 0.001 * (9.8 * self.angle + force)
            self.angle += 0.001 * self.speed
            self.angle = max(-1.0, min(1.0, self.angle))
        return self.angle


@planted("host.python")
def rl_updates(severity: float) -> Iterator[None]:
    """Plays an environment for 12 moves, then makes sixteen optimizer steps from them."""
    policy = mlp(hidden=128)
    optimizer, poles = sgd(policy), [Pole() for _ in range(8)]
    state = torch.zeros(8, WIDTH)
    while True:
        seen: list[Tensor] = []
        for _ in range(12):
            with torch.no_grad():
                forces = policy(state)[:, 0].tolist()
            for row, (pole, force) in enumerate(zip(poles, forces, strict=True)):
                state[row, 0] = pole.push(force, round(500 * severity))
            seen.append(state.clone())
        played = torch.cat(seen)
        for number in range(16):
            x = played[number * 6 : number * 6 + 6]
            train_step(policy, optimizer, (x, x.abs().argmax(1) % CLASSES))
        yield
