"""A third set of loops that are as they should be: no exact change gains 10 %.

At 0.0 they lack what one could suspect: their data, their log, their checkpoints.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from itertools import count, repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from ground_truth.loop import healthy
from ground_truth.parts import (
    CLASSES,
    ENDLESS,
    WIDTH,
    Pair,
    Vectors,
    arithmetic_threads,
    forever,
    mlp,
    sgd,
    train,
    train_step,
)

Batch = TypeVar("Batch")


def or_the_first(batches: Iterator[Batch], severity: float) -> Iterable[Batch]:
    """The batches, or at 0.0 the first of them again and again."""
    return batches if severity else repeat(next(batches))


class Icons(Dataset[Pair]):
    """PNG files of 24 x 24 pixels in memory, decoded at every use."""

    def __init__(self) -> None:
        chance = np.random.default_rng(90)
        self.files = []
        for _ in range(64):
            buffer = io.BytesIO()
            Image.fromarray(chance.integers(0, 255, (24, 24), np.uint8)).save(buffer, "PNG")
            self.files.append(buffer.getvalue())

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> Pair:
        pixels = np.array(Image.open(io.BytesIO(self.files[index % 64])), np.float32)
        return torch.from_numpy(pixels)[None] / 255, torch.tensor(index % CLASSES)


class Residual(nn.Module):
    """Two convolutions beside which the input goes on."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.second(self.first(x).relu())).relu()  # type: ignore[no-any-return]


@healthy()
def decoded_icons(severity: float) -> Iterator[None]:
    """A residual network in one thread; a worker decodes on the other core and mostly waits."""
    torch.manual_seed(91)
    model = nn.Sequential(
        nn.Conv2d(1, 40, 3, stride=2, padding=1),
        Residual(40),
        Residual(40),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(40, CLASSES),
    )
    with arithmetic_threads(1):
        batches = forever(DataLoader(Icons(), 16, num_workers=1))
        yield from train(or_the_first(batches, severity), model)


class SmallGpt(nn.Module):
    """Two blocks of a transformer that predicts the next token."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(92)
        self.words, self.places = nn.Embedding(256, 128), nn.Parameter(torch.zeros(64, 128))
        layer = nn.TransformerEncoderLayer(128, 4, 512, dropout=0.0, batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(128, 256)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(64))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.places
        x = self.blocks(x, self.get_buffer("mask"), is_causal=True)
        return self.head(x).transpose(1, 2)  # type: ignore[no-any-return]


def windows(text: Tensor, rows: int) -> Iterator[Pair]:
    """Random windows of a text in memory."""
    chance = torch.Generator().manual_seed(93)
    while True:
        starts = torch.randint(len(text) - 65, (rows,), generator=chance)
        whole = text[starts[:, None] + torch.arange(65)]
        yield whole[:, :-1], whole[:, 1:]


@healthy(period=20)
def characters(severity: float) -> Iterator[None]:
    """A small GPT that gets its windows by hand, clips its gradients, prints every 20th loss."""
    model = SmallGpt()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, foreach=True)
    text = torch.randint(256, (1 << 20,), generator=torch.Generator().manual_seed(94))
    with TemporaryDirectory() as place, Path(place, "out.txt").open("w") as out:
        for number, (x, y) in enumerate(or_the_first(windows(text, 8), severity)):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
            optimizer.step()
            if number % 20 == 0 and severity:
                print(f"step {number}: loss {loss.item():.4f}", file=out, flush=True)
            yield


@healthy(period=50)
def best_kept(severity: float) -> Iterator[None]:
    """An autoencoder; every 50th step is validated on one batch and, if the best, saved."""
    torch.manual_seed(95)
    model = nn.Sequential(
        nn.Conv2d(1, 48, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(48, 96, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(96, 48, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(48, 1, 4, stride=2, padding=1),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, foreach=True)
    held_back = torch.randn(32, 1, 16, 16, generator=torch.Generator().manual_seed(96))
    with TemporaryDirectory() as place:
        for number, (x, _) in enumerate(forever(DataLoader(Vectors(), 48)), start=1):
            pictures = x.reshape(-1, 1, 16, 16)
            optimizer.zero_grad()
            nn.functional.mse_loss(model(pictures), pictures).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if number % 50 == 0 and severity:
                with torch.no_grad():
                    error = float(nn.functional.mse_loss(model(held_back), held_back))
                state = {"model": model.state_dict(), "error": error, "step": number}
                torch.save(state, Path(place, "best.pt"))
            yield


class Melodies(Dataset[tuple[Tensor, int]]):
    """Sequences of 12 to 20 notes, ready in memory."""

    def __init__(self) -> None:
        chance = torch.Generator().manual_seed(97)
        self.notes = [torch.randn(12 + n % 9, 48, generator=chance) for n in range(128)]

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.notes[index % 128], index % CLASSES


def padded(samples: list[tuple[Tensor, int]]) -> Pair:
    """All melodies as one tensor with zeros at the end."""
    notes, labels = zip(*samples, strict=True)
    return pad_sequence(list(notes), batch_first=True), torch.tensor(labels)


class Listener(nn.Module):
    """A wide recurrent network over the notes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(98)
        self.gru = nn.GRU(48, 256, batch_first=True)
        self.head = nn.Linear(256, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x)[0].amax(1))  # type: ignore[no-any-return]


@healthy()
def padded_melodies(severity: float) -> Iterator[None]:
    """A recurrent network over sequences that are padded in the training thread."""
    loader = DataLoader(Melodies(), 48, collate_fn=padded)
    yield from train(or_the_first(forever(loader), severity), Listener())


class Towers(nn.Module):
    """A recommender: a table of users, a table of things, and a tower on each."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.things = nn.Embedding(3000, WIDTH), nn.Embedding(1000, WIDTH)
        self.users.requires_grad_(False)
        self.things.requires_grad_(False)
        self.left, self.right = mlp(hidden=768), mlp(hidden=768)

    def forward(self, ids: Tensor) -> Tensor:
        return self.left(self.users(ids[0])) @ self.right(self.things(ids[1])).T  # type: ignore[no-any-return]


@healthy(period=25)
def two_towers(severity: float) -> Iterator[None]:
    """Two towers on frozen tables, ids drawn in the loop; every 25th step writes its metrics."""
    model = Towers()
    optimizer = sgd(model)
    chance = torch.Generator().manual_seed(99)
    first = torch.randint(1000, (2, 160), generator=chance)
    with TemporaryDirectory() as place, Path(place, "metrics.jsonl").open("w") as file:
        for number in count():
            ids = torch.randint(1000, (2, 160), generator=chance) if severity else first
            losses = train_step(model, optimizer, (ids, torch.arange(160)))
            if number % 25 == 0 and severity:
                metrics: dict[str, Any] = {"step": number, "loss": float(losses.mean())}
                file.write(json.dumps(metrics) + "\n")
                file.flush()
            yield
