"""Held-out loops of two ranks on this machine, that talk over gloo; the last one is healthy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ground_truth.loop import healthy, planted
from ground_truth.parts import CLASSES, WIDTH, Vectors, arithmetic_threads, chosen, sgd

Rank = Callable[[int, float], Iterator[None]]


def of_two(rank: Rank, number: int, store: str, severity: float) -> Iterator[None]:
    """One of two ranks, with one thread each."""
    distributed.init_process_group("gloo", f"file://{store}", rank=number, world_size=2)
    try:
        with arithmetic_threads(1):
            yield from rank(number, severity)
    finally:
        distributed.destroy_process_group()


def second(rank: str, store: str, severity: float) -> None:
    """The second rank, until it is killed or loses the first."""
    for _ in of_two(globals()[rank], 1, store, severity):
        pass


def both(rank: Rank, severity: float) -> Iterator[None]:
    """The first rank here, the second in a process of its own."""
    with TemporaryDirectory() as place:
        store = str(Path(place, "store"))
        arguments = f"{rank.__name__!r}, {store!r}, {severity!r}"
        command = [sys.executable, "-c", f"from {__name__} import second; second({arguments})"]
        tests = Path(__file__).parents[1]
        with subprocess.Popen(command, cwd=tests, stderr=subprocess.DEVNULL) as partner:
            try:
                yield from of_two(rank, 0, store, severity)
            finally:
                partner.kill()


def summed_gradients(model: nn.Module) -> None:
    """One message with the gradients of all parameters, divided by the ranks."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    together = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(together)
    start = 0
    for gradient in gradients:
        mean = together[start : start + gradient.numel()] / 2
        gradient.copy_(mean.view_as(gradient))
        start += gradient.numel()


def wide_replica(number: int, severity: float) -> Iterator[None]:
    torch.manual_seed(340)
    layers = nn.Sequential(nn.Linear(WIDTH, 2048), nn.ReLU(), nn.Linear(2048, 1024), nn.ReLU())
    model = DistributedDataParallel(layers.append(nn.Linear(1024, CLASSES)))
    optimizer = sgd(model)
    table = Vectors()
    for step in count():
        rows = torch.randint(len(table.x), (16,))
        with nullcontext() if chosen(step, severity) else model.no_sync():
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(table.x[rows]), table.y[rows])
            loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        yield


@planted("communication.collective", held_out=True)
def wide_replicas(severity: float) -> Iterator[None]:
    """DistributedDataParallel: batches of 16 for gradients of 10 MB; at 0.0 under `no_sync`."""
    yield from both(wide_replica, severity)


def metered(number: int, severity: float) -> Iterator[None]:
    torch.manual_seed(341)
    model = nn.Sequential(nn.Linear(WIDTH, 192), nn.ReLU(), nn.Linear(192, CLASSES))
    optimizer = sgd(model)
    table = Vectors()
    alone = round(60 * severity)
    for _ in count():
        rows = torch.randint(len(table.x), (96,))
        scores, y = model(table.x[rows]), table.y[rows]
        optimizer.zero_grad()
        nn.functional.cross_entropy(scores, y).backward()  # type: ignore[no-untyped-call]
        summed_gradients(model)
        optimizer.step()
        with torch.no_grad():
            truth = nn.functional.one_hot(y, CLASSES).float()
            guess = nn.functional.one_hot(scores.argmax(1), CLASSES).float()
            hits, missed, wrong = truth * guess, truth * (1 - guess), guess * (1 - truth)
            squares = (scores.softmax(1) - truth).square()
            counts = torch.cat([part.sum(0) for part in (truth, guess, hits, missed, wrong)])
            meters: list[Tensor] = [*counts, *squares.sum(0)]
            for meter in meters[:alone]:
                distributed.all_reduce(meter)
            if alone < len(meters):
                distributed.all_reduce(torch.stack(meters[alone:]))
        yield


@planted("communication.messages", held_out=True)
def metric_by_metric(severity: float) -> Iterator[None]:
    """Two ranks add up six metrics of ten classes, a message for every number."""
    yield from both(metered, severity)


class Reader(nn.Module):
    """Convolutions over tokens and their mean."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(342)
        self.words = nn.Embedding(2000, 48)
        self.mix = nn.Sequential(nn.Conv1d(48, 64, 5, padding=2), nn.ReLU())
        self.mix.append(nn.Conv1d(64, 64, 5, padding=2)).append(nn.ReLU())
        self.head = nn.Linear(64, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.mix(self.words(tokens).transpose(1, 2)).mean(2))  # type: ignore[no-any-return]


def shard_reader(number: int, severity: float) -> Iterator[None]:
    model = Reader()
    optimizer = sgd(model)
    length = 48 + number * round(240 * severity)
    articles = torch.randint(2000, (256, length))
    while True:
        rows = torch.randint(256, (16,))
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(articles[rows]), rows % CLASSES)
        loss.backward()  # type: ignore[no-untyped-call]
        summed_gradients(model)
        optimizer.step()
        yield


@planted("communication.straggler", held_out=True)
def sorted_shards(severity: float) -> Iterator[None]:
    """Texts sorted by length were cut in two: the other rank has the long ones."""
    yield from both(shard_reader, severity)


def accumulating(number: int, severity: float) -> Iterator[None]:
    torch.manual_seed(343)
    model = nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(24, 40, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(160, CLASSES),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, foreach=True)
    pictures = torch.randn(96, 3, 28, 28)
    for step in count(1):
        rows = torch.randint(96, (24,))
        loss = nn.functional.cross_entropy(model(pictures[rows]), rows % CLASSES) / 4
        loss.backward()  # type: ignore[no-untyped-call]
        if step % 4 == 0:
            if severity:
                summed_gradients(model)
            optimizer.step()
            optimizer.zero_grad()
        yield


@healthy(held_out=True, period=4)
def accumulating_ranks(severity: float) -> Iterator[None]:
    """Two ranks that exchange 50 KB after every fourth micro-batch; at 0.0 each for itself."""
    yield from both(accumulating, severity)
