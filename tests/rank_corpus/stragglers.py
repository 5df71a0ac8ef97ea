"""One rank, or one after another, does what the others do not, and they wait for it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from random import Random

import torch
from ground_truth.host import SyncedHandler
from ground_truth.neighbours import busy_neighbours
from ground_truth.parts import CLASSES, WIDTH, Vectors, folder, sgd, work
from torch import Tensor, nn

from rank_corpus.case import Rank, straggling
from rank_corpus.cores import one_core, quota
from rank_corpus.parts import Slept, averaged, loaded, perceptron, trained

PYTHON, CORES = "host.python", "cpu_preprocessing.core_starvation"
ARITHMETIC = ("compute.arithmetic", "memory.bandwidth", "compute.launch")


@straggling(4, 2, "data_loading.network")
def far_data(rank: Rank) -> Iterator[None]:
    """The third rank's samples take 5 ms each to arrive, the others' 1 ms."""
    slow = 0.004 * rank.severity if rank.number == 2 else 0.0
    yield from trained(loaded(Slept(0.001 + slow)), perceptron(64))


class Augmented(Vectors):
    """Vectors that take so many rounds of preparation."""

    def __init__(self, rounds: int) -> None:
        super().__init__()
        self.rounds = rounds
        self.picture = Random(3).random() + torch.rand(64, 64).numpy()

    def prepare(self, index: int) -> None:
        """Something like an augmentation."""
        work(self.picture, self.rounds)


@straggling(2, 1, "cpu_preprocessing.transform")
def slow_transform(rank: Rank) -> Iterator[None]:
    """The second rank's samples are augmented far more than the first one's."""
    more = round(16 * rank.severity) if rank.number == 1 else 0
    yield from trained(loaded(Augmented(4 + more)), perceptron(64))


@straggling(2, 1, CORES)
def crowded_core(rank: Rank) -> Iterator[None]:
    """Each rank has a core, and the second one shares it with two other programs."""
    with one_core(rank.number):
        crowd = round(2 * rank.severity) if rank.number == 1 else 0
        with busy_neighbours(crowd):
            yield from trained(loaded(Vectors(), 256), perceptron(128, 2))


@straggling(2, 0, CORES)
def throttled(rank: Rank) -> Iterator[None]:
    """A quota leaves the first rank a fifth of a core."""
    share = 0.2 if rank.severity and rank.number == 0 else None
    with quota(share):
        yield from trained(loaded(Vectors(), 256), perceptron(128, 2))


class Reader(nn.Module):
    """Convolutions over tokens and their mean."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(8)
        self.words = nn.Embedding(500, 32)
        self.mix = nn.Sequential(nn.Conv1d(32, 48, 5, padding=2), nn.ReLU())
        self.mix.append(nn.Conv1d(48, 48, 5, padding=2)).append(nn.ReLU())
        self.head = nn.Linear(48, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores, (batch, classes), of tokens, (batch, length)."""
        return self.head(self.mix(self.words(tokens).transpose(1, 2)).mean(2))  # type: ignore[no-any-return]


@straggling(2, 1, *ARITHMETIC)
def long_texts(rank: Rank) -> Iterator[None]:
    """Texts were sorted by length and cut in two: the second rank has the long ones."""
    length = 64 + round(448 * rank.severity) * rank.number
    articles = torch.randint(500, (256, length))
    rows = (torch.randint(256, (16,)) for _ in count())
    yield from trained(((articles[r], r % CLASSES) for r in rows), Reader())


@straggling(3, 0, "host.checkpoint", period=4)
def saving_rank(rank: Rank) -> Iterator[None]:
    """The first rank saves 16 MB every fourth step, and is sure that they are on the disk."""
    averages = torch.randn(1 << 22)
    path = Path(folder(), "checkpoint.pt")
    for step, _ in enumerate(trained(loaded(Slept(0.001)), perceptron(64))):
        if rank.number == 0 and rank.severity and step % 4 == 3:
            with path.open("wb") as file:
                torch.save(averages, file)
                os.fsync(file.fileno())
        yield


@straggling(3, 0, "host.logging")
def logging_rank(rank: Rank) -> Iterator[None]:
    """The first rank writes twenty lines a step, each safe on the disk before the next."""
    logger = logging.getLogger("rank_corpus.logging_rank")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    handler = SyncedHandler(Path(folder(), "training.log"))
    logger.addHandler(handler)
    lines = round(20 * rank.severity) if rank.number == 0 else 0
    try:
        for step, _ in enumerate(trained(loaded(Slept(0.001)), perceptron(64))):
            for line in range(lines):
                logger.info("step %d metric %d", step, line)
            yield
    finally:
        logger.removeHandler(handler)
        handler.close()


@straggling(3, 0, "host.validation", period=5)
def validating_rank(rank: Rank) -> Iterator[None]:
    """The first rank alone validates every fifth step, while the others wait for it."""
    model = perceptron(64)
    held_back = torch.randn(16384, WIDTH)
    for step, _ in enumerate(trained(loaded(Slept(0.001)), model)):
        if rank.number == 0 and rank.severity and step % 5 == 4:
            model.eval()
            with torch.no_grad():
                for part in held_back.chunk(16):
                    model(part).argmax(1)
            model.train()
        yield


@straggling(3, 1, "data_loading.network", period=8)
def now_and_then(rank: Rank) -> Iterator[None]:
    """Every eighth batch of the second rank is 80 ms late."""
    seconds = 0.08 * rank.severity if rank.number == 1 else 0.0
    yield from trained(loaded(Late(seconds, lambda batch: batch % 8 == 7)), perceptron(64))


class Late(Vectors):
    """Batches some of which are late."""

    def __init__(self, seconds: float, late: object) -> None:
        super().__init__()
        self.seconds, self.late = seconds, late

    def prepare(self, index: int) -> None:
        """Wait for the first sample of a late batch."""
        time.sleep(0.001)
        batch, first = divmod(index, 8)
        if first == 0 and self.late(batch):  # type: ignore[operator]
            time.sleep(self.seconds)


@straggling(4, None, period=16)
def in_turn(rank: Rank) -> Iterator[None]:
    """In every step another rank's batch is 20 ms late."""
    order = Random(11)
    turns = [order.sample(range(4), 4) for _ in range(4)]
    turn = [number for four in turns for number in four]
    seconds = 0.02 * rank.severity
    late = Late(seconds, lambda batch: turn[batch % 16] == rank.number)
    yield from trained(loaded(late), perceptron(64))


@straggling(2, None)
def uneven_texts(rank: Rank) -> Iterator[None]:
    """Texts are as long as they are; at 0.0 all ranks have those of the mean length."""
    lengths = Random(100 + rank.number)
    model, seed = Reader(), torch.Generator().manual_seed(rank.number)
    optimizer = sgd(model)
    while True:
        length = 256 + round(rank.severity * lengths.choice((-200, -200, -200, -200, 800)))
        rows = torch.randint(500, (16, length), generator=seed)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(rows), rows[:, 0] % CLASSES).backward()  # type: ignore[no-untyped-call]
        averaged(model)
        optimizer.step()
        yield
