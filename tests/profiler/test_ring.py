from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import pytest

from stepscope.profiler import ring
from stepscope.profiler.newpages import NewPages
from stepscope.profiler.ring import BatchRecord, RingReader, RingWriter

CAPACITY = 2048
WIDTH = len(BatchRecord._fields)


def numbered(number: int) -> BatchRecord:
    """A record all of whose fields are `number`, so that a torn one shows."""
    return BatchRecord._make([number] * WIDTH)


def pair(folder: Path, worker_id: int = 3) -> tuple[RingWriter, RingReader]:
    writer = RingWriter(folder / "0-0-1.ring", worker_id)
    return writer, RingReader(folder / "0-0-1.ring")


def test_the_reader_gets_what_the_writer_wrote_once(tmp_path: Path) -> None:
    writer, reader = pair(tmp_path)
    assert (reader.pid, reader.worker_id) == (os.getpid(), 3)
    assert reader.drain() == []

    for i in range(5):
        writer.append(numbered(i))
    assert reader.drain() == [numbered(i) for i in range(5)]
    assert reader.drain() == []
    writer.append(numbered(-1))
    assert reader.drain() == [numbered(-1)]
    assert reader.lost == 0


def test_records_wrap_around_without_loss_while_they_are_read(tmp_path: Path) -> None:
    writer, reader = pair(tmp_path)
    seen: list[int] = []
    for i in range(3 * CAPACITY + 17):
        writer.append(numbered(i))
        if i % 1000 == 0:
            seen += [record.items for record in reader.drain()]
    seen += [record.items for record in reader.drain()]

    assert seen == list(range(3 * CAPACITY + 17))
    assert reader.lost == 0


def test_what_was_overwritten_is_counted_as_lost(tmp_path: Path) -> None:
    writer, reader = pair(tmp_path)
    total = 2 * CAPACITY + 100
    for i in range(total):
        writer.append(numbered(i))
    records = reader.drain()

    assert len(records) + reader.lost == total
    assert records == [numbered(i) for i in range(reader.lost, total)]
    assert CAPACITY - 1 <= len(records) <= CAPACITY


class OvertakingWriter:
    """Stands in for the record layout: the worker writes while the reader is reading."""

    def __init__(self, writer: RingWriter, layout: struct.Struct, first: int, count: int) -> None:
        self.writer, self.layout, self.size = writer, layout, layout.size
        self.ahead = iter(range(first, first + count))

    def unpack_from(self, memory: Any, offset: int) -> tuple[int, ...]:
        number = next(self.ahead, None)
        if number is not None:
            ring._RECORD = self.layout
            self.writer.append(numbered(number))
            ring._RECORD = self  # type: ignore[assignment]
        return self.layout.unpack_from(memory, offset)


def test_records_overwritten_during_the_read_are_lost_not_misread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, reader = pair(tmp_path)
    for i in range(CAPACITY - 10):
        writer.append(numbered(i))
    overtaking = OvertakingWriter(writer, ring._RECORD, CAPACITY - 10, 200)
    monkeypatch.setattr(ring, "_RECORD", overtaking)
    records = reader.drain()
    monkeypatch.undo()

    assert reader.lost > 0
    assert records == [numbered(i) for i in range(reader.lost, CAPACITY - 10)]
    assert reader.drain() == [numbered(i) for i in range(CAPACITY - 10, CAPACITY + 190)]


def test_the_slot_that_may_be_half_written_is_never_returned(tmp_path: Path) -> None:
    writer, reader = pair(tmp_path)
    for i in range(CAPACITY):
        writer.append(numbered(i))
    # The worker has begun to write record 2048 over record 0, and has not yet counted it.
    writer._memory[ring._HEADER.size : ring._HEADER.size + 8] = struct.pack("<q", CAPACITY)

    records = reader.drain()
    assert records == [numbered(i) for i in range(1, CAPACITY)]
    assert reader.lost == 1


@pytest.mark.parametrize("content", [b"", b"stepscop", b"\0" * 4096, b"\0" * 10**6])
def test_a_file_that_is_not_ready_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "0-0-1.ring"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"not ready|mmap length|empty"):
        RingReader(file)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        RingReader(tmp_path / "none.ring")


def test_a_worker_never_writes_into_another_ones_file(tmp_path: Path) -> None:
    pair(tmp_path)
    with pytest.raises(FileExistsError):
        RingWriter(tmp_path / "0-0-1.ring", 0)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs posix_fallocate")
def test_the_space_is_reserved_before_it_is_written(tmp_path: Path) -> None:
    # A map on a full /dev/shm kills the process that writes to it.
    pair(tmp_path)
    status = (tmp_path / "0-0-1.ring").stat()
    assert status.st_blocks * 512 >= status.st_size > CAPACITY * WIDTH * 8


def test_the_reader_survives_the_writer_and_the_file(tmp_path: Path) -> None:
    writer, reader = pair(tmp_path)
    writer.append(numbered(1))
    (tmp_path / "0-0-1.ring").unlink()
    writer.append(numbered(2))
    assert reader.drain() == [numbered(1), numbered(2)]


def test_new_pages_are_told_once_and_are_no_more_than_the_faults(tmp_path: Path) -> None:
    writer, reader = pair(tmp_path)
    writer.append(numbered(10))
    writer.examined(NewPages(copied=7, grown=2))
    first = reader.examined()
    writer.append(numbered(5))
    writer.examined(NewPages(copied=40, grown=2))

    assert first == (10, (7, 2))
    assert reader.examined() == (5, (8, 0))
    assert reader.examined() == (0, (0, 0))
