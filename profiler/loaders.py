"""Collecting what the fetchers of each DataLoader report."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec
import psutil

from stepscope.profiler import sitefile
from stepscope.profiler.columns import SampledRows
from stepscope.profiler.format import Batches, FetchTotals, Loader, Worker
from stepscope.profiler.newpages import NewPages
from stepscope.profiler.ring import BatchRecord, RingReader
from stepscope.profiler.stacks import Key, Sites

_PREFIX = "stepscope-"
_MAX_WORKERS = 256
"""Worker processes told apart; those of later epochs are added to the last."""
_ABANDONED_S = 3600.0
"""A run writes to its folder every second; whose has not for so long, and is gone, was killed."""


class LoaderLog:
    """Sums per worker, and a sample of single batches, of one loader."""

    def __init__(self, number: int, description: Loader, origin_ns: int) -> None:
        self.number = number
        self.description = description
        self.opened_as = copy.copy(description)
        self._origin_ns = origin_ns
        self._workers: dict[tuple[int, int], Worker] = {}
        self._met: set[tuple[int, int]] = set()
        self._batches = SampledRows(5)
        self.inline: deque[BatchRecord] = deque(maxlen=100_000)
        """Batches that the training process fetched itself, until they are drained."""
        self.sites = Sites()
        """Where the fetchers were seen."""

    def drain_inline(self) -> None:
        """Move what the training process fetched into the sums."""
        if self.inline:
            self.add(-1, 0, *(self.inline.popleft() for _ in range(len(self.inline))))
            self.worker(-1, 0).samples = self.sites.samples

    def add(self, worker_id: int, pid: int, *records: BatchRecord) -> None:
        """Batches that worker `worker_id` fetched."""
        if not records:
            return
        totals = self.worker(worker_id, pid).totals
        totals.batches += len(records)
        if (worker_id, pid) not in self._met:
            self._met.add((worker_id, pid))
            totals.firsts += 1
            totals.first_wall_ns += records[0].wall_ns
            totals.first_cpu_ns += records[0].cpu_ns
        columns = dict(zip(BatchRecord._fields, zip(*records, strict=True), strict=True))
        del columns["start_ns"]
        for name, column in columns.items():
            if all(value < 0 for value in column):
                continue
            told = sum(max(0, value) for value in column)
            walls = zip(column, columns["wall_ns"], strict=True)
            asked = sum(wall for value, wall in walls if value >= 0)
            # Of short fetches not all are asked about; they stand for the others.
            whole = told * sum(columns["wall_ns"]) // asked if asked else told
            setattr(totals, name, (getattr(totals, name) or 0) + whole)
        for record in records:
            self._batches.append(
                (
                    worker_id,
                    record.start_ns - self._origin_ns,
                    record.wall_ns,
                    record.cpu_ns,
                    max(0, record.run_delay_ns),
                )
            )

    def add_sites(
        self, worker_id: int, pid: int, counts: Mapping[Key, int], before: Mapping[Key, int]
    ) -> None:
        """Where a worker has been seen since its table was `before`."""
        worker = self.worker(worker_id, pid)
        for key, samples in counts.items():
            new = samples - before.get(key, 0)
            if new > 0:
                self.sites.add(key, new)
                worker.samples += new

    def add_pages(self, worker_id: int, pid: int, faults: int, new: NewPages) -> None:
        """What so many page faults of a worker have brought."""
        if faults > 0:
            totals = self.worker(worker_id, pid).totals
            totals.faults_examined += faults
            totals.copied_pages += new.copied
            totals.grown_pages += new.grown

    def worker(self, worker_id: int, pid: int) -> Worker:
        """The account of one worker process."""
        key = (worker_id, pid)
        if key not in self._workers and len(self._workers) >= _MAX_WORKERS:
            key = next(reversed(self._workers))
        if key not in self._workers:
            self._workers[key] = Worker(id=worker_id, pid=pid, totals=FetchTotals())
        return self._workers[key]

    def result(self) -> Loader:
        """The loader with all that was collected so far."""
        loader = self.description
        loader.workers = list(self._workers.values())
        loader.sites = self.sites.as_list()
        ids, start, wall, cpu, delay = self._batches.columns()
        loader.batches = Batches(
            stride=self._batches.stride,
            worker=_ints(ids),
            start_ns=_ints(start),
            wall_ns=_ints(wall),
            cpu_ns=_ints(cpu),
            run_delay_ns=_ints(delay),
        )
        return loader


class RingFolder:
    """The folder in which workers leave their rings, and the reading of them."""

    def __init__(self) -> None:
        shared = Path("/dev/shm")  # memory, where there is such a thing
        parent = shared if shared.is_dir() else Path(tempfile.gettempdir())
        _remove_stale(parent)
        self.path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{psutil.Process().pid}-", dir=parent))
        self._readers: dict[str, RingReader] = {}
        self._sites: dict[str, tuple[int, dict[Key, int]]] = {}
        """What a worker's table of sites held when it was last read, and when it was written."""

    def drain(self, logs: list[LoaderLog]) -> None:
        """Move new records into the logs."""
        with suppress(OSError):
            os.utime(self.path)  # it is in use
        for log in logs:
            log.drain_inline()
        for file in self.path.glob("*.ring"):
            reader = self._readers.get(file.name)
            if reader is None:
                try:
                    reader = self._readers[file.name] = RingReader(file)
                except (OSError, ValueError):
                    continue  # the worker is still making it; the next call will find it whole
            log = logs[int(file.name.partition("-")[0])]
            finished = not psutil.pid_exists(reader.pid)
            log.add(reader.worker_id, reader.pid, *reader.drain())
            log.add_pages(reader.worker_id, reader.pid, *reader.examined())
            if reader.lost:
                log.worker(reader.worker_id, reader.pid).lost += reader.lost
                reader.lost = 0
            self._drain_sites(file.with_suffix(".sites"), log, reader)
            if finished:  # epochs may start thousands of workers, and each ring holds a file open
                self._close(file)

    def _drain_sites(self, file: Path, log: LoaderLog, reader: RingReader) -> None:
        read_at, before = self._sites.get(file.name, (0, {}))
        try:
            written_at = file.stat().st_mtime_ns
            if written_at == read_at:
                return
            counts = sitefile.read(file)
        except (OSError, msgspec.MsgspecError):  # nothing was seen yet
            return
        log.add_sites(reader.worker_id, reader.pid, counts, before)
        self._sites[file.name] = written_at, counts

    def _close(self, ring: Path) -> None:
        self._readers.pop(ring.name).close()
        ring.unlink(missing_ok=True)
        sites = ring.with_suffix(".sites")
        sites.unlink(missing_ok=True)
        self._sites.pop(sites.name, None)

    def worker_pids(self) -> list[int]:
        """Processes that have reported and were alive at the last call of `drain`."""
        return [reader.pid for reader in self._readers.values()]

    def remove(self) -> None:
        """Delete the folder; workers that live on keep their mapping."""
        shutil.rmtree(self.path, ignore_errors=True)


def _ints(column: list[int | None]) -> list[int]:
    return [int(value or 0) for value in column]


def _remove_stale(parent: Path) -> None:
    """Delete what killed runs have left behind.

    Containers may share `parent` but not their process numbers: one of another container looks
    dead, so its folder must also have been left alone for long.
    """
    for folder in parent.glob(f"{_PREFIX}*-*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            with suppress(OSError):
                if time.time() - folder.stat().st_mtime > _ABANDONED_S:
                    shutil.rmtree(folder, ignore_errors=True)
