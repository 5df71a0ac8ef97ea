"""How a loader worker tells the training process where it was seen: a small file, replaced whole.

It stands beside the worker's ring, and outlives a killed worker like that.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from stepscope.profiler.stacks import Key, Sites

_FIRST_S, _EVERY_S = 0.25, 2.0
"""Early, because a short recording is read soon; then ever more rarely, down to once in so long."""


class SiteFile:
    """The worker's end.

    Args:
        path: the file to write.
        sites: the table that is written.
    """

    def __init__(self, path: Path, sites: Sites) -> None:
        self._path = path
        self._sites = sites
        self._written = 0
        self._every_s = _FIRST_S
        self._due = time.monotonic() + _FIRST_S

    def tick(self) -> None:
        """Write what is new, at most every two seconds.

        Raises:
            OSError: as `write`.
        """
        if self._sites.samples != self._written and time.monotonic() >= self._due:
            self.write()
            self._every_s = min(_EVERY_S, 1.5 * self._every_s)
            self._due = time.monotonic() + self._every_s

    def write(self) -> None:
        """Write the table.

        Raises:
            OSError: the disk is full, or the folder is gone (FileNotFoundError).
        """
        self._written = self._sites.samples
        unfinished = self._path.with_suffix(".tmp")
        unfinished.write_bytes(msgspec.msgpack.encode(list(self._sites.counts().items())))
        unfinished.replace(self._path)


def read(path: Path) -> dict[Key, int]:
    """The table that was last written to `path`.

    Raises:
        OSError: there is none.
        msgspec.MsgspecError: the file is damaged.
    """
    return dict(msgspec.msgpack.decode(path.read_bytes(), type=list[tuple[Key, int]]))
