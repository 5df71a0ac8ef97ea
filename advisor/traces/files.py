"""Trace files as streams of bytes: plain, gzip, or a zip that holds one of them."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from isal import igzip

from stepscope.advisor.traces.errors import TraceError

GZIP, ZIP = b"\x1f\x8b", b"PK\x03\x04"


class Source:
    """The content of a trace file, read from front to back.

    Args:
        path: the file.

    Raises:
        TraceError: the file cannot be opened, or is an archive of something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cut_short: str | None = None
        """Why reading stopped before the end, where it did."""
        try:
            self._file = _opened(path, path.open("rb"))
        except FileNotFoundError:
            raise TraceError(f"{path}: no such file") from None
        except OSError as error:
            raise TraceError(f"{path}: cannot be read ({error.strerror or error})") from None

    def blocks(self, size: int) -> Iterator[bytes]:
        """The content in blocks of at most `size` bytes; a damaged archive ends early."""
        with self._file as file:
            while True:
                try:
                    block = file.read(size)
                except (EOFError, OSError, zlib.error, zipfile.BadZipFile) as error:
                    self.cut_short = f"the compressed data is damaged or cut short ({error})"
                    return
                if not block:
                    return
                yield block


def _opened(path: Path, file: IO[bytes]) -> IO[bytes]:
    magic = file.read(4)
    file.seek(0)
    if magic[:2] == GZIP:
        return _unpacked(file)
    if magic == ZIP:
        return _only_member(path, file)
    return file


def _unpacked(file: IO[bytes]) -> IO[bytes]:
    return cast("IO[bytes]", igzip.open(file))  # type: ignore[no-untyped-call]


def _only_member(path: Path, file: IO[bytes]) -> IO[bytes]:
    try:
        archive = zipfile.ZipFile(file)
        members = [info for info in archive.infolist() if not info.is_dir()]
        if len(members) != 1:
            raise TraceError(
                f"{path}: holds {len(members)} files; unpack it, and give one trace or the folder"
            )
        member = archive.open(members[0])
        packed = members[0].filename.endswith(".gz")
        return _unpacked(member) if packed else member
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise TraceError(f"{path}: is a damaged zip archive ({error}); copy it again") from None
