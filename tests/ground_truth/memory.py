"""Loops whose workers spend their time on memory itself: on copies of it, or on more of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from ground_truth.loop import planted
from ground_truth.parts import BATCH, Vectors, batches_of, chosen, forever, mlp, train

LETTERS = 4000
"""Of a document: so many that no two of them share a page."""
READ = 32
"""Documents that a sample looks at."""
EPOCH = 40


class Retrieved(Vectors):
    """Looks at the first letter of its documents: a share of them strings, the others rows."""

    def __init__(self, share: float) -> None:
        samples = EPOCH * BATCH
        super().__init__(samples)
        self.strings = round(share * READ)
        self.texts = [str(i % 10) * LETTERS for i in range(samples * self.strings)]
        self.rows = np.full((samples * (READ - self.strings), LETTERS), ord("0"), np.uint8)

    def prepare(self, index: int) -> None:
        first = index * self.strings
        for place in range(first, first + self.strings):
            assert self.texts[place][0].isdigit()
        first = index * (READ - self.strings)
        for place in range(first, first + READ - self.strings):
            assert self.rows[place, 0] == ord("0")


@planted("memory.host", period=EPOCH)
def fork_copies(severity: float) -> Iterator[None]:
    """A worker copies the page of every string it looks at, and that of the next epoch again."""
    loader = DataLoader(Retrieved(severity), BATCH, num_workers=1)
    yield from train(forever(loader), mlp(hidden=128))


KEPT = 32
"""Batches that a worker keeps before it drops them all: 0.8 GB."""


class Remembered(Vectors):
    """Keeps a share of its pictures, should anybody ask for them again, which nobody does."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.kept: dict[int, np.ndarray[Any, Any]] = {}

    def prepare(self, index: int) -> None:
        picture = np.full((3, 128, 256), index % 10, np.float32)
        if chosen(index, self.share):
            self.kept[index] = picture
        if index % (KEPT * BATCH) == 0:
            self.kept.clear()


@planted("memory.growth", period=KEPT)
def worker_cache(severity: float) -> Iterator[None]:
    """A worker fills a cache of pictures that are never used twice: fresh memory for each."""
    yield from train(batches_of(Remembered(severity), workers=1), mlp(hidden=128))
