"""Loops that wait for their data to arrive."""

from __future__ import annotations

import mmap
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from ground_truth.loop import planted
from ground_truth.parts import (
    BATCH,
    STORED_BYTES,
    Vectors,
    batches_of,
    folder,
    forever,
    stored_file,
    train,
)

PAGE = 4096


class LatencyReads(Vectors):
    """Every sample is an answer from far away."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def prepare(self, index: int) -> None:
        if self.seconds > 0:
            time.sleep(self.seconds)


# Asleep for a while without the processor: that a disk is not the reason cannot be seen.
@planted("data_loading.network", accepted=("data_loading.storage",))
def latency_reads(severity: float) -> Iterator[None]:
    """Each sample takes a third of a millisecond to come."""
    yield from train(batches_of(LatencyReads(0.35e-3 * severity)))


class BurstyReads(Vectors):
    """Once in 16 batches the source is silent for a while."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def prepare(self, index: int) -> None:
        if index % (16 * BATCH) == 0 and self.seconds > 0:
            time.sleep(self.seconds)


# As above: a sleep has no address.
@planted("data_loading.network", accepted=("data_loading.storage",), period=16)
def bursty_reads(severity: float) -> Iterator[None]:
    """Batches come quickly but for every 16th, longer than the queue can hide."""
    yield from train(batches_of(BurstyReads(0.2 * severity)))


class StoredSamples(Vectors):
    """Every sample is so many bytes of a file; subclasses say how they are read."""

    def __init__(self, bytes_per_sample: int) -> None:
        super().__init__()
        self.path = stored_file()
        self.size = bytes_per_sample // PAGE * PAGE
        self.file: int | None = None  # opened by the worker

    def prepare(self, index: int) -> None:
        if self.size:
            if self.file is None:
                self.file = self.open()
            # A stride that is no divisor of the file: the disk's own read-ahead has no part in it.
            self.read(
                self.file, (index * 37 * self.size) % (STORED_BYTES - self.size) // PAGE * PAGE
            )

    def open(self) -> int:
        return os.open(self.path, os.O_RDONLY)

    def read(self, file: int, offset: int) -> None:
        raise NotImplementedError


class DirectReads(StoredSamples):
    """Reads past the page cache, into an aligned buffer."""

    def open(self) -> int:
        self.buffer = mmap.mmap(-1, self.size)
        return os.open(self.path, os.O_RDONLY | getattr(os, "O_DIRECT", 0))

    def read(self, file: int, offset: int) -> None:
        os.preadv(file, [self.buffer], offset)


@planted("data_loading.storage")
def direct_reads(severity: float) -> Iterator[None]:
    """Samples of 128 KiB come from the disk itself."""
    yield from train(batches_of(DirectReads(int(severity * 128 * 1024))))


class ColdReads(StoredSamples):
    """Reads what the page cache has just been told to forget."""

    def read(self, file: int, offset: int) -> None:
        if hasattr(os, "posix_fadvise"):
            # Of the whole file: a part of a large folio is not forgotten.
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.pread(file, self.size, offset)


@planted("data_loading.storage")
def cold_reads(severity: float) -> Iterator[None]:
    """Samples of 128 KiB of a data set larger than memory: never in the page cache."""
    yield from train(batches_of(ColdReads(int(severity * 128 * 1024))))


class MappedReads(StoredSamples):
    """Touches pages of a mapped file that are not in memory."""

    def open(self) -> int:
        file = super().open()
        self.mapped = mmap.mmap(file, 0, access=mmap.ACCESS_READ)
        self.mapped.madvise(mmap.MADV_RANDOM)
        return file

    def read(self, file: int, offset: int) -> None:
        for place in range(offset, offset + self.size, PAGE):
            self.mapped[place]
        # Forgotten at once: what another worker still had mapped would stay in memory.
        self.mapped.madvise(mmap.MADV_DONTNEED, offset, self.size)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)


@planted("data_loading.storage")
def mmap_faults(severity: float) -> Iterator[None]:
    """A memory-mapped data set, four pages a sample, none of them there."""
    yield from train(batches_of(MappedReads(round(severity * 4) * PAGE)))


class Socket:
    """A connection that reads whole samples."""

    def __init__(self, port: int, size: int) -> None:
        self.connection = socket.create_connection(("127.0.0.1", port))
        self.buffer = memoryview(bytearray(size))

    def sample(self) -> None:
        self.connection.sendall(len(self.buffer).to_bytes(8, "big"))
        missing = len(self.buffer)
        while missing:
            missing -= self.connection.recv_into(self.buffer[-missing:])


class SocketReads(Vectors):
    """Every sample is asked for at a server."""

    def __init__(self, port: int, size: int) -> None:
        super().__init__()
        self.port, self.size = port, size
        self.socket: Socket | None = None  # connected by the worker

    def prepare(self, index: int) -> None:
        if self.size:
            self.socket = self.socket or Socket(self.port, self.size)
            self.socket.sample()


@planted("data_loading.network")
def socket_reads(severity: float) -> Iterator[None]:
    """An object store at 100 MB/s a connection: 32 KiB a sample."""
    server = subprocess.Popen(
        [sys.executable, "-S", str(Path(__file__).with_name("slow_server.py")), "100e6"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with server:
        assert server.stdin is not None
        assert server.stdout is not None
        port = int(server.stdout.readline())
        try:
            yield from train(batches_of(SocketReads(port, int(severity * 32 * 1024))))
        finally:
            server.kill()


SMALL_FILES, SMALL_BYTES = 2000, 200


@cache
def small_files_folder() -> list[Path]:
    """Many files of a few bytes, in folders of a hundred."""
    paths = []
    for number in range(SMALL_FILES):
        path = folder() / f"small-{number // 100}" / f"{number}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(number.to_bytes(4, "big") * (SMALL_BYTES // 4))
        paths.append(path)
    return paths


class SmallFiles(Vectors):
    """Every sample is put together of `PARTS` files; some or all of them packed into one."""

    PARTS = 12

    def __init__(self, share: float) -> None:
        super().__init__()
        self.paths = small_files_folder()
        self.packed = b"".join(path.read_bytes() for path in self.paths)
        self.opened = round(share * self.PARTS)

    def prepare(self, index: int) -> None:
        parts: list[Any] = []
        for part in range(self.PARTS):
            number = (index * self.PARTS + part) % SMALL_FILES
            if part < self.opened:
                path = self.paths[number]
                if path.stat().st_size:
                    parts.append(path.read_bytes())
            else:
                parts.append(self.packed[number * SMALL_BYTES : (number + 1) * SMALL_BYTES])
        b"".join(parts)


@planted("data_loading.small_files")
def small_files(severity: float) -> Iterator[None]:
    """Each sample opens twelve files of 200 bytes."""
    yield from train(batches_of(SmallFiles(severity)))


class Vocabulary:
    """What a worker builds before its first sample: a table for which nobody made a file."""

    def __init__(self, words: int) -> None:
        self.words = words

    def __call__(self, worker: int) -> None:
        table = {f"word{number}": number for number in range(self.words)}
        sorted(table, key=table.__getitem__, reverse=True)


@planted("data_loading.worker_startup", period=40)
def spawn_per_epoch(severity: float) -> Iterator[None]:
    """Short epochs, each with new workers that first build a vocabulary."""
    loader = DataLoader(
        Vectors(40 * BATCH),
        BATCH,
        num_workers=2,
        persistent_workers=severity == 0,
        worker_init_fn=Vocabulary(int(severity * 300_000)),
    )
    yield from train(forever(loader))
