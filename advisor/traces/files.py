"""Trace files as streams of bytes: plain, gzip, or a zip that holds one of them."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
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
            with ExitStack() as stack:
                self._file = _opened(path, stack)
                self._open = stack.pop_all()
        except FileNotFoundError:
            raise TraceError(f"{path}: no such file") from None
        except OSError as error:
            raise TraceError(f"{path}: cannot be read ({error.strerror or error})") from None

    def close(self) -> None:
        """Close the file; reading to its end does so too."""
        self._open.close()

    def blocks(self, size: int) -> Iterator[bytes]:
        """The content in blocks of at most `size` bytes; a damaged archive ends early."""
        with self._open:
            while True:
                try:
                    block = self._file.read(size)
                except (EOFError, OSError, zlib.error, zipfile.BadZipFile) as error:
                    self.cut_short = f"its compressed data is damaged or cut short ({error})"
                    return
                if not block:
                    return
                yield block


def _opened(path: Path, stack: ExitStack) -> IO[bytes]:
    file = stack.enter_context(path.open("rb"))
    magic = file.read(4)
    file.seek(0)
    if magic[:2] == GZIP:
        return _unpacked(file, stack)
    return _only_member(path, file, stack) if magic == ZIP else file


def _unpacked(file: IO[bytes], stack: ExitStack) -> IO[bytes]:
    unpacked = igzip.open(file)  # type: ignore[no-untyped-call]
    return cast("IO[bytes]", stack.enter_context(unpacked))


def _only_member(path: Path, file: IO[bytes], stack: ExitStack) -> IO[bytes]:
    try:
        archive = stack.enter_context(zipfile.ZipFile(file))
        members = [info for info in archive.infolist() if not info.is_dir()]
        if len(members) != 1:
            raise TraceError(
                f"{path}: holds {len(members)} files; unpack it, and give one trace or the folder"
            )
        member = stack.enter_context(archive.open(members[0]))
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise TraceError(f"{path}: is a damaged zip archive ({error}); copy it again") from None
    return _unpacked(member, stack) if members[0].filename.endswith(".gz") else member
