"""A fourth set of loops whose batches take long to prepare or to put together."""

from __future__ import annotations

import lzma
import math
import random
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from ground_truth.loop import planted
from ground_truth.parts import (
    CLASSES,
    ENDLESS,
    Pair,
    chosen,
    forever,
    sgd,
    train,
)

Array = np.ndarray[Any, Any]
Graph = tuple[Tensor, Tensor, Tensor]

ATOMS = 24
SYMBOL = re.compile(r"Cl|Br|[CNOSF]|[=#()]|[1-9]")
ELEMENTS = ("C", "N", "O", "S", "F", "Cl", "Br")


def parse(molecule: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Elements and bonds of a molecule in line notation (branches and rings, no charges)."""
    atoms: list[int] = []
    bonds: list[tuple[int, int]] = []
    branches: list[int] = []
    rings: dict[str, int] = {}
    last = -1
    for symbol in SYMBOL.findall(molecule):
        if symbol in ELEMENTS:
            atoms.append(ELEMENTS.index(symbol))
            if last >= 0:
                bonds.append((last, len(atoms) - 1))
            last = len(atoms) - 1
        elif symbol == "(":
            branches.append(last)
        elif symbol == ")":
            last = branches.pop()
        elif symbol in rings:
            bonds.append((rings.pop(symbol), last))
        elif symbol.isdigit():
            rings[symbol] = last
    return atoms, bonds


def distances(count: int, bonds: list[tuple[int, int]]) -> Array:
    """Bonds between every two atoms, by Floyd and Warshall."""
    far = np.full((ATOMS, ATOMS), 99.0, np.float32)
    np.fill_diagonal(far, 0)
    for a, b in bonds:
        far[a, b] = far[b, a] = 1
    for via in range(count):
        np.minimum(far, far[:, via : via + 1] + far[via], out=far)
    return far


def as_graph(molecule: str) -> tuple[Array, Array]:
    """Elements of a molecule, filled up with -1 made 7, and how near each is to each."""
    atoms, bonds = parse(molecule)
    elements = np.full(ATOMS, len(ELEMENTS), np.int64)
    elements[: len(atoms)] = atoms
    return elements, 1 / (1 + distances(len(atoms), bonds))


class Molecules(IterableDataset[Graph]):
    """An endless stream of molecules, a share of which is parsed, the others were before."""

    def __init__(self, share: float) -> None:
        chance = random.Random(210)
        self.share = share
        self.texts = [self.invent(chance) for _ in range(64)]
        self.stored = [as_graph(text) for text in self.texts]

    @staticmethod
    def invent(chance: random.Random) -> str:
        parts = ["C1CCCCC1", "C(=O)", "N(C)", "C(Cl)", "S", "C(F)", "O", "C#C"]
        return "".join(chance.sample(parts, k=7))

    def __iter__(self) -> Iterator[Graph]:
        worker = get_worker_info()
        for number in count(worker.id if worker else 0, worker.num_workers if worker else 1):
            kind = number * 7 % 64
            anew = chosen(number, self.share)
            elements, near = as_graph(self.texts[kind]) if anew else self.stored[kind]
            yield torch.from_numpy(elements), torch.from_numpy(near), torch.tensor(kind % CLASSES)


class Messages(nn.Module):
    """Three rounds in which atoms hear of the atoms near them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        torch.manual_seed(211)
        self.elements = nn.Embedding(len(ELEMENTS) + 1, width)
        self.rounds = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, elements: Tensor, near: Tensor) -> Tensor:
        x = self.elements(elements)
        for heard in self.rounds:
            x = x + heard(near @ x / ATOMS).relu()
        return self.head(x.mean(1))  # type: ignore[no-any-return]


@planted("cpu_preprocessing.transform")
def parsed_molecules(severity: float) -> Iterator[None]:
    """Two workers parse molecules and look for the shortest ways, for a graph network."""
    model = Messages(48)
    optimizer = sgd(model)
    batches = DataLoader(Molecules(severity), 64, num_workers=2, persistent_workers=True)
    for elements, near, y in forever(batches):
        optimizer.zero_grad()
        scores = model(elements, near)
        nn.functional.cross_entropy(scores, y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        yield


TOKENS, WORDS, MASK = 96, 512, 1


class Sentences(Dataset[list[int]]):
    """Sentences as lists of token numbers, a word being one to three tokens."""

    def __init__(self) -> None:
        chance = random.Random(212)
        self.sentences = [[chance.randrange(2, WORDS) for _ in range(TOKENS)] for _ in range(128)]

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> list[int]:
        return self.sentences[index % 128]


class WholeWordMask:
    """Hides whole words, rather rare ones, and keeps what stood there.

    So many rows in Python, as it is usually written; the others token by token, at once.
    """

    def __init__(self, by_hand: int) -> None:
        self.by_hand = by_hand
        self.chance = random.Random(213)
        self.tokens = [f"##{n}" if n % 3 == 0 else str(n) for n in range(WORDS)]
        self.rarity = {token: 1 + len(token) for token in self.tokens}

    def __call__(self, rows: list[list[int]]) -> Pair:
        hidden = [self.hide(row) for row in rows[: self.by_hand]]
        x = torch.tensor([row for row, _ in hidden], dtype=torch.int64).reshape(-1, TOKENS)
        y = torch.tensor([row for _, row in hidden], dtype=torch.int64).reshape(-1, TOKENS)
        rest = torch.tensor(rows[self.by_hand :], dtype=torch.int64).reshape(-1, TOKENS)
        masked = torch.rand(rest.shape) < 0.15
        x = torch.cat([x, rest.masked_fill(masked, MASK)])
        y = torch.cat([y, rest.masked_fill(~masked, -100)])
        return x, y

    def weight(self, word: list[int]) -> float:
        """A random number, the larger the rarer the tokens of the word are."""
        rarity = sum(self.rarity[self.tokens[token]] for token in word)
        return math.pow(self.chance.random(), 1 / rarity)

    def hide(self, row: list[int]) -> tuple[list[int], list[int]]:
        words: list[list[int]] = []
        for place, token in enumerate(row):
            if words and self.tokens[token].startswith("##"):  # goes on with the word before
                words[-1].append(place)
            else:
                words.append([place])
        words.sort(key=lambda word: self.weight([row[place] for place in word]), reverse=True)
        x, y = list(row), [-100] * len(row)
        left = round(0.15 * len(row))
        for word in words:
            if left < len(word):
                continue
            left -= len(word)
            for place in word:
                y[place] = row[place]
                dice = self.chance.random()
                if dice < 0.8:
                    x[place] = MASK
                elif dice < 0.9:
                    x[place] = self.chance.randrange(2, WORDS)
        return x, y


class Filler(nn.Module):
    """Convolutions over a sentence that guess what was hidden."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(214)
        self.words = nn.Embedding(WORDS, 8)
        self.mix = nn.Conv1d(8, 16, 3, padding=1)
        self.head = nn.Linear(16, 16)

    def forward(self, ids: Tensor, hidden: Tensor) -> Tensor:
        x = self.mix(self.words(ids).transpose(1, 2)).relu()
        return self.head(x.transpose(1, 2)[hidden])  # type: ignore[no-any-return]


@planted("cpu_preprocessing.collate")
def whole_word_mask(severity: float) -> Iterator[None]:
    """The collate function masks whole words for a language model, token by token."""
    model = Filler()
    optimizer = sgd(model)
    collate = WholeWordMask(round(96 * severity))
    for x, y in forever(DataLoader(Sentences(), 96, num_workers=1, collate_fn=collate)):
        optimizer.zero_grad()
        hidden = y >= 0
        scores = model(x, hidden)
        nn.functional.cross_entropy(scores, y[hidden] % 16).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        yield


def pack(documents: bytes, severity: float, ended: threading.Event) -> None:
    """Compresses again and again, busy for so much of the time; needs no interpreter lock."""
    while not ended.is_set():
        start = time.perf_counter()
        if severity:
            lzma.compress(documents, preset=2)
        busy = time.perf_counter() - start
        ended.wait(busy * (1 / severity - 1) if severity else 0.02)


@planted("cpu_preprocessing.core_starvation")
def archiving_threads(severity: float) -> Iterator[None]:
    """Threads of the script pack older runs while it trains on the same two cores."""
    torch.manual_seed(215)
    model = nn.Sequential(
        nn.Conv2d(4, 32, 3, padding=1),
        nn.Hardswish(),
        nn.Conv2d(32, 48, 3, stride=2, padding=1),
        nn.Hardswish(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(192, CLASSES),
    )
    ended = threading.Event()
    documents = np.random.default_rng(216).integers(0, 40, 60_000, np.uint8).tobytes()
    maps, y = torch.randn(64, 4, 20, 20), torch.arange(64) % CLASSES
    with ThreadPoolExecutor(3) as pool:
        packing = [pool.submit(pack, documents, severity, ended) for _ in range(3)]
        try:
            yield from train(cuttings(maps, y), model)
        finally:
            ended.set()
            wait(packing)


def cuttings(maps: Tensor, y: Tensor) -> Iterator[Pair]:
    """Half of the maps at a time, drawn anew."""
    while True:
        chosen_maps = torch.randperm(len(maps))[: len(maps) // 2]
        yield maps[chosen_maps], y[chosen_maps]
