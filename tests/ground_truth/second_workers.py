"""Loops whose workers, or what stands between them and the step, are too slow."""

from __future__ import annotations

import lzma
import random
import re
import threading
from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    Sampler,
    SequentialSampler,
    TensorDataset,
)

from ground_truth.loop import planted
from ground_truth.parts import (
    CLASSES,
    ENDLESS,
    Pair,
    Vectors,
    arithmetic_threads,
    chosen,
    forever,
    mlp,
    sgd,
    train,
    train_step,
)

WORD = re.compile(r"[a-z]+(?:'[a-z]+)?|\d+(?:\.\d+)?|[^\w\s]", re.IGNORECASE)
VOCABULARY = 5000


def tokens(text: str) -> list[int]:
    """Numbers of the words of a text."""
    return [sum(map(ord, word.lower())) % VOCABULARY for word in WORD.findall(text)]


class Texts(Dataset[tuple[list[int], int]]):
    """Texts of 240 words; a share of them is tokenised anew whenever it is asked for."""

    def __init__(self, share: float) -> None:
        chance = random.Random(7)
        words = [
            "".join(chance.choices("etaoinshrdlu", k=chance.randint(2, 9))) for _ in range(999)
        ]
        self.texts = [" ".join(chance.choices(words, k=240)) + "." for _ in range(256)]
        self.stored = [tokens(text) for text in self.texts]
        self.share = share

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> tuple[list[int], int]:
        number = index % len(self.texts)
        anew = chosen(index, self.share)
        return tokens(self.texts[number]) if anew else self.stored[number], index % CLASSES


def as_bags(samples: list[tuple[list[int], int]]) -> tuple[Tensor, Tensor, Tensor]:
    """All words one after the other, where each text begins, and the labels."""
    lengths = np.array([len(words) for words, _ in samples])
    flat = np.concatenate([np.asarray(words) for words, _ in samples])
    offsets = np.cumsum(lengths) - lengths
    labels = torch.tensor([label for _, label in samples])
    return torch.from_numpy(flat), torch.from_numpy(offsets), labels


@planted("cpu_preprocessing.transform")
def tokenise(severity: float) -> Iterator[None]:
    """One worker that tokenises with a regular expression, for a bag of words."""
    torch.manual_seed(8)
    bag = nn.EmbeddingBag(VOCABULARY, 64, sparse=True)
    head = nn.Sequential(nn.Linear(64, 768), nn.SiLU(), nn.Linear(768, CLASSES))
    optimizer = torch.optim.SGD([*bag.parameters(), *head.parameters()], lr=1e-3)
    for words, offsets, y in DataLoader(Texts(severity), 80, num_workers=1, collate_fn=as_bags):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(head(bag(words, offsets)), y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        yield


class Recordings(Dataset[Pair]):
    """Half a second of sound as 31 frames of 32 bands, computed or stored; batches at once."""

    frames, window, hop, bands = 31, 512, 240, 32

    def __init__(self, share: float) -> None:
        chance = np.random.default_rng(9)
        self.sound = chance.standard_normal((64, 8000))
        self.stored = np.stack([self.spectrum(sound) for sound in self.sound])
        self.share = share

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> Pair:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[Pair]:
        return [(torch.from_numpy(self.bands_of(i)), torch.tensor(i % CLASSES)) for i in indices]

    def bands_of(self, index: int) -> np.ndarray[Any, Any]:
        number = index % len(self.sound)
        if chosen(index, self.share):
            return self.spectrum(self.sound[number])
        bands: np.ndarray[Any, Any] = self.stored[number]
        return bands

    def spectrum(self, sound: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        starts = np.arange(self.frames) * self.hop
        cut = sound[starts[:, None] + np.arange(self.window)] * np.hanning(self.window)
        power = np.abs(np.fft.rfft(cut, axis=1))[:, 1:] ** 2
        bands = power.reshape(self.frames, self.bands, -1).sum(2)
        bands = np.log1p(np.repeat(bands, 8, 1)).reshape(self.frames, self.bands, 8).mean(2)
        scaled = (bands - bands.mean(0)) / (bands.std(0) + 1e-6)
        return np.asarray(scaled, np.float32)


class Listener(nn.Module):
    """A recurrent network over the frames."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(10)
        self.gru = nn.GRU(Recordings.bands, 64, batch_first=True)
        self.head = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x)[0][:, -1])  # type: ignore[no-any-return]


@planted("cpu_preprocessing.transform")
def spectra(severity: float) -> Iterator[None]:
    """Four workers on two cores compute spectra for a small GRU."""
    yield from train(DataLoader(Recordings(severity), 96, num_workers=4), Listener())


class Documents(Vectors):
    """Vectors of which the first 512 lie in compressed documents, to be unpacked at each use."""

    def __init__(self, severity: float) -> None:
        super().__init__(1024)
        words = np.random.default_rng(11).integers(
            97, 105, round(32_000 * severity), dtype=np.uint8
        )
        self.document = lzma.compress(words.tobytes())

    def prepare(self, index: int) -> None:
        if index < 512:
            lzma.decompress(self.document)


class ByLength(Sampler[list[int]]):
    """Batches of one kind: every fourth one of documents, the others of short texts."""

    def __iter__(self) -> Iterator[list[int]]:
        for number in range(ENDLESS):
            first = 48 * (number % 10) + (0 if number % 4 == 0 else 512)
            yield list(range(first, first + 48))


@planted("cpu_preprocessing.transform", period=4)
def long_documents(severity: float) -> Iterator[None]:
    """Batches by length: those that are ready wait for the one batch in four that is slow."""
    loader = DataLoader(
        Documents(severity), batch_sampler=ByLength(), num_workers=3, prefetch_factor=1
    )
    yield from train(loader)


Row = np.ndarray[Any, np.dtype[np.int64]]


class Sentences(Dataset[Row]):
    """Word numbers of texts of 600 to 1000 words, ready in memory."""

    def __init__(self) -> None:
        chance = np.random.default_rng(12)
        self.rows = [chance.integers(1, VOCABULARY, n) for n in chance.integers(600, 1000, 64)]

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> Row:
        row: Row = self.rows[index % len(self.rows)]
        return row


class AsLists:
    """Pads a share of the texts as lists of Python numbers, the others in one array."""

    def __init__(self, share: float) -> None:
        self.share = share

    def __call__(self, rows: list[Row]) -> Pair:
        lists = round(self.share * len(rows))
        padded = [row.tolist() + [0] * (1000 - len(row)) for row in rows[:lists]]
        mask = [[float(word != 0) for word in row] for row in padded]
        array = np.zeros((len(rows) - lists, 1000), np.int64)
        for number, row in enumerate(rows[lists:]):
            array[number, : len(row)] = row
        words = torch.from_numpy(array)
        ids = torch.cat([torch.tensor(padded, dtype=torch.int64).reshape(lists, 1000), words])
        masks = torch.cat([torch.tensor(mask).reshape(lists, 1000), (words != 0).float()])
        return ids, masks


@planted("cpu_preprocessing.collate")
def list_collate(severity: float) -> Iterator[None]:
    """A collate function that turns arrays into lists and those into tensors again."""
    torch.manual_seed(13)
    table, head = nn.Embedding(VOCABULARY, 16), nn.Linear(16, CLASSES)
    optimizer = torch.optim.SGD([*table.parameters(), *head.parameters()], lr=1e-3)
    y = torch.arange(48) % CLASSES
    for ids, mask in DataLoader(Sentences(), 48, num_workers=1, collate_fn=AsLists(severity)):
        optimizer.zero_grad()
        means = torch.bmm(mask[:, None], table(ids))[:, 0] / mask.sum(1, keepdim=True)
        nn.functional.cross_entropy(head(means), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        yield


class Unstacked:
    """Sends a share of the vectors one by one, the others as one tensor."""

    def __init__(self, share: float) -> None:
        self.share = share

    def __call__(self, samples: list[Pair]) -> tuple[list[Tensor], list[int]]:
        vectors = [x[None].clone() for x, _ in samples]  # or all share the memory of the data set
        single = round(self.share * len(vectors))
        rest = [torch.cat(vectors[single:])] if single < len(vectors) else []
        return vectors[:single] + rest, [int(y) for _, y in samples]


@planted("cpu_preprocessing.handover")
def unstacked(severity: float) -> Iterator[None]:
    """A worker hands over 24 tensors a batch, each through shared memory of its own."""
    model = mlp(hidden=640)
    optimizer = sgd(model)
    for x, y in DataLoader(Vectors(), 24, num_workers=1, collate_fn=Unstacked(severity)):
        train_step(model, optimizer, (torch.cat(x), torch.tensor(y)))
        yield


# The samples are cut out one by one only to be put together again: one change ends both halves.
@planted("cpu_preprocessing.transform", accepted=("cpu_preprocessing.collate",))
def row_by_row(severity: float) -> Iterator[None]:
    """A table in memory, no workers, 1500 rows a batch, each taken by its own index."""
    chance = torch.Generator().manual_seed(14)
    x, y = torch.randn(30_000, 32, generator=chance), torch.arange(30_000) % CLASSES
    table = TensorDataset(x, y)
    row_wise: Iterator[Pair] = forever(DataLoader(table, 1500))
    slices = BatchSampler(SequentialSampler(table), 1500, drop_last=True)
    at_once: Iterator[Pair] = forever(DataLoader(table, None, sampler=slices))
    torch.manual_seed(15)
    model = nn.Sequential(nn.Linear(32, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU())
    model.append(nn.Linear(128, CLASSES))
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-4, foreach=True)
    for number in count():
        train_step(model, optimizer, next(row_wise if chosen(number, severity) else at_once))
        yield


@planted("cpu_preprocessing.core_starvation")
def too_many_threads(severity: float) -> Iterator[None]:
    """Twelve arithmetic threads, as on the machine the script was written for, on two cores."""
    torch.manual_seed(16)
    layers = [layer for _ in range(12) for layer in (nn.Tanh(), nn.Linear(256, 256))]
    model = nn.Sequential(nn.Linear(256, 256), *layers, nn.Linear(256, CLASSES))
    with arithmetic_threads(2 + round(10 * severity)):
        yield from train(DataLoader(Vectors(), 96), model)


def watch(severity: float, ended: threading.Event) -> None:
    """Statistics in plain Python, again and again."""
    while not ended.wait(0.008):
        sum(number * number % 7 for number in range(round(160_000 * severity)))


# It takes Python's lock away from the training, so that a thread of ours starves another.
@planted("host.python", accepted=("cpu_preprocessing.core_starvation",))
def busy_thread(severity: float) -> Iterator[None]:
    """A thread for live statistics computes beside the training, in the same interpreter."""
    ended = threading.Event()
    thread = threading.Thread(target=watch, args=(severity, ended), daemon=True)
    thread.start()
    try:
        yield from train(DataLoader(Vectors(), 64))
    finally:
        ended.set()
        thread.join()
