"""Collecting what the fetchers of each DataLoader report."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections import deque
from pathlib import Path

import psutil

from stepscope.profiler.columns import SampledRows
from stepscope.profiler.format import Batches, FetchTotals, Loader, Worker
from stepscope.profiler.ring import BatchRecord, RingReader

_PREFIX = "stepscope-"
_MAX_WORKERS = 256
"""Worker processes told apart; those of later epochs are added to the last."""


class LoaderLog:
    """Sums per worker, and a sample of single batches, of one loader."""

    def __init__(self, number: int, description: Loader, origin_ns: int) -> None:
        self.number = number
        self.description = description
        self.opened_as = copy.copy(description)
        self._origin_ns = origin_ns
        self._workers: dict[tuple[int, int], Worker] = {}
        self._batches = SampledRows(5)
        self.inline: deque[BatchRecord] = deque(maxlen=100_000)
        """Batches that the training process fetched itself, until they are drained."""

    def drain_inline(self) -> None:
        """Move what the training process fetched into the sums."""
        while self.inline:
            self.add(-1, 0, self.inline.popleft())

    def add(self, worker_id: int, pid: int, record: BatchRecord) -> None:
        """A batch that worker `worker_id` fetched."""
        totals = self.worker(worker_id, pid).totals
        totals.batches += 1
        for name, value in zip(record._fields[1:], record[1:], strict=True):
            if value < 0:
                continue
            setattr(totals, name, (getattr(totals, name) or 0) + value)
        self._batches.append(
            (
                worker_id,
                record.start_ns - self._origin_ns,
                record.wall_ns,
                record.cpu_ns,
                max(0, record.run_delay_ns),
            )
        )

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

    def drain(self, logs: list[LoaderLog]) -> None:
        """Move new records into the logs."""
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
            for record in reader.drain():
                log.add(reader.worker_id, reader.pid, record)
            if reader.lost:
                log.worker(reader.worker_id, reader.pid).lost += reader.lost
                reader.lost = 0
            if finished:  # epochs may start thousands of workers, and each ring holds a file open
                del self._readers[file.name]
                reader.close()
                file.unlink(missing_ok=True)

    def worker_pids(self) -> list[int]:
        """Processes that have reported and were alive at the last call of `drain`."""
        return [reader.pid for reader in self._readers.values()]

    def remove(self) -> None:
        """Delete the folder; workers that live on keep their mapping."""
        shutil.rmtree(self.path, ignore_errors=True)


def _ints(column: list[int | None]) -> list[int]:
    return [int(value or 0) for value in column]


def _remove_stale(parent: Path) -> None:
    """Delete what killed runs have left behind."""
    for folder in parent.glob(f"{_PREFIX}*-*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)
