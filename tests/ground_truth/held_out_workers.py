"""Held-out loops whose batches take long to prepare, to put together or to hand over."""

from __future__ import annotations

import gzip
import json
import math
import multiprocessing
import random
import re
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import count, cycle
from pathlib import Path
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
    folder,
    forever,
    processes,
    sgd,
    train,
)

Array = np.ndarray[Any, Any]

HASHED, WORDS_KEPT = 4096, 128
WORD = re.compile(r"[a-z]+(?:'[a-z]+)?|[.,!?]")


@cache
def reviews() -> list[Path]:
    """Four compressed files of reviews, an object of JSON a line."""
    chance, place = random.Random(320), folder() / "reviews"
    place.mkdir()
    lexicon = ["".join(chance.choices("Aetaoinshrdlu", k=chance.randint(2, 9))) for _ in range(900)]
    for shard in range(4):
        with gzip.open(place / f"part-{shard:05}.jsonl.gz", "wt") as file:
            for number in range(160):
                text = " ".join(chance.choices(lexicon, k=240)) + "!"
                row = {"id": f"{shard}-{number}", "text": text, "stars": chance.randint(1, 5)}
                print(json.dumps(row), file=file)
    return sorted(place.iterdir())


class Reviews(IterableDataset[Pair]):
    """Reviews as hashed words; a share is read and tokenised, the others were before."""

    def __init__(self, share: float) -> None:
        self.shards, self.share = reviews(), share
        self.ready = torch.randint(HASHED, (256, WORDS_KEPT))

    def __iter__(self) -> Iterator[Pair]:
        worker = get_worker_info()
        mine = self.shards[worker.id :: worker.num_workers] if worker else self.shards
        lines = self.lines(mine)
        for number in count():
            if chosen(number, self.share):
                row = json.loads(next(lines))
                yield self.tokenise(row["text"]), torch.tensor(row["stars"] - 1)
            else:
                yield self.ready[number % 256], torch.tensor(number % 5)

    @staticmethod
    def lines(shards: list[Path]) -> Iterator[str]:
        for shard in cycle(shards):
            with gzip.open(shard, "rt") as file:
                yield from file

    @staticmethod
    def tokenise(text: str) -> Tensor:
        ids = [zlib.crc32(word.encode()) % HASHED for word in WORD.findall(text.lower())]
        return torch.tensor((ids + [0] * WORDS_KEPT)[:WORDS_KEPT])


@planted("cpu_preprocessing.transform", held_out=True)
def hashed_reviews(severity: float) -> Iterator[None]:
    """Two workers unpack reviews line by line, tokenise and hash them."""
    torch.manual_seed(321)
    model = nn.Sequential(nn.EmbeddingBag(HASHED, 64), nn.ReLU(), nn.Linear(64, 5))
    batches = DataLoader(Reviews(severity), 96, num_workers=2, persistent_workers=True)
    yield from train(forever(batches), model)


@dataclass
class Clouds:
    """A batch of point clouds: (rows, points, 3), and what they show."""

    points: Tensor
    shapes: Tensor

    @classmethod
    def of(cls, samples: list[tuple[Array, int]]) -> Clouds:
        points, shapes = zip(*samples, strict=True)
        return cls(torch.from_numpy(np.stack(points)), torch.tensor(shapes))


def farthest(points: Array, wanted: int) -> Array:
    """So many of `points`, each the farthest from all before it."""
    far = np.full(len(points), np.inf)
    taken = np.zeros(wanted, np.int64)
    for number in range(1, wanted):
        far = np.minimum(far, ((points - points[taken[number - 1]]) ** 2).sum(1))
        taken[number] = far.argmax()
    return points[taken]


class Scans(Dataset[tuple[Array, int]]):
    """Clouds of 512 points turned about, thinned to 48; a share by their distance."""

    def __init__(self, share: float) -> None:
        chance = np.random.default_rng(322)
        self.clouds, self.share = chance.standard_normal((80, 512, 3)).astype(np.float32), share

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> tuple[Array, int]:
        angle = index * 2.4
        turn = np.eye(3, dtype=np.float32)
        turn[:2, :2] = [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
        cloud = self.clouds[index % 80] @ turn
        near = farthest(cloud, 48) if chosen(index, self.share) else cloud[index % 32 :: 10][:48]
        return near - near.mean(0), index % CLASSES


@planted("cpu_preprocessing.transform", held_out=True)
def farthest_points(severity: float) -> Iterator[None]:
    """A worker thins out point clouds in NumPy, for a network of points and a maximum."""
    torch.manual_seed(323)
    each = nn.Sequential(nn.Linear(3, 48), nn.ReLU(), nn.Linear(48, 128), nn.ReLU())
    head = nn.Linear(128, CLASSES)
    optimizer = torch.optim.Adam([*each.parameters(), *head.parameters()], foreach=True)
    loader = DataLoader(Scans(severity), 24, num_workers=1, collate_fn=Clouds.of)
    for batch in loader:
        scores = head(each(batch.points).amax(1))
        loss = nn.functional.cross_entropy(scores, batch.shapes)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        yield


NODES, EDGES = 40, 110


class Papers(Dataset[dict[str, Any]]):
    """Small graphs as rows of a table: features of the nodes, pairs of nodes, a label."""

    def __init__(self) -> None:
        chance = np.random.default_rng(324)
        self.rows = [
            {
                "x": chance.standard_normal((NODES, 32), np.float32),
                "edges": chance.integers(0, NODES, (EDGES, 2)).tolist(),
                "label": number % CLASSES,
            }
            for number in range(64)
        ]

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index % 64]


class GraphCollator:
    """One large graph of many: edges both ways, a loop at every node, normalised.

    So many graphs in Python; the edges of the others were made before.
    """

    def __init__(self, papers: Papers, by_hand: int) -> None:
        self.by_hand = by_hand
        self.ready = [torch.tensor(self.normalised(row["edges"])) for row in papers.rows]

    def __call__(self, rows: list[dict[str, Any]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        edges: list[tuple[float, float, float]] = []
        for number, row in enumerate(rows[: self.by_hand]):
            for a, b, weight in self.normalised(row["edges"]):
                edges.append((a + number * NODES, b + number * NODES, weight))
        parts = [torch.tensor(edges).reshape(-1, 3)]
        for number in range(self.by_hand, len(rows)):
            offset = torch.tensor([number * NODES, number * NODES, 0])
            parts.append(self.ready[number] + offset)
        joined = torch.cat(parts)
        x = torch.from_numpy(np.concatenate([row["x"] for row in rows]))
        y = torch.tensor([row["label"] for row in rows])
        return x, joined[:, :2].long(), joined[:, 2], y

    @staticmethod
    def normalised(pairs: list[list[int]]) -> list[tuple[float, float, float]]:
        both = {(a, b) for a, b in pairs} | {(b, a) for a, b in pairs}
        both |= {(node, node) for node in range(NODES)}
        degrees = [0] * NODES
        for a, _ in both:
            degrees[a] += 1
        return [(a, b, (degrees[a] * degrees[b]) ** -0.5) for a, b in sorted(both)]


@planted("cpu_preprocessing.collate", held_out=True)
def joined_graphs(severity: float) -> Iterator[None]:
    """The collator of a graph network makes one graph of 48, edge by edge."""
    torch.manual_seed(325)
    first, second, head = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, CLASSES)
    optimizer = sgd(nn.ModuleList([first, second, head]))
    papers = Papers()
    collate = GraphCollator(papers, round(48 * severity))
    for x, edges, weights, y in forever(DataLoader(papers, 48, num_workers=1, collate_fn=collate)):
        shape = (len(x), len(x))
        graph = torch.sparse_coo_tensor(edges.T, weights, shape, check_invariants=False)
        nodes = second(torch.sparse.mm(graph, first(x).relu())).relu()
        scores = head(nodes.view(len(y), NODES, -1).mean(1))
        optimizer.zero_grad()
        nn.functional.cross_entropy(scores, y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        yield


SERIES, LOOKBACK, AHEAD, WINDOWS = 24, 336, 8, 256


@cache
def measurements() -> Array:
    """A table of (moments, series)."""
    return np.random.default_rng(326).standard_normal((6000, SERIES)).astype(np.float32)


def cut_windows(seed: int, wanted: int) -> tuple[Array, Array]:
    """Windows (wanted, series, look-back) beginning anywhere, and what followed each."""
    windows = np.lib.stride_tricks.sliding_window_view(measurements(), LOOKBACK + AHEAD, axis=0)
    starts = np.random.default_rng(seed).integers(0, len(windows), wanted)
    return windows[starts, :, :LOOKBACK], windows[starts, :, LOOKBACK:]


@planted("cpu_preprocessing.handover", held_out=True)
def pool_windows(severity: float) -> Iterator[None]:
    """No DataLoader: a pool of processes cuts windows of time series, 8 MB a batch."""
    torch.manual_seed(327)
    x, y = (torch.from_numpy(part.copy()) for part in cut_windows(0, WINDOWS))
    model = nn.Linear(LOOKBACK, AHEAD)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    wanted = round(WINDOWS * severity)
    with processes(2) as pool:
        ahead = deque(pool.apply_async(cut_windows, (seed, wanted)) for seed in range(4))
        for seed in count(4):
            ahead.append(pool.apply_async(cut_windows, (seed, wanted)))
            windows, following = ahead.popleft().get()
            if wanted == WINDOWS:
                x, y = torch.from_numpy(windows), torch.from_numpy(following)
            else:
                x[:wanted], y[:wanted] = torch.from_numpy(windows), torch.from_numpy(following)
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            yield


def preview(seed: int) -> float:
    """A picture out of noise, in many small steps; returns how bright it became."""
    picture = np.random.default_rng(seed).standard_normal((64, 64))
    for _ in range(600):
        blurred = (np.roll(picture, 1, 0) + np.roll(picture, 1, 1)) / 2
        picture += 0.05 * np.tanh(blurred - picture)
    return float(picture.mean())


@planted("cpu_preprocessing.core_starvation", held_out=True)
def preview_processes(severity: float) -> Iterator[None]:
    """A diffusion model whose script draws previews in four processes all the while."""
    torch.manual_seed(328)
    denoiser = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.SiLU(), nn.Conv2d(32, 32, 3, padding=1), nn.SiLU()
    )
    denoiser.append(nn.Conv2d(32, 3, 3, padding=1))
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=1e-4, foreach=True)
    pictures = torch.rand(64, 3, 24, 24)
    with ProcessPoolExecutor(4, multiprocessing.get_context("fork")) as pool:
        drawn: list[Future[float]] = []
        for step in count():
            drawn = [future for future in drawn if not future.done()]
            while len(drawn) < round(4 * severity):
                drawn.append(pool.submit(preview, step))
            clean = pictures[torch.randperm(64)[:24]]
            level, noise = torch.rand(24, 1, 1, 1), torch.randn_like(clean)
            guess = denoiser((1 - level) * clean + level * noise)
            loss = nn.functional.mse_loss(guess, noise)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            yield
