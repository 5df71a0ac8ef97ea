"""A fourth set of loops whose samples come late: a database, an archive, files, new workers."""

from __future__ import annotations

import io
import os
import pickle
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from ground_truth.loop import planted
from ground_truth.parts import (
    CLASSES,
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

ROWS, ROW_BYTES = 10_000, 4 << 10


@cache
def recordings() -> Path:
    """A database of 40 MB: a table of recordings, each a blob of 4 KiB."""
    path, chance = folder() / "recordings.db", np.random.default_rng(200)
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA page_size = 8192")
        database.execute("CREATE TABLE recordings (id INTEGER PRIMARY KEY, signal BLOB)")
        rows = ((number, chance.bytes(ROW_BYTES)) for number in range(ROWS))
        database.executemany("INSERT INTO recordings VALUES (?, ?)", rows)
    database.close()
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return path


class Recordings(Dataset[Pair]):
    """Signals by their number: a share lies in the database, the others are in memory."""

    def __init__(self, share: float) -> None:
        self.path, self.share = recordings(), share
        self.near = np.random.default_rng(201).bytes(ROW_BYTES)
        self.database: sqlite3.Connection | None = None  # opened by the worker

    def __getitems__(self, numbers: list[int]) -> list[Pair]:
        self.database = self.database or sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)
        with self.path.open("rb") as file:  # as if it were larger than memory
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return [self.sample(number) for number in numbers]

    def sample(self, number: int) -> Pair:
        signal = self.near
        if chosen(number, self.share):
            assert self.database
            query = "SELECT signal FROM recordings WHERE id = ?"
            (signal,) = self.database.execute(query, (number,)).fetchone()
        samples = torch.frombuffer(bytearray(signal), dtype=torch.int8)[None, ::4]
        return samples.float() / 128, torch.tensor(number % CLASSES)


class Shuffled(Sampler[list[int]]):
    """Batches of random numbers."""

    def __iter__(self) -> Iterator[list[int]]:
        chance = torch.Generator().manual_seed(202)
        while True:
            yield torch.randint(ROWS, (40,), generator=chance).tolist()


@planted("data_loading.storage")
def sqlite_blobs(severity: float) -> Iterator[None]:
    """A worker selects recordings by their number out of a database larger than memory."""
    torch.manual_seed(203)
    model = nn.Sequential(
        nn.Conv1d(1, 16, 16, stride=8),
        nn.ReLU(),
        nn.Conv1d(16, 64, 8, stride=2),
        nn.ReLU(),
        nn.AdaptiveMaxPool1d(4),
        nn.Flatten(),
        nn.Linear(256, CLASSES),
    )
    dataset = Recordings(severity)
    yield from train(DataLoader(dataset, batch_sampler=Shuffled(), num_workers=1), model)


MIRROR = """
import http.server, sys, threading, time

class Shard(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(shard)))
        self.end_headers()
        for start in range(0, len(shard), 16384):
            time.sleep(0.005)
            self.wfile.write(shard[start : start + 16384])

    def log_message(self, *ignored):
        pass

size = int(sys.argv[1])
shard = sys.stdin.buffer.read(size)
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Shard)
print(server.server_port, flush=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.stdin.read()
"""


@cache
def shard() -> bytes:
    """An archive of 96 samples: a file each, whose name ends with the label."""
    chance, buffer = np.random.default_rng(204), io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number in range(96):
            vector = chance.standard_normal(WIDTH, np.float32).tobytes()
            member = tarfile.TarInfo(f"{number:06}.vec.{number % CLASSES}")
            member.size = len(vector)
            archive.addfile(member, io.BytesIO(vector))
    return buffer.getvalue()


class Shards(IterableDataset[Pair]):
    """Streams archive after archive; a share comes from the mirror, the others are here."""

    def __init__(self, url: str, share: float) -> None:
        self.url, self.share, self.here = url, share, shard()

    def __iter__(self) -> Iterator[Pair]:
        for number in count():
            far = chosen(number, self.share)
            with urlopen(self.url) if far else io.BytesIO(self.here) as stream:
                yield from self.samples(stream)

    def samples(self, stream: Any) -> Iterator[Pair]:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                file = archive.extractfile(member)
                assert file
                x = torch.frombuffer(bytearray(file.read()), dtype=torch.float32)
                yield x, torch.tensor(int(member.name.rpartition(".")[2]))


@planted("data_loading.network")
def streamed_shards(severity: float) -> Iterator[None]:
    """A worker unpacks archives while they come from a mirror at 3 MB/s."""
    content, pipe = shard(), subprocess.PIPE
    command = [sys.executable, "-S", "-c", MIRROR, str(len(content))]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as mirror:
        try:
            assert mirror.stdin
            assert mirror.stdout
            mirror.stdin.write(content)
            mirror.stdin.flush()
            url = f"http://127.0.0.1:{int(mirror.stdout.readline())}/shard.tar"
            loader = DataLoader(Shards(url, severity), 48, num_workers=1)
            yield from train(forever(loader), mlp(hidden=768, depth=2))
        finally:
            mirror.kill()


JOINTS, FRAMES = 24, 16


@cache
def motions() -> Path:
    """64 takes of motion capture, in each a file for every joint."""
    root, chance = folder() / "motions", np.random.default_rng(205)
    for take in range(64):
        place = root / f"take-{take:03}"
        place.mkdir(parents=True)
        for joint in range(JOINTS):
            angles = chance.standard_normal(FRAMES, np.float32)
            (place / f"joint{joint:02}.f32").write_bytes(angles.tobytes())
    return root


def motion_batches(rows: int, from_files: int) -> Iterator[Pair]:
    """Takes in random order; so many joints of each come from their files."""
    root, chance = str(motions()), np.random.default_rng(206)
    memory = chance.standard_normal((JOINTS, FRAMES), np.float32).tobytes()
    size = len(memory) // JOINTS
    while True:
        takes = chance.integers(0, 64, rows)
        parts = []
        for take in takes:
            for joint in range(JOINTS):
                if joint < from_files:
                    with open(f"{root}/take-{take:03}/joint{joint:02}.f32", "rb") as file:  # noqa: PTH123
                        parts.append(file.read())
                else:
                    parts.append(memory[joint * size : (joint + 1) * size])
        whole = np.frombuffer(b"".join(parts), np.float32).reshape(rows, JOINTS, FRAMES)
        yield torch.from_numpy(whole.copy()), torch.from_numpy(takes % CLASSES)


class Motion(nn.Module):
    """A recurrent layer over the frames."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(207)
        self.layers = nn.GRU(JOINTS, 56, batch_first=True)
        self.head = nn.Linear(56, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x.transpose(1, 2))[0][:, -1])  # type: ignore[no-any-return]


@planted("data_loading.small_files")
def joint_files(severity: float) -> Iterator[None]:
    """No DataLoader: the loop opens a file of 64 bytes for every joint of every take."""
    model = Motion()
    optimizer = sgd(model)
    for batch in motion_batches(24, round(JOINTS * severity)):
        train_step(model, optimizer, batch)
        yield


@cache
def lexicon(entries: int) -> Path:
    """A pickled dictionary of words and their pronunciations."""
    path = folder() / f"lexicon-{entries}.pickle"
    words = {f"word{number}": (number, [number % 40, number % 37]) for number in range(entries)}
    path.write_bytes(pickle.dumps(words))
    return path


class Utterances(IterableDataset[Pair]):
    """A part of an epoch for each worker, in vectors that are ready."""

    def __init__(self, length: int) -> None:
        self.vectors, self.length = Vectors(), length
        self.words: dict[str, Any] = {}

    def __iter__(self) -> Iterator[Pair]:
        worker = torch.utils.data.get_worker_info()
        assert worker
        for number in range(worker.id, self.length, worker.num_workers):
            yield self.vectors[number]


class ReadLexicon:
    """The `worker_init_fn`: what every worker reads before it begins."""

    def __init__(self, entries: int) -> None:
        self.path = lexicon(entries)

    def __call__(self, worker_id: int) -> None:
        worker = torch.utils.data.get_worker_info()
        assert worker
        worker.dataset.words = pickle.loads(self.path.read_bytes())  # type: ignore[attr-defined]


@planted("data_loading.worker_startup", period=16)
def lexicon_per_epoch(severity: float) -> Iterator[None]:
    """Streams of 16 batches, for each of which two new workers load a lexicon."""
    loader = DataLoader(
        Utterances(16 * 64),
        64,
        num_workers=2,
        worker_init_fn=ReadLexicon(round(40_000 * severity)),
        persistent_workers=severity == 0.0,
    )
    yield from train(forever(loader), mlp(hidden=768))
