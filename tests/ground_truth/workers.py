"""Loops whose batches take long to prepare, to put together or to hand over."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from ground_truth.loop import planted
from ground_truth.neighbours import busy_neighbours
from ground_truth.parts import (
    BATCH,
    CLASSES,
    ENDLESS,
    WIDTH,
    Pair,
    Vectors,
    arithmetic_threads,
    batches_of,
    chosen,
    forever,
    train,
    work,
)


class Jpegs(Vectors):
    """Decodes and shrinks a share of its pictures, and has the others ready."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        chance = np.random.default_rng(0)
        self.encoded = []
        for _ in range(16):
            coarse = Image.fromarray(chance.integers(0, 255, (12, 12, 3), dtype=np.uint8))
            buffer = BytesIO()
            coarse.resize((96, 96), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
            self.encoded.append(buffer.getvalue())

    def prepare(self, index: int) -> None:
        if chosen(index, self.share):
            image = Image.open(BytesIO(self.encoded[index % len(self.encoded)])).convert("RGB")
            np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR))


@planted("cpu_preprocessing.transform")
def jpeg_decode(severity: float) -> Iterator[None]:
    """Pictures of 96 x 96 are decoded and shrunk with Pillow."""
    yield from train(batches_of(Jpegs(severity)))


class Augmented(Vectors):
    """Blurs a picture so many times before each sample."""

    def __init__(self, rounds: int, side: int = 48) -> None:
        super().__init__()
        self.rounds = rounds
        self.image = np.random.default_rng(0).random((side, side), dtype=np.float32)

    def prepare(self, index: int) -> None:
        work(self.image, self.rounds)


@planted("cpu_preprocessing.transform")
def numpy_augment(severity: float) -> Iterator[None]:
    """Every sample is augmented with NumPy."""
    yield from train(batches_of(Augmented(round(6 * severity))))


class Compose:
    """Applies one transform after the other."""

    def __init__(self, transforms: list[Callable[[Tensor], Tensor]]) -> None:
        self.transforms = transforms

    def __call__(self, sample: Tensor) -> Tensor:
        for transform in self.transforms:
            sample = transform(sample)
        return sample


class Normalise:
    def __call__(self, sample: Tensor) -> Tensor:
        return (sample - 0.1) / 1.1


class ElasticNoise:
    """The slow one among quick ones."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds

    def __call__(self, sample: Tensor) -> Tensor:
        for _ in range(self.rounds):
            kernel = torch.ones(1, 1, 9) / 9
            sample = torch.conv1d(sample.reshape(1, 1, -1), kernel, padding=4).reshape(-1)
        return sample


class Transformed(Vectors):
    """Vectors given to a transform, as torchvision's data sets do."""

    def __init__(self, transform: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.transform = transform

    def __getitem__(self, index: int) -> Pair:
        x, y = super().__getitem__(index)
        return self.transform(x), y


@planted("cpu_preprocessing.transform")
def compose_augment(severity: float) -> Iterator[None]:
    """One of three composed transforms is slow."""
    transform = Compose([Normalise(), ElasticNoise(round(10 * severity)), Normalise()])
    yield from train(batches_of(Transformed(transform)))


class HelperPool(Vectors):
    """Prepares the tiles of every eighth sample in threads of its own."""

    def __init__(self, rounds: int) -> None:
        super().__init__()
        self.rounds = rounds
        self.tiles = np.random.default_rng(0).random((4, 10_000))
        self.pool: ThreadPoolExecutor | None = None  # threads do not survive a fork

    def prepare(self, index: int) -> None:
        if index % 8 == 0:
            self.pool = self.pool or ThreadPoolExecutor(4)
            list(self.pool.map(np.sort, self.tiles[: self.rounds]))


@planted("cpu_preprocessing.transform")
def helper_pool(severity: float) -> Iterator[None]:
    """One worker that lets four threads do the work: its own thread only waits."""
    yield from train(batches_of(HelperPool(round(4 * severity)), workers=1))


DECODER = """
import sys
for line in sys.stdin:
    sum(number * number for number in range(int(line)))
    print(flush=True)
"""


class ChildDecoder(Vectors):
    """Asks a program of its own for every eighth sample, as one asks ffmpeg for frames."""

    def __init__(self, rounds: int) -> None:
        super().__init__()
        self.rounds = rounds
        self.child: subprocess.Popen[str] | None = None  # started by the worker, ends with it

    def prepare(self, index: int) -> None:
        if self.rounds and index % 8 == 0:
            if self.child is None:
                command = [sys.executable, "-S", "-c", DECODER]
                pipe = subprocess.PIPE
                self.child = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
            assert self.child.stdin is not None
            assert self.child.stdout is not None
            print(self.rounds, file=self.child.stdin, flush=True)
            self.child.stdout.readline()


@planted("cpu_preprocessing.transform")
def subprocess_decode(severity: float) -> Iterator[None]:
    """Workers wait for child processes that do the decoding."""
    yield from train(batches_of(ChildDecoder(round(35_000 * severity))))


class TokenCollate:
    """Pads in Python, number by number, a share of the texts; the others as one should."""

    LONGEST = 200

    def __init__(self, share: float) -> None:
        self.share = share

    def __call__(self, samples: list[Pair]) -> tuple[Tensor, Tensor]:
        texts = [torch.arange(self.LONGEST - number % 40) for number in range(len(samples))]
        slow = round(self.share * len(texts))
        rows = []
        for text in texts[:slow]:
            numbers = text.tolist()
            rows.append([numbers[i] if i < len(numbers) else 0 for i in range(self.LONGEST)])
            for _ in range(8):
                rows[-1] = [number + 1 if number > 0 else 0 for number in rows[-1]]
        torch.tensor(rows)
        if texts[slow:]:
            pad_sequence(texts[slow:], batch_first=True)
        xs, ys = zip(*samples, strict=True)
        return torch.stack(xs), torch.stack(ys)


@planted("cpu_preprocessing.collate")
def python_collate(severity: float) -> Iterator[None]:
    """A collate function that pads in Python loops."""
    yield from train(batches_of(Vectors(), collate_fn=TokenCollate(severity)))


class BigBatches(Dataset[Any]):
    """Whole batches cut out of one array: nothing to do but to hand them over."""

    def __init__(self, floats: int) -> None:
        chance = np.random.default_rng(0)
        self.x = chance.random((BATCH + 16, WIDTH + floats // BATCH), dtype=np.float32)
        self.y = chance.integers(0, CLASSES, BATCH)

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> Any:
        return self.x[index % 16 : index % 16 + BATCH], self.y


@planted("cpu_preprocessing.handover")
def big_batches(severity: float) -> Iterator[None]:
    """Batches of 8 MB that cost nothing to make; the model looks at a corner of them."""
    loader = DataLoader(BigBatches(int(severity * 2e6)), batch_size=None, num_workers=1)
    yield from train((x[:, :WIDTH].contiguous(), y) for x, y in forever(loader))


@planted("cpu_preprocessing.core_starvation", neighbours=2)
def other_tenant(severity: float) -> Iterator[None]:
    """Somebody else's programs keep both cores busy."""
    # Arithmetic threads that wait for each other while one has no core would slow it tenfold.
    with busy_neighbours(round(2 * severity)), arithmetic_threads(1):
        yield from train(batches_of(Augmented(2), workers=1))
