"""Loops whose samples come late: from a server, a disk, many files, a new worker."""

from __future__ import annotations

import csv
import http.client
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from functools import cache, partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    get_worker_info,
)

from ground_truth import second_server
from ground_truth.loop import planted
from ground_truth.parts import (
    CLASSES,
    ENDLESS,
    WIDTH,
    Pair,
    Vectors,
    chosen,
    folder,
    forever,
    mlp,
    sgd,
    train,
    train_step,
)
from ground_truth.second_server import ROW_BYTES, ROWS


class Features(Dataset[Pair]):
    """Rows of which a share is asked for over HTTP, on one connection a worker."""

    def __init__(self, port: int, share: float) -> None:
        self.port, self.share = port, share
        self.at_hand = [second_server.row(number) for number in range(ROWS)]
        self.connection: http.client.HTTPConnection | None = None

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> Pair:
        body = self.ask(index) if chosen(index, self.share) else self.at_hand[index % ROWS]
        picture = np.frombuffer(body, np.uint8).reshape(4, 32, 32).astype(np.float32) / 255
        return torch.from_numpy(picture), torch.tensor(index % CLASSES)

    def ask(self, index: int) -> bytes:
        if self.connection is None:
            self.connection = http.client.HTTPConnection("127.0.0.1", self.port)
        self.connection.request("GET", f"/row/{index}")
        return self.connection.getresponse().read()


def picture_net() -> nn.Sequential:
    """Two convolutions over 4 x 32 x 32 numbers."""
    assert ROW_BYTES == 4 * 32 * 32
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(4, 24, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(24, 24, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24 * 16 * 16, CLASSES),
    )


@planted("data_loading.network")
def http_requests(severity: float) -> Iterator[None]:
    """Three workers ask a feature server 8 ms away for each of their samples."""
    command = [sys.executable, second_server.__file__, "0.008"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as server:
        try:
            assert server.stdout
            dataset = Features(int(server.stdout.readline()), severity)
            yield from train(DataLoader(dataset, 8, num_workers=3), picture_net())
        finally:
            server.kill()


SHARDS, MEMBERS, MEMBER_BYTES = 4, 96, 128 << 10


@cache
def shards() -> list[Path]:
    """Archives of records, 12 MB each, all of them on the disk."""
    chance = np.random.default_rng(4)
    paths = [folder() / f"shard-{number}.tar" for number in range(SHARDS)]
    for path in paths:
        with path.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w:") as archive:
                for number in range(MEMBERS):
                    member = tarfile.TarInfo(f"{number:04}.bin")
                    member.size = MEMBER_BYTES
                    archive.addfile(member, io.BytesIO(chance.bytes(MEMBER_BYTES)))
            file.flush()
            os.fsync(file.fileno())
    return paths


class Shards(IterableDataset[Pair]):
    """Batches of 12 from archives; a share of the records is never in the page cache."""

    def __init__(self, share: float) -> None:
        self.paths, self.share = shards(), share

    def __iter__(self) -> Iterator[Pair]:
        info = get_worker_info()
        assert info is not None
        rows: list[np.ndarray[Any, Any]] = []
        for path in cycle(self.paths[info.id :: info.num_workers]):
            for number, record in enumerate(self.records(path)):
                rows.append(np.frombuffer(record, np.uint8)[:: MEMBER_BYTES // WIDTH])
                if len(rows) == 12:
                    x = torch.from_numpy(np.stack(rows).astype(np.float32) / 255)
                    yield x, (torch.arange(12) + number) % CLASSES
                    rows.clear()

    def records(self, path: Path) -> Iterator[bytes]:
        with path.open("rb", buffering=0) as file, tarfile.open(fileobj=file) as archive:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            for number, member in enumerate(archive):
                if chosen(number, self.share):
                    place = member.offset_data, member.size
                    os.posix_fadvise(file.fileno(), *place, os.POSIX_FADV_DONTNEED)
                content = archive.extractfile(member)
                assert content is not None
                yield b"".join(iter(partial(content.read, 16384), b""))


@planted("data_loading.storage")
def tar_shards(severity: float) -> Iterator[None]:
    """Archives larger than memory are read in pieces of 16 KiB, without reading ahead."""
    yield from train(DataLoader(Shards(severity), batch_size=None, num_workers=1))


OBJECTS, SCENES = 10, 64


@cache
def scenes() -> list[Path]:
    """A folder for every picture, in it a file for every object on it."""
    paths = [folder() / "scenes" / f"{number:03}" for number in range(SCENES)]
    for number, path in enumerate(paths):
        path.mkdir(parents=True)
        for thing in range(OBJECTS):
            text = json.dumps({"label": (number + thing) % CLASSES, "box": [thing, 1, number, 2]})
            (path / f"object-{thing}.json").write_text(text, encoding="utf-8")
    return paths


class Scenes(Vectors):
    """A share of the annotations is looked up in the folders, the others are packed."""

    def __init__(self, share: float) -> None:
        super().__init__(4096)
        self.share = share
        self.paths = scenes()
        self.packed = [self.texts(path) for path in self.paths]

    @staticmethod
    def texts(path: Path) -> list[str]:
        with os.scandir(path) as entries:
            names = sorted(entry.path for entry in entries if entry.is_file())
        return [Path(name).read_text(encoding="utf-8") for name in names]

    def prepare(self, index: int) -> None:
        number = index % SCENES
        looked_up = chosen(index, self.share)
        texts = self.texts(self.paths[number]) if looked_up else self.packed[number]
        for text in texts:
            json.loads(text)


@planted("data_loading.small_files")
def json_sidecars(severity: float) -> Iterator[None]:
    """Ten annotation files a sample, in a folder of its own, in random order."""
    dataset = Scenes(severity)
    order = RandomSampler(dataset, generator=torch.Generator().manual_seed(5))
    batches = BatchSampler(order, 40, drop_last=True)
    yield from train(forever(DataLoader(dataset, batch_sampler=batches, num_workers=1)))


class BuildsIndex:
    """What a worker does before its first sample: it sorts an index nobody stored."""

    def __init__(self, severity: float) -> None:
        self.keys = round(400_000 * severity)

    def __call__(self, worker: int) -> None:
        np.argsort(np.random.default_rng(worker).random(self.keys))


@planted("data_loading.worker_startup", period=20)
def index_per_epoch(severity: float) -> Iterator[None]:
    """Epochs of 20 steps, four new workers each; at 0.0 the workers stay."""
    loader = DataLoader(
        Vectors(20 * 64),
        64,
        num_workers=4,
        worker_init_fn=BuildsIndex(severity),
        persistent_workers=severity == 0.0,
    )
    yield from train(forever(loader))


# Parsing is preparing data, but without a DataLoader it is also just Python between two steps.
@planted("cpu_preprocessing.transform", accepted=("host.python",))
def csv_generator(severity: float) -> Iterator[None]:
    """No DataLoader: a generator parses rows of text, 200 a batch."""
    chance = np.random.default_rng(6)
    table = chance.random((200, WIDTH), dtype=np.float32)
    lines = [",".join(f"{number:.6f}" for number in row) for row in table]
    y = torch.arange(200) % CLASSES
    model = mlp(hidden=640)
    optimizer = sgd(model)
    while True:
        parsed = round(200 * severity)
        rows = [[float(word) for word in row] for row in csv.reader(lines[:parsed])]
        text_part = np.asarray(rows, np.float32).reshape(parsed, WIDTH)
        x = torch.from_numpy(np.concatenate([text_part, table[parsed:]]))
        train_step(model, optimizer, (x, y))
        yield
