"""A third set of loops whose batches take long to prepare, to put together or to hand over."""

from __future__ import annotations

import io
import queue
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count, pairwise
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

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


class Photos(Dataset[Pair]):
    """WebP pictures, of which a share is decoded, cropped and scaled whenever asked for."""

    side = 48

    def __init__(self, share: float) -> None:
        chance = np.random.default_rng(60)
        self.share, self.chance = share, random.Random(61)
        self.files = [self.encode(chance.integers(0, 255, (14, 14, 3))) for _ in range(24)]
        self.stored = [self.crop(file) for file in self.files]

    @staticmethod
    def encode(coarse: np.ndarray[Any, Any]) -> bytes:
        buffer = io.BytesIO()
        picture = Image.fromarray(coarse.astype(np.uint8)).resize((128, 128))
        picture.save(buffer, "WEBP", quality=80)
        return buffer.getvalue()

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> Pair:
        number = index % len(self.files)
        anew = chosen(index, self.share)
        picture = self.crop(self.files[number]) if anew else self.stored[number]
        pixels = torch.from_numpy(picture).permute(2, 0, 1).float()
        return (pixels - 127) / 64, torch.tensor(index % CLASSES)

    def crop(self, file: bytes) -> np.ndarray[Any, Any]:
        picture = Image.open(io.BytesIO(file)).convert("RGB")
        size = self.chance.randint(64, 120)
        x, y = self.chance.randint(0, 128 - size), self.chance.randint(0, 128 - size)
        box = (x, y, x + size, y + size)
        small = picture.resize((self.side, self.side), Image.Resampling.BICUBIC, box=box)
        return np.array(small.transpose(Image.Transpose.FLIP_LEFT_RIGHT))


@planted("cpu_preprocessing.transform")
def webp_crops(severity: float) -> Iterator[None]:
    """One worker decodes WebP pictures and takes random crops for a small network."""
    torch.manual_seed(62)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=2, padding=2),
        nn.GELU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, CLASSES),
    )
    yield from train(DataLoader(Photos(severity), 20, num_workers=1), model)


class BytePairs:
    """Byte-pair encoding as the paper has it: merges the best pair until there is none."""

    def __init__(self) -> None:
        chance = random.Random(63)
        letters = "etaoinshr"
        self.ranks = {(a, b): chance.random() for a in letters for b in letters}
        self.lines = [" ".join(self.word(chance) for _ in range(16)) for _ in range(64)]

    @staticmethod
    def word(chance: random.Random) -> str:
        return "".join(chance.choices("etaoinshr", k=chance.randint(4, 9)))

    def encode(self, line: str) -> list[int]:
        ids = []
        for word in line.split():
            parts = list(word)
            while len(parts) > 2:
                pairs = list(pairwise(parts))
                ranked = [self.ranks.get(pair, 2.0) for pair in pairs]
                best = ranked.index(min(ranked))
                parts[best : best + 2] = [parts[best] + parts[best + 1]]
            ids += [sum(map(ord, part)) % 2000 for part in parts]
        return (ids + 32 * [0])[:32]

    def batch(self, number: int, encoded: int) -> Pair:
        """64 lines; so many of them are encoded, the others were before."""
        rows = [self.encode(self.lines[(number + row) % 64]) for row in range(encoded)]
        near = torch.arange((64 - encoded) * 32).reshape(-1, 32) % 2000
        far = torch.tensor(rows, dtype=torch.int64).reshape(-1, 32)
        return torch.cat([far, near]), torch.arange(64) % CLASSES


def fill(batches: queue.Queue[Pair], severity: float, ended: threading.Event) -> None:
    pairs = BytePairs()
    for number in count():
        batch = pairs.batch(number, round(64 * severity))
        while not ended.is_set():
            with suppress(queue.Full):
                batches.put(batch, timeout=0.05)
                break
        if ended.is_set():
            return


# Without a DataLoader, what a thread of the script does in Python is also just Python.
@planted("cpu_preprocessing.transform", accepted=("host.python",))
def thread_loader(severity: float) -> Iterator[None]:
    """No DataLoader: a thread of the script encodes byte pairs and fills a queue."""
    batches: queue.Queue[Pair] = queue.Queue(4)
    ended = threading.Event()
    thread = threading.Thread(target=fill, args=(batches, severity, ended), daemon=True)
    torch.manual_seed(64)
    model = nn.Sequential(
        nn.EmbeddingBag(
            2000,
            256,
        ),
        mlp(hidden=640),
    )
    optimizer = sgd(model)
    thread.start()
    try:
        while True:
            train_step(model, optimizer, batches.get())
            yield
    finally:
        ended.set()
        thread.join()


class Clouds(Dataset[np.ndarray[Any, Any]]):
    """Point clouds of 700 to 1300 points, ready in memory."""

    def __init__(self) -> None:
        chance = np.random.default_rng(65)
        sizes = chance.integers(700, 1300, 64)
        self.clouds = [chance.random((size, 4), dtype=np.float32) for size in sizes]

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> np.ndarray[Any, Any]:
        return self.clouds[index % len(self.clouds)]


class OneAfterTheOther:
    """Appends a share of the clouds to what is there already, and the rest at once."""

    def __init__(self, share: float) -> None:
        self.share = share

    def __call__(self, clouds: list[np.ndarray[Any, Any]]) -> Pair:
        appended = round(self.share * len(clouds))
        points = np.empty((0, 4), np.float32)
        owner = np.empty(0, np.int64)
        for number, cloud in enumerate(clouds[:appended]):
            points = np.concatenate([points, cloud])
            owner = np.append(owner, np.full(len(cloud), number))
        rest = clouds[appended:]
        sizes = [len(cloud) for cloud in rest]
        points = np.concatenate([points, *rest])
        owner = np.concatenate([owner, np.repeat(np.arange(appended, len(clouds)), sizes)])
        return torch.from_numpy(points), torch.from_numpy(owner.astype(np.int64))


@planted("cpu_preprocessing.collate")
def growing_collate(severity: float) -> Iterator[None]:
    """Point clouds are appended to the batch one by one: all before are copied each time."""
    torch.manual_seed(66)
    lift, head = nn.Linear(4, 16), nn.Linear(16, CLASSES)
    optimizer = torch.optim.SGD([*lift.parameters(), *head.parameters()], lr=1e-3)
    y = torch.arange(112) % CLASSES
    loader = DataLoader(Clouds(), 112, collate_fn=OneAfterTheOther(severity))
    for points, owner in loader:
        optimizer.zero_grad()
        summed = torch.zeros(112, 16).index_add(0, owner, lift(points).relu())
        nn.functional.cross_entropy(head(summed / 1000), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        yield


class Pages(Vectors):
    """Vectors of scanned pages, and with them all words that were recognised there."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.words = [
            [
                {"text": f"word-{n * page}", "box": [n, page, n + 40, page + 12], "sure": n / 999}
                for n in range(words)
            ]
            for page in range(32)
        ]

    def page(self, index: int) -> tuple[Tensor, Tensor, list[dict[str, Any]]]:
        return *self[index], self.words[index % 32]

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, Tensor, Any]]:
        return [self.page(index) for index in indices]


def with_words(samples: list[tuple[Tensor, Tensor, Any]]) -> tuple[Tensor, Tensor, list[Any]]:
    """Vectors and labels as tensors, the words as they are."""
    x, y, words = zip(*samples, strict=True)
    return torch.stack(x), torch.stack(y), list(words)


@planted("cpu_preprocessing.handover")
def word_dicts(severity: float) -> Iterator[None]:
    """Every batch brings thousands of small dicts, pickled by the worker and unpickled here."""
    model = mlp(hidden=384)
    optimizer = sgd(model)
    dataset = Pages(round(90 * severity))
    for x, y, words in DataLoader(dataset, 32, num_workers=1, collate_fn=with_words):
        train_step(model, optimizer, (x, y))
        del words
        yield


EVALUATION = """
import select, sys, time
share = float(sys.argv[1])
end = time.monotonic() + 600
while not select.select([0], [], [], 0)[0] and time.monotonic() < end:
    start = time.perf_counter()
    while time.perf_counter() - start < 0.02 * share:
        sum(range(2000))
    time.sleep(0.02 * (1 - share))
"""


@contextmanager
def evaluations(number: int, share: float) -> Iterator[None]:
    """Child processes that are busy for so much of their time."""
    command = [sys.executable, "-S", "-c", EVALUATION, str(share)]
    with ExitStack() as stack:
        for _ in range(number):
            child = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE))
            stack.callback(child.kill)
        yield


@planted("cpu_preprocessing.core_starvation")
def evaluation_jobs(severity: float) -> Iterator[None]:
    """The script has started three evaluations of older checkpoints, on the same two cores."""
    with arithmetic_threads(1), evaluations(3, severity):
        yield from train(forever(DataLoader(Vectors(), 96)), mlp(hidden=640))
