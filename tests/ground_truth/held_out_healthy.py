"""Held-out loops that are as they should be: no exact change gains 10 %.

At 0.0 they lack what one could suspect: their data, their log, their checkpoints.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from itertools import count, repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, Dataset, Sampler

from ground_truth.loop import healthy
from ground_truth.parts import CLASSES, ENDLESS, Pair, arithmetic_threads, forever

Sentence = tuple[Tensor, int]


class Sentences(Dataset[Sentence]):
    """Vectors of words, 8 to 40 of them a sentence."""

    def __init__(self) -> None:
        chance = torch.Generator().manual_seed(350)
        self.lengths = [8 + number * 7 % 33 for number in range(512)]
        self.sentences = [torch.randn(n, 96, generator=chance) for n in self.lengths]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Sentence:
        return self.sentences[index], index % CLASSES


class ByLength(Sampler[list[int]]):
    """Batches of sentences of about the same length, in random order."""

    def __init__(self, lengths: list[int], size: int) -> None:
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        self.batches = [order[first : first + size] for first in range(0, len(order), size)]
        self.chance = random.Random(351)

    def __iter__(self) -> Iterator[list[int]]:
        yield from self.chance.sample(self.batches, len(self.batches))


def packed(rows: list[Sentence]) -> tuple[Any, Tensor]:
    words, y = zip(*rows, strict=True)
    return pack_sequence(list(words), enforce_sorted=False), torch.tensor(y)


@healthy(held_out=True, period=13)
def packed_sentences(severity: float) -> Iterator[None]:
    """A wide LSTM over packed sentences in batches by length; no workers, and none needed."""
    torch.manual_seed(352)
    layers, head = nn.LSTM(96, 192), nn.Linear(192, CLASSES)
    parameters = [*layers.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.1, foreach=True)
    dataset = Sentences()
    sampler = ByLength(dataset.lengths, 40)
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=packed)
    stored = [packed([dataset[index] for index in rows]) for rows in sampler.batches]
    for epoch in count():
        for words, y in loader if severity else stored:
            optimizer.zero_grad()
            scores = head(layers(words)[1][0][0])
            nn.functional.cross_entropy(scores, y).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
            optimizer.step()
            yield
        for group in optimizer.param_groups:
            group["lr"] = 0.1 / (1 + epoch)


class Portraits(Dataset[Pair]):
    """Pictures that Pillow crops, mirrors and blurs."""

    def __init__(self) -> None:
        chance = np.random.default_rng(353)
        pixels = chance.integers(0, 256, (40, 40, 40, 3), np.uint8)
        self.pictures = [Image.fromarray(picture) for picture in pixels]

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> Pair:
        left, top = index % 8, index // 8 % 8
        picture = self.pictures[index % 40].crop((left, top, left + 32, top + 32))
        if index % 3:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        picture = picture.filter(ImageFilter.GaussianBlur(1))
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        return pixels.float().div_(255), torch.tensor(index % CLASSES)


Callback = Callable[[int, Tensor], None]


def fit(model: nn.Module, batches: Iterator[Pair], callbacks: list[Callback]) -> Iterator[None]:
    """Trains and calls those who asked for it with the number of the step and its loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, foreach=True)
    for number, (x, y) in enumerate(batches, start=1):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        for callback in callbacks:
            callback(number, loss)
        yield


@healthy(held_out=True, period=25)
def callback_portraits(severity: float) -> Iterator[None]:
    """One arithmetic thread; Pillow on the other core; callbacks that log and save at times."""
    torch.manual_seed(354)
    model = nn.Sequential(
        nn.Conv2d(3, 48, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(48, 48, 3, padding=1),
        nn.GELU(),
        nn.MaxPool2d(4),
        nn.Flatten(),
        nn.Linear(48 * 64, CLASSES),
    )
    with arithmetic_threads(1), TemporaryDirectory() as place:
        log, weights = Path(place, "loss.txt"), Path(place, "weights.pt")

        def write(number: int, loss: Tensor) -> None:
            if number % 25 == 0:
                log.write_text(f"{number} {loss.item():.4f}\n")

        def save(number: int, loss: Tensor) -> None:
            if number % 25 == 0:
                torch.save(model.state_dict(), weights)

        batches = forever(DataLoader(Portraits(), 24, num_workers=1))
        source = batches if severity else repeat(next(batches))
        yield from fit(model, source, [write, save] if severity else [])


class Walkers:
    """Many simple environments at once, their states a tensor (walkers, 24)."""

    def __init__(self, walkers: int) -> None:
        self.state = torch.randn(walkers, 24)
        self.drift = torch.randn(24, 24) / 24
        self.force = torch.randn(6, 24) / 6

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        self.state = (self.state + self.state @ self.drift + self.force[actions]).clamp(-3, 3)
        return self.state, -self.state.square().mean(1)


@healthy(held_out=True)
def tensor_walkers(severity: float) -> Iterator[None]:
    """Proximal policy optimisation: environments of tensors, then twelve updates a step."""
    torch.manual_seed(355)
    actor = nn.Sequential(nn.Linear(24, 320), nn.Tanh(), nn.Linear(320, 320), nn.Tanh())
    actor.append(nn.Linear(320, 6))
    optimizer = torch.optim.SGD(actor.parameters(), lr=1e-3, foreach=True)
    walkers = Walkers(128)
    kept: list[Tensor] = []
    while True:
        if severity or not kept:
            states, actions, rewards, chances = [], [], [], []
            with torch.no_grad():
                for _ in range(2):
                    states.append(walkers.state)
                    odds = actor(walkers.state).log_softmax(1)
                    actions.append(odds.exp().multinomial(1)[:, 0])
                    chances.append(odds.gather(1, actions[-1][:, None])[:, 0])
                    rewards.append(walkers.step(actions[-1])[1])
            kept = [torch.cat(part) for part in (states, actions, rewards, chances)]
        seen, done, gained, before = kept
        advantage = (gained - gained.mean()) / gained.std()
        for _ in range(12):
            odds = actor(seen).log_softmax(1).gather(1, done[:, None])[:, 0]
            ratio = (odds - before).exp()
            clipped = ratio.clamp(0.8, 1.2)
            loss = -torch.minimum(ratio * advantage, clipped * advantage).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        yield


@healthy(held_out=True, period=20)
def noise_predictor(severity: float) -> Iterator[None]:
    """Diffusion without a loader; every 20th step renews the averaged weights and saves them."""
    torch.manual_seed(356)
    net = nn.Sequential(
        nn.Conv2d(4, 48, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(48, 64, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(64, 3, 3, padding=1),
    )
    averaged = copy.deepcopy(net).requires_grad_(False)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-4, foreach=True)
    pictures = torch.rand(512, 3, 24, 24) * 2 - 1
    with TemporaryDirectory() as place:
        for number in count(1):
            clean = pictures[torch.randint(512, (24,))]
            level, noise = torch.rand(24, 1, 1, 1), torch.randn_like(clean)
            noisy = level.cos() * clean + level.sin() * noise
            guess = net(torch.cat([noisy, level.expand(-1, -1, 24, 24)], 1))
            loss = nn.functional.mse_loss(guess, noise)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if severity and number % 20 == 0:
                for old, new in zip(averaged.parameters(), net.parameters(), strict=True):
                    old.lerp_(new.detach(), 0.05)
                torch.save(averaged.state_dict(), Path(place, "averaged.pt"))
            yield
