"""The processes and threads of the job: what they use, and how long they wait for a core."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

_MAX_THREADS = 512


def job_cpu_seconds() -> float:
    """Processor time of this process, of all its descendants, and of those that have ended."""
    own = os.times()
    used = own.user + own.system + own.children_user + own.children_system
    for pid in descendants():
        with suppress(psutil.Error):
            times = psutil.Process(pid).cpu_times()
            used += times.user + times.system
            used += getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return used


def descendants() -> list[int]:
    """Children of this process, their children and so on."""
    found: list[int] = []
    try:
        ask = _children(os.getpid())
        while ask:
            found += ask
            ask = [child for pid in ask for child in _children(pid)]
    except FileNotFoundError:  # not Linux, or a kernel without CONFIG_PROC_CHILDREN
        with suppress(psutil.Error):
            return [process.pid for process in psutil.Process().children(recursive=True)]
    return found


def _children(pid: int) -> list[int]:
    """Children of one process; none if it has ended.

    Raises:
        FileNotFoundError: the kernel does not tell.
    """
    found: list[int] = []
    tasks = Path(f"/proc/{pid}/task")
    if not tasks.is_dir() and pid != os.getpid():
        return found
    for task in list(tasks.iterdir()):
        try:
            found += map(int, (task / "children").read_text(encoding="ascii").split())
        except (FileNotFoundError, ProcessLookupError):
            if task.is_dir() and not (task / "children").exists():
                raise FileNotFoundError(task) from None
    return found


def thread_times_ns() -> dict[int, tuple[int, int]] | None:
    """By thread of this process, processor time and time runnable without a core; None if not told.

    Threads by their native ids.
    """
    times: dict[int, tuple[int, int]] = {}
    try:
        for task in os.listdir("/proc/self/task")[:_MAX_THREADS]:  # noqa: PTH208  # names suffice
            with suppress(FileNotFoundError, ProcessLookupError):
                text = Path(f"/proc/self/task/{task}/schedstat").read_text(encoding="ascii")
                used, waited = text.split()[:2]
                times[int(task)] = int(used), int(waited)
    except (OSError, ValueError):
        return None
    return times or None


def kernel_work(native_id: int) -> tuple[int | None, float | None]:
    """Page faults of a thread that had to read a disk, and its seconds in the kernel, or None."""
    try:
        text = Path(f"/proc/self/task/{native_id}/stat").read_text(encoding="ascii")
        fields = text.rpartition(") ")[2].split()  # the third of `man proc_pid_stat` is the first
        return int(fields[9]), int(fields[12]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None, None


class FileTraffic(NamedTuple):
    """What a thread has read and written so far; None where the kernel does not tell."""

    read: int | None = None
    reads: int | None = None
    """Calls."""
    written: int | None = None
    writes: int | None = None


def file_traffic(native_id: int) -> FileTraffic:
    """Bytes that a thread of this process has read and written, and in how many calls."""
    try:
        text = Path(f"/proc/self/task/{native_id}/io").read_text(encoding="ascii")
        fields = dict(line.split(": ", 1) for line in text.splitlines())
        return FileTraffic(*(int(fields[name]) for name in ("rchar", "syscr", "wchar", "syscw")))
    except (OSError, ValueError, KeyError):
        return FileTraffic()
