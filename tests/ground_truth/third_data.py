"""A third set of loops whose samples come late: from a server, a disk, files, new workers."""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ground_truth.loop import planted
from ground_truth.parts import (
    CLASSES,
    ENDLESS,
    STORED_BYTES,
    WIDTH,
    Pair,
    Vectors,
    chosen,
    folder,
    forever,
    mlp,
    stored_file,
    train,
)

STORE = """
import asyncio, sys

async def answer(reader, writer):
    try:
        while True:
            await reader.readexactly(4)
            await asyncio.sleep(0.004)
            writer.write(bytes(range(256)))
    except asyncio.IncompleteReadError:
        writer.close()

async def main():
    await asyncio.start_unix_server(answer, sys.argv[1])
    print(flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

asyncio.run(main())
"""


class ObjectStore:
    """A client that keeps four requests on their way."""

    def __init__(self, path: str) -> None:
        self.events = asyncio.new_event_loop()
        connecting = (asyncio.open_unix_connection(path) for _ in range(4))
        self.connections = self.events.run_until_complete(all_of(*connecting))

    def get(self, keys: list[int]) -> dict[int, bytes]:
        missing, found = list(keys), dict[int, bytes]()

        async def drain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while missing:
                key = missing.pop()
                writer.write(struct.pack("<I", key % 2**32))
                found[key] = await reader.readexactly(WIDTH)

        self.events.run_until_complete(all_of(*(drain(*pair) for pair in self.connections)))
        return found


async def all_of(*coroutines: Any) -> list[Any]:
    return list(await asyncio.gather(*coroutines))


class Objects(Dataset[Pair]):
    """Vectors of bytes; of a batch, a share is in the store, the others are in memory."""

    def __init__(self, path: str, share: float) -> None:
        self.path, self.share = path, share
        self.store: ObjectStore | None = None  # connected by the worker

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> Pair:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[Pair]:
        found: dict[int, bytes] = {}
        far = [index for index in indices if chosen(index, self.share)]
        if far:
            self.store = self.store or ObjectStore(self.path)
            found = self.store.get(far)
        here = bytes(range(256))
        rows = [np.frombuffer(found.get(i, here), np.uint8).astype(np.float32) for i in indices]
        return [
            (torch.from_numpy(row / 255), torch.tensor(index % CLASSES))
            for row, index in zip(rows, indices, strict=True)
        ]


@planted("data_loading.network")
def asyncio_fetch(severity: float) -> Iterator[None]:
    """A worker asks an object store for its batch, four requests at a time, 4 ms each."""
    with TemporaryDirectory() as place:
        path = str(Path(place, "store"))
        command = [sys.executable, "-S", "-c", STORE, path]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe) as store:
            try:
                assert store.stdout
                store.stdout.readline()
                batches = forever(DataLoader(Objects(path, severity), 24, num_workers=1))
                yield from train(batches, mlp(hidden=1024))
            finally:
                store.kill()


PIECE, PIECES, WORDS = 12, 4, 256
BLOCK = PIECE * PIECES - 1


class LanguageModel(nn.Module):
    """One block of a transformer that predicts the next token."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(50)
        self.words, self.places = nn.Embedding(WORDS, 64), nn.Embedding(BLOCK, 64)
        self.mix = nn.TransformerEncoderLayer(64, 2, 96, dropout=0.0, batch_first=True)
        self.head = nn.Linear(64, WORDS)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.places.weight
        mask = nn.Transformer.generate_square_subsequent_mask(BLOCK)
        return self.head(self.mix(x, mask, is_causal=True)).transpose(1, 2)  # type: ignore[no-any-return]


class Corpus:
    """Token numbers in a file that is mapped anew for every batch, to keep memory small."""

    def __init__(self, share: float) -> None:
        self.path, self.share = stored_file(), share
        self.near = np.fromfile(self.path, np.uint16, 1 << 20)
        self.chance = np.random.default_rng(51)

    def batch(self, rows: int) -> Pair:
        ids = np.memmap(self.path, np.uint16, "r")
        self.make_cold(ids)
        starts = self.chance.integers(0, STORED_BYTES // 2 - PIECE, rows * PIECES)
        pieces = []
        for number, start in enumerate(starts):
            far = chosen(number, self.share)
            source, first = (ids, start) if far else (self.near, start % (len(self.near) - PIECE))
            pieces.append(source[first : first + PIECE] % WORDS)
        whole = torch.from_numpy(np.concatenate(pieces).reshape(rows, -1).astype(np.int64))
        return whole[:, :-1], whole[:, 1:]

    def make_cold(self, ids: np.memmap[Any, Any]) -> None:
        """As if the file were larger than memory."""
        ids._mmap.madvise(mmap.MADV_RANDOM)  # type: ignore[attr-defined]
        with self.path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@planted("data_loading.storage")
def mapped_windows(severity: float) -> Iterator[None]:
    """Four pieces of a mapped file a row, cut out in the training thread: a fault each."""
    corpus = Corpus(severity)
    yield from train(iter(lambda: corpus.batch(32), None), LanguageModel())


CHUNKS, ARRAYS = 18, 64


@cache
def chunked_arrays() -> Path:
    """Arrays stored as a folder each, in it a file for every chunk, named by its place."""
    root = folder() / "arrays"
    chance = np.random.default_rng(52)
    for array in range(ARRAYS):
        for chunk in range(CHUNKS):
            path = root / str(array) / "c" / str(chunk // 6) / str(chunk % 6)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(chance.bytes(96))
    return root


class ChunkStore(Vectors):
    """Reads a share of an array's chunks from their files, the others from one array."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.root, self.files = str(chunked_arrays()), round(CHUNKS * share)
        self.consolidated = np.zeros((ARRAYS, CHUNKS, 96), np.uint8)

    def prepare(self, index: int) -> None:
        array = index * 29 % ARRAYS
        out = np.empty((CHUNKS, 96), np.uint8)
        for chunk in range(self.files):
            path = f"{self.root}/{array}/c/{chunk // 6}/{chunk % 6}"
            if os.path.exists(path):  # noqa: PTH110 - a chunk that is missing is all zero
                with open(path, "rb") as file:  # noqa: PTH123
                    file.readinto(out[chunk])
            else:
                out[chunk] = 0
        out[self.files :] = self.consolidated[array, self.files :]


@planted("data_loading.small_files")
def chunk_store(severity: float) -> Iterator[None]:
    """Arrays cut into 18 chunks of 96 bytes, each a file of its own."""
    yield from train(DataLoader(ChunkStore(severity), 40, num_workers=1), mlp(hidden=640))


@cache
def manifest(entries: int) -> Path:
    """A list of all samples, as JSON."""
    path = folder() / f"manifest-{entries}.json"
    rows = [{"id": n, "file": f"part-{n % 64}/{n}.bin", "tags": [n % 7]} for n in range(entries)]
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


class Listed(Vectors):
    """Reads its manifest at the first sample, as it must not be sent to the workers."""

    def __init__(self, length: int, entries: int) -> None:
        super().__init__(length)
        self.manifest = manifest(entries)
        self.files: list[str] = []

    def prepare(self, index: int) -> None:
        if not self.files:
            rows = json.loads(self.manifest.read_text(encoding="utf-8"))
            self.files = ["", *(row["file"] for row in rows)]


@planted("data_loading.worker_startup", period=24)
def lazy_manifest(severity: float) -> Iterator[None]:
    """Epochs of 24 steps; the new workers of each read the manifest at their first sample."""
    dataset = Listed(24 * 96, round(90_000 * severity))
    loader = DataLoader(dataset, 96, num_workers=2, persistent_workers=severity == 0.0)
    yield from train(forever(loader))
