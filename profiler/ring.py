"""How a loader worker tells the training process what each batch cost.

A file of fixed records, mapped by both sides: works with every start method, outlives a killed
worker, and leaves the batch alone. The worker is the only writer, the training process the only
reader; a record that was overwritten before it was read is counted as lost.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from typing import NamedTuple

from stepscope.profiler.newpages import NewPages

_MAGIC = b"stepscop"
_HEADER = struct.Struct("<8sqqqqqqq")
"""Magic, process id, worker id, capacity, `_PAGES`, records written."""
_PAGES = struct.Struct("<qqq")
"""Page faults examined, pages copied and pages grown among them."""
_WRITTEN = struct.Struct("<q")
_WRITTEN_AT = _HEADER.size - _WRITTEN.size
_PAGES_AT = _WRITTEN_AT - _PAGES.size
_CAPACITY = 2048


class BatchRecord(NamedTuple):
    """What one fetch cost; -1 where the kernel did not tell, or was not asked."""

    start_ns: int
    wall_ns: int
    cpu_ns: int
    collate_ns: int
    collate_cpu_ns: int
    opens: int
    open_ns: int
    open_cpu_ns: int
    packing_ns: int
    packing_cpu_ns: int
    items: int
    system_cpu_ns: int
    run_delay_ns: int
    collate_system_cpu_ns: int
    collate_run_delay_ns: int
    helper_cpu_ns: int
    major_faults: int
    minor_faults: int
    read_bytes: int
    storage_bytes: int
    read_calls: int


_RECORD = struct.Struct(f"<{len(BatchRecord._fields)}q")
_SIZE = _HEADER.size + _CAPACITY * _RECORD.size


class RingWriter:
    """The worker's end.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(self, path: Path, worker_id: int) -> None:
        with path.open("xb+") as file:
            file.truncate(_SIZE)
            if hasattr(os, "posix_fallocate"):
                # Writing to a map that the full disk cannot back would kill the worker.
                os.posix_fallocate(file.fileno(), 0, _SIZE)
            self._memory = mmap.mmap(file.fileno(), _SIZE)
        _HEADER.pack_into(self._memory, 0, b"", os.getpid(), worker_id, _CAPACITY, 0, 0, 0, 0)
        self._memory[: len(_MAGIC)] = _MAGIC  # last: it says that the rest is there
        self._written = 0
        self.wall_ns = self._asked_ns = self._faults = 0

    def append(self, record: BatchRecord) -> None:
        """Add one record; it becomes visible only when it is complete."""
        slot = self._written % _CAPACITY
        _RECORD.pack_into(self._memory, _HEADER.size + slot * _RECORD.size, *record)
        self._written += 1
        _WRITTEN.pack_into(self._memory, _WRITTEN_AT, self._written)
        self.wall_ns += record.wall_ns
        if record.minor_faults >= 0:
            self._asked_ns += record.wall_ns
            self._faults += record.minor_faults

    @property
    def faults(self) -> int:
        """Minor page faults of all fetches; those that were asked about stand for the others."""
        return self._faults * self.wall_ns // self._asked_ns if self._asked_ns else 0

    def examined(self, pages: NewPages) -> None:
        """Tell what the page faults so far have brought."""
        faults = self.faults
        new = (min(count, faults) for count in pages)
        _PAGES.pack_into(self._memory, _PAGES_AT, faults, *new)


class RingReader:
    """The training process's end.

    Raises:
        OSError: the file cannot be read.
        ValueError: the worker has not finished making it.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._memory = mmap.mmap(file.fileno(), _SIZE, access=mmap.ACCESS_READ)
        magic, self.pid, self.worker_id, *_ = _HEADER.unpack_from(self._memory, 0)
        if magic != _MAGIC:
            raise ValueError(f"{path} is not ready")
        self._read = 0
        self._examined = 0, 0, 0
        self.lost = 0

    def drain(self) -> list[BatchRecord]:
        """The records that have come since the last call."""
        (written,) = _WRITTEN.unpack_from(self._memory, _WRITTEN_AT)
        # One less than fit: the worker may be writing over the oldest slot at this moment.
        oldest = max(self._read, written - _CAPACITY + 1)
        records = [
            BatchRecord._make(
                _RECORD.unpack_from(self._memory, _HEADER.size + (i % _CAPACITY) * _RECORD.size)
            )
            for i in range(oldest, written)
        ]
        # Whatever the worker wrote over while we read is no longer what we asked for.
        (now,) = _WRITTEN.unpack_from(self._memory, _WRITTEN_AT)
        torn = min(max(0, now - _CAPACITY + 1 - oldest), len(records))
        self.lost += oldest - self._read + torn
        self._read = written
        return records[torn:]

    def examined(self) -> tuple[int, NewPages]:
        """Page faults that were examined since the last call, and what they brought."""
        before = self._examined
        self._examined = _PAGES.unpack_from(self._memory, _PAGES_AT)
        faults, *new = (b - a for a, b in zip(before, self._examined, strict=True))
        return faults, NewPages(*new)

    def close(self) -> None:
        """Give the mapping back."""
        self._memory.close()
