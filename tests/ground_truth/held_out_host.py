"""Held-out loops that are held back by what the script does beside the training."""

from __future__ import annotations

import gc
import logging
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from logging.handlers import RotatingFileHandler
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ground_truth.loop import planted
from ground_truth.parts import CLASSES, WIDTH, Pair, Vectors, chosen, forever, mlp, sgd, train_step


@planted("host.logging", held_out=True)
def debug_records(severity: float) -> Iterator[None]:
    """Ranking: the debug line of every row was left on, into files that rotate."""
    torch.manual_seed(310)
    towers = nn.ModuleDict({"user": nn.Linear(WIDTH, 192), "item": nn.Linear(WIDTH, 192)})
    optimizer = sgd(towers)
    table = Vectors()
    logger = logging.Logger("ranking", logging.DEBUG)
    with TemporaryDirectory() as place:
        handler = RotatingFileHandler(Path(place, "debug.log"), maxBytes=1 << 18, backupCount=3)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
        logger.addHandler(handler)
        try:
            for step in count():
                rows = torch.randint(len(table.x), (384,))
                users, items = table.x[rows], table.x[rows].roll(1, 1)
                optimizer.zero_grad()
                scores = (towers["user"](users) * towers["item"](items)).mean(1)
                losses = nn.functional.binary_cross_entropy_with_logits(
                    scores, (table.y[rows] % 2).float(), reduction="none"
                )
                losses.mean().backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                shown = losses.tolist()[: round(384 * severity)]
                for row, loss in zip(rows.tolist(), shown, strict=False):
                    logger.debug("step=%d row=%d loss=%.5f", step, row, loss)
                yield
        finally:
            handler.close()


@dataclass
class Film:
    """An entry of a catalogue that the script holds as objects."""

    title: str
    genres: list[str]
    similar: list[Film]


def catalogue(films: int) -> list[Film]:
    """Films that refer to each other."""
    chance = random.Random(311)
    made = [Film(f"Film {n}", ["drama", "crime"][: n % 3], []) for n in range(films)]
    for film in made:
        film.similar += chance.choices(made, k=3)
    return made


@planted("host.gc", held_out=True, period=4)
def collect_by_hand(severity: float) -> Iterator[None]:
    """Recommendation: `gc.collect()` after every fourth step, beside a catalogue of objects."""
    torch.manual_seed(312)
    films = catalogue(12_000)
    seen = nn.EmbeddingBag(len(films), 48, sparse=True)
    head = nn.Sequential(nn.Linear(48, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU())
    head.append(nn.Linear(512, CLASSES))
    optimizers = [sgd(seen), sgd(head)]
    for step in count():
        history = torch.randint(len(films), (128, 20))
        genres = torch.tensor([len(films[film].genres) for film in history[:, 0].tolist()])
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss = nn.functional.cross_entropy(head(seen(history)), genres)
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in optimizers:
            optimizer.step()
        if step % 4 == 3 and chosen(step // 4, severity):
            gc.collect()
        yield


def warped(made: list[float], wanted: list[float]) -> list[int]:
    """For every moment of `made` that of `wanted` it belongs to, by dynamic time warping."""
    rows, columns = len(made), len(wanted)
    cost = [[float("inf")] * (columns + 1) for _ in range(rows + 1)]
    cost[0][0] = 0.0
    for i in range(1, rows + 1):
        for j in range(1, columns + 1):
            before = min(cost[i - 1][j], cost[i][j - 1], cost[i - 1][j - 1])
            cost[i][j] = abs(made[i - 1] - wanted[j - 1]) + before
    path, i, j = [0] * rows, rows, columns
    while i > 0 and j > 0:
        path[i - 1] = j - 1
        before = min(cost[i - 1][j - 1], cost[i - 1][j], cost[i][j - 1])
        if before == cost[i - 1][j - 1]:
            i, j = i - 1, j - 1
        elif before == cost[i - 1][j]:
            i -= 1
        else:
            j -= 1
    return path


class Melody(nn.Module):
    """Guesses the pitch of every moment."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(313)
        self.layers = nn.Sequential(nn.Conv1d(12, 96, 9, padding=4), nn.ReLU())
        self.layers.append(nn.Conv1d(96, 96, 9, padding=4)).append(nn.ReLU())
        self.pitch = nn.Conv1d(96, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pitch(self.layers(x))[:, 0]  # type: ignore[no-any-return]


@planted("host.python", held_out=True)
def time_warping(severity: float) -> Iterator[None]:
    """Transcription: the loss first aligns what came out with what was sung, cell by cell."""
    model = Melody()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, foreach=True)
    chroma, pitch = torch.randn(256, 12, 44), torch.randn(256, 44)
    evenly = list(range(44))
    songs = DataLoader(TensorDataset(chroma, pitch), 16, shuffle=True)
    for x, wanted in forever(songs):
        made = model(x)
        aligned = round(len(x) * severity)
        pairs = zip(made[:aligned].tolist(), wanted[:aligned].tolist(), strict=True)
        paths = [warped(*pair) for pair in pairs] + [evenly] * (len(x) - aligned)
        loss = (made - wanted.gather(1, torch.tensor(paths))).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield


@dataclass
class Arguments:
    """What one gives to a trainer."""

    eval_steps: int
    eval_batches: int
    per_device_batch_size: int = 48


class Trainer:
    """The usual class around the usual loop."""

    def __init__(self, model: nn.Module, arguments: Arguments) -> None:
        self.model, self.arguments = model, arguments
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, foreach=True)
        self.best = float("inf")

    def train(self, batches: Iterator[Pair], held_back: Iterator[Pair]) -> Iterator[None]:
        for step, batch in enumerate(batches, start=1):
            train_step(self.model, self.optimizer, batch)
            if step % self.arguments.eval_steps == 0:
                self.best = min(self.best, self.evaluate(held_back))
            yield

    @torch.no_grad()
    def evaluate(self, held_back: Iterator[Pair]) -> float:
        if not self.arguments.eval_batches:
            return self.best
        self.model.eval()
        losses = []
        for _ in range(self.arguments.eval_batches):
            x, y = next(held_back)
            losses.append(nn.functional.cross_entropy(self.model(x), y))
        self.model.train()
        return torch.stack(losses).mean().item()


@planted("host.validation", held_out=True, period=10)
def eval_steps(severity: float) -> Iterator[None]:
    """A trainer class told to evaluate 45 batches after every tenth step."""
    arguments = Arguments(eval_steps=10, eval_batches=round(45 * severity))
    size = arguments.per_device_batch_size
    trainer = Trainer(mlp(hidden=640), arguments)
    held_back = forever(DataLoader(Vectors(), size))
    yield from trainer.train(forever(DataLoader(Vectors(), size)), held_back)
