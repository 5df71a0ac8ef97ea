"""Letting the workers of a loader fetch one at a time, for a moment.

A file of one byte, mapped by all, says whether they have to; the file's lock is what they take.
It exists only where the user has asked for the trial.
"""

from __future__ import annotations

import mmap
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

if sys.platform != "win32":
    import fcntl

_NAME = "one-at-a-time"
_PATIENCE_SECONDS = 5.0
_PAUSE_SECONDS = 0.001


class Turnstile:
    """One process's end; each process makes its own, since a lock belongs to an open file.

    Args:
        directory: where the file lies.
        make: make the file, instead of opening the one that is there.

    Raises:
        OSError: there is no such file, it cannot be made, or the platform has no file locks.
    """

    def __init__(self, directory: Path, *, make: bool = False) -> None:
        if sys.platform == "win32":
            raise OSError("no file locks")
        path = directory / _NAME
        if make:
            path.write_bytes(b"\0")
        self._file = path.open("rb+")
        self._memory = mmap.mmap(self._file.fileno(), 1)

    def one_at_a_time(self, on: bool) -> None:
        """Whether fetches that begin from now on wait for each other."""
        self._memory[0] = int(on)

    def guard(self, fetch: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """`fetch`, which is called alone while that is asked for."""

        def alone(indices: Any) -> Any:
            if not self._memory[0] or not self._take():
                return fetch(indices)
            try:
                return fetch(indices)
            finally:
                with suppress(OSError):
                    fcntl.flock(self._file, fcntl.LOCK_UN)

        return alone

    def _take(self) -> bool:
        """Wait for the turn; False when it need not, or will not, be waited for any longer."""
        # Not by a blocking call: samples that wait for another worker would wait for ever.
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while self._memory[0] and time.monotonic() < deadline:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_PAUSE_SECONDS)
            except OSError:
                return False
            else:
                return True
        return False

    def close(self) -> None:
        """Let everybody pass, and give the file back."""
        self.one_at_a_time(False)
        self._memory.close()
        self._file.close()
