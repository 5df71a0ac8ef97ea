"""What the kernel knows of a thread: processor time, time spent waiting for a core, reads, faults.

Every reader keeps its file open and reads it again at offset 0, which costs about a microsecond;
opening it each time would cost ten. Where the kernel does not offer a figure (macOS, hardened
containers) the reader returns None, and the profile says "not measured".
"""

from __future__ import annotations

import os
import threading
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

    def nanoseconds(self) -> int:
        """Total since the thread began; 0 where it is not available."""
        if self._descriptor < 0:
            return 0
        return int(os.pread(self._descriptor, 64, 0).split()[1])


class ReadCounters(NamedTuple):
    """What the thread asked of files since it began."""

    bytes: int
    """Passed to read calls; pages of the cache count, sockets and mapped files do not."""
    calls: int
    storage_bytes: int
    """Fetched from the storage device on its behalf."""


class ThreadIO(ThreadFile):
    """Read counters of the calling thread (/proc/self/task/<tid>/io)."""

    def __init__(self) -> None:
        super().__init__("io")

    def counters(self) -> ReadCounters:
        """Totals since the thread began; zeros where they are not available."""
        # rchar, wchar, syscr, syscw, read_bytes, write_bytes, cancelled_write_bytes
        fields = self.read().split()
        if len(fields) < 10:
            return ReadCounters(0, 0, 0)
        return ReadCounters(int(fields[1]), int(fields[5]), int(fields[9]))


def faults_and_system_ns() -> tuple[int, int]:
    """Major page faults and kernel-mode nanoseconds of the calling thread since it began."""
    if not hasattr(resource, "RUSAGE_THREAD"):
        return 0, 0
    usage = resource.getrusage(resource.RUSAGE_THREAD)
    return usage.ru_majflt, int(usage.ru_stime * 1e9)


def children_cpu_ns() -> int:
    """Processor time of this process's finished children."""
    times = os.times()
    return int((times.children_user + times.children_system) * 1e9)
