"""A fourth set of loops that are as they should be: no exact change gains 10 %.

At 0.0 they lack what one could suspect: their data, their log, their checkpoints.
"""

from __future__ import annotations

import copy
import json
import logging
import pickle
import zlib
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from ground_truth.loop import healthy
from ground_truth.parts import (
    CLASSES,
    ENDLESS,
    WIDTH,
    Pair,
    arithmetic_threads,
    forever,
)


class Scans(IterableDataset[Pair]):
    """Compressed pictures of one channel, unpacked at every use."""

    def __init__(self) -> None:
        chance = np.random.default_rng(240)
        pictures = chance.integers(0, 16, (48, 32, 32), np.uint8)
        self.packed = [zlib.compress(picture.tobytes()) for picture in pictures]

    def __iter__(self) -> Iterator[Pair]:
        while True:
            for number, packed in enumerate(self.packed):
                pixels = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(1, 32, 32)
                yield torch.from_numpy(pixels.astype(np.float32) / 8 - 1), torch.tensor(number % 10)


class Patches(nn.Module):
    """A transformer over patches of 4 x 4 pixels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(241)
        self.cut = nn.Conv2d(1, 96, 4, stride=4)
        layer = nn.TransformerEncoderLayer(96, 3, 384, dropout=0.0, batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(96, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.cut(x).flatten(2).transpose(1, 2)).mean(1))  # type: ignore[no-any-return]


@healthy(period=4)
def patch_micro_batches(severity: float) -> Iterator[None]:
    """Four micro-batches to an update; a worker that unpacks pictures and mostly waits."""
    with arithmetic_threads(1):
        model = Patches()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, foreach=True)
        batches = forever(DataLoader(Scans(), 12, num_workers=1))
        source = batches if severity else repeat(next(batches))
        for number, (x, y) in enumerate(source, start=1):
            loss = nn.functional.cross_entropy(model(x), y) / 4
            loss.backward()  # type: ignore[no-untyped-call]
            if number % 4 == 0:
                optimizer.step()
                optimizer.zero_grad()
            yield


@healthy(period=10)
def ensemble(severity: float) -> Iterator[None]:
    """Four networks at once by `torch.func`, without loader and optimizer; a log now and then."""
    torch.manual_seed(242)
    one = nn.Sequential(nn.Linear(WIDTH, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU())
    one.append(nn.Linear(512, CLASSES))
    members = [copy.deepcopy(one) for _ in range(4)]
    weights, _ = stack_module_state(members)
    weights = {name: weight.detach() for name, weight in weights.items()}
    x, y = torch.randn(4096, WIDTH), torch.randint(CLASSES, (4096,))

    def loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        value = nn.functional.cross_entropy(functional_call(one, weights, x), y)
        return value, value

    of_all = vmap(grad(loss, has_aux=True), in_dims=(0, None, None))
    log = logging.Logger("ensemble")
    with TemporaryDirectory() as place:
        handler = logging.FileHandler(Path(place, "train.log"))
        log.addHandler(handler)
        try:
            for number in chain.from_iterable(repeat(range(0, 4096, 256))):
                gradients, losses = of_all(weights, x[number:][:256], y[number:][:256])
                for name, gradient in gradients.items():
                    weights[name].sub_(gradient, alpha=1e-3)
                if severity and number % 2560 == 0:
                    log.info("at %d: %s", number, [round(value, 4) for value in losses.tolist()])
                yield
        finally:
            handler.close()


class Pairs(Dataset[Pair]):
    """Two noisy views of a spectrum."""

    def __init__(self) -> None:
        self.spectra = torch.randn(96, 4, 128, generator=torch.Generator().manual_seed(243))

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> Pair:
        spectrum = self.spectra[index % 96]
        return spectrum + 0.1 * torch.randn(4, 128), spectrum.roll(index % 5, 1)


@healthy(period=50)
def spectrum_pairs(severity: float) -> Iterator[None]:
    """Contrastive, two loaders alive; every 50th step validates a batch, saves, writes a line."""
    torch.manual_seed(244)
    encoder = nn.Sequential(
        nn.Conv1d(4, 64, 7, padding=3),
        nn.ReLU(),
        nn.Conv1d(64, 64, 7, stride=2, padding=3),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(4),
        nn.Flatten(),
        nn.Linear(256, 64),
    )
    optimizer = torch.optim.SGD(encoder.parameters(), lr=1e-3, momentum=0.9, foreach=True)
    same = torch.arange(48)
    held_back = forever(DataLoader(TensorDataset(Pairs().spectra, torch.arange(96)), 48))
    with arithmetic_threads(1), TemporaryDirectory() as place:
        batches = forever(DataLoader(Pairs(), 48, num_workers=1))
        source = batches if severity else repeat(next(batches))
        for number, (a, b) in enumerate(source, start=1):
            optimizer.zero_grad()
            views = nn.functional.normalize(encoder(torch.cat([a, b])))
            loss = nn.functional.cross_entropy(views[:48] @ views[48:].T / 0.1, same)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if severity and number % 50 == 0:
                with torch.no_grad():
                    spread = encoder(next(held_back)[0]).var(0).mean().item()
                torch.save(encoder.state_dict(), Path(place, "last.pt"))
                with Path(place, "log.jsonl").open("a") as file:
                    json.dump({"step": number, "loss": loss.item(), "spread": spread}, file)
            yield


def tagged(severity: float) -> Iterator[Pair]:
    """Batches of byte strings and their tags, each a pickle in memory; at 0.0 always the first."""
    chance = np.random.default_rng(245)
    records = [
        pickle.dumps((chance.integers(0, 256, (16, 80)), chance.integers(0, CLASSES, 16)))
        for _ in range(32)
    ]
    while True:
        for record in records if severity else repeat(records[0]):
            text, tags = pickle.loads(record)
            yield torch.from_numpy(text), torch.from_numpy(tags)


class ByteTagger(nn.Module):
    """Two convolutions over bytes, the second with gaps, and a weighted mean of what they find."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(246)
        self.letters = nn.Embedding(256, 96)
        self.near = nn.Conv1d(96, 160, 7, padding=3)
        self.far = nn.Conv1d(160, 160, 7, padding=6, dilation=2)
        self.weigh, self.head = nn.Linear(160, 1), nn.Linear(160, CLASSES)

    def forward(self, text: Tensor) -> Tensor:
        x = self.near(self.letters(text).transpose(1, 2)).relu()
        x = (x + self.far(x).relu()).transpose(1, 2)
        return self.head((self.weigh(x).softmax(1) * x).sum(1))  # type: ignore[no-any-return]


@healthy(period=10)
def byte_tagger(severity: float) -> Iterator[None]:
    """Unpickles its batches in the loop, clips by value, schedules, shows the loss at times."""
    model = ByteTagger()
    optimizer = torch.optim.NAdam(model.parameters(), lr=1e-4, foreach=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100_000)
    with TemporaryDirectory() as place, Path(place, "out.txt").open("w") as out:
        for number, (text, tags) in enumerate(tagged(severity)):
            optimizer.zero_grad(set_to_none=True)
            loss = nn.functional.cross_entropy(model(text), tags, label_smoothing=0.1)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_value_(model.parameters(), 1.0, foreach=True)
            optimizer.step()
            schedule.step()
            if severity and number % 10 == 0:
                print(number, f"{loss.item():.3f}", file=out)
            yield
