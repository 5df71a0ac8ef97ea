"""What the kernel knows of a thread: processor time, time spent waiting for a core, reads, faults.

Every reader keeps its file open and reads it again at offset 0, which costs about a microsecond;
opening it each time would cost ten. Where the kernel does not offer a figure (macOS, hardened
containers) the reader returns None, and the profile says "not measured".
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import NamedTuple

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


class ThreadFile:
    """A file under /proc of the calling thread, kept open."""

    def __init__(self, name: str) -> None:
        self._descriptor = -1
        try:
            path = f"/proc/self/task/{threading.get_native_id()}/{name}"
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            os.pread(self._descriptor, 16, 0)
        except OSError:
            self.close()

    @property
    def available(self) -> bool:
        """Whether the kernel offers this file."""
        return self._descriptor >= 0

    def read(self) -> bytes:
        """The current content; empty when it is not to be had."""
        if self._descriptor < 0:
            return b""
        return os.pread(self._descriptor, 512, 0)

    def close(self) -> None:
        """Give the descriptor back; reading afterwards returns nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class RunDelay(ThreadFile):
    """Nanoseconds the calling thread was runnable without a core (schedstat, second field)."""

    def __init__(self) -> None:
        super().__init__("schedstat")
        self.calls = self.bytes = 0
        """What reading the file has added to the thread's own read counters."""

    def nanoseconds(self) -> int:
        """Total since the thread began; 0 where it is not available."""
        if self._descriptor < 0:
            return 0
        content = os.pread(self._descriptor, 64, 0)
        self.calls += 1
        self.bytes += len(content)
        return int(content.split()[1])


class ThreadIO(ThreadFile):
    """Read counters of the calling thread (/proc/self/task/<tid>/io)."""

    def __init__(self) -> None:
        super().__init__("io")

    def since(self, before: bytes) -> tuple[int, int, int]:
        """What was asked of files since `read` has returned `before`; -1 where it is not told.

        Returns:
            Bytes passed to read calls (pages of the cache count, sockets and mapped files do
            not), bytes fetched from the storage device, and read calls; `read` itself is one.
        """
        # rchar, wchar, syscr, syscw, read_bytes, write_bytes, cancelled_write_bytes
        old, new = before.split(None, 10), self.read().split(None, 10)
        if len(old) < 10 or len(new) < 10:
            return -1, -1, -1
        return int(new[1]) - int(old[1]), int(new[9]) - int(old[9]), int(new[5]) - int(old[5])


class Usage(NamedTuple):
    """The part of `struct rusage` that is used here, for systems that have none of it."""

    ru_utime: float
    ru_stime: float
    """Seconds in kernel mode."""
    ru_minflt: int
    """Pages mapped without storage: memory that the process did not have before."""
    ru_majflt: int
    """Pages fetched from storage."""


NO_USAGE = Usage(0.0, 0.0, 0, 0)


def _thread_usage() -> Usage:
    return NO_USAGE


thread_usage: Callable[[], Usage] = _thread_usage
"""Kernel-mode time and page faults of the calling thread since it began; zeros if not told."""
if hasattr(resource, "RUSAGE_THREAD"):
    thread_usage = functools.partial(resource.getrusage, resource.RUSAGE_THREAD)  # type: ignore[assignment]


def children_cpu_ns() -> int:
    """Processor time of this process's finished children."""
    if not hasattr(resource, "RUSAGE_CHILDREN"):
        return 0
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return int((usage.ru_utime + usage.ru_stime) * 1e9)
