"""What a thread is doing at this moment, as far as the kernel tells: running, or waiting for what.

`/proc/self/task/<tid>/syscall` says `running`, or the number and arguments of the system call in
which the thread sleeps. Numbers are those of x86-64 and of the generic table (aarch64, riscv64).
"""

from __future__ import annotations

import os
import platform
import struct

_X86_64 = {
    "descriptor": (0, 1, 17, 18, 19, 20, 40, 187, 221, 295, 296, 327, 328),
    "file": (74, 75, 162, 277, 306),
    "open": (2, 3, 4, 5, 6, 21, 78, 80, 82, 83, 87, 89, 217, 257, 262, 267, 269, 332, 437, 439),
    "socket": (42, 43, 44, 45, 46, 47, 232, 281, 288, 299, 307, 441),
    "poll": (7, 271),
    "select": (23, 270),
    "lock": (72, 73, 202, 220, 449),
    "sleep": (35, 230),
    "child": (61, 247),
}
_GENERIC = {
    "descriptor": (63, 64, 65, 66, 67, 68, 69, 70, 71, 213, 223, 286, 287),
    "file": (81, 82, 83, 84, 267),
    "open": (34, 35, 38, 48, 56, 57, 61, 78, 79, 80, 276, 291, 437, 439),
    "socket": (22, 202, 203, 206, 207, 211, 212, 242, 243, 269, 441),
    "poll": (73,),
    "select": (72,),
    "lock": (25, 32, 98, 193, 449),
    "sleep": (101, 115),
    "child": (95, 260),
}
_TABLES = {"x86_64": _X86_64, "aarch64": _GENERIC, "riscv64": _GENERIC}
_MAX_SELECTED = 1024
_FUTEX_TIMEOUT = 4
"""Where `futex` has the time that it waits at most, counted from the number of the call."""


class ThreadState:
    """Reads the state of one thread of this process; its files stay open until `close`."""

    def __init__(self, native_id: int) -> None:
        table = _TABLES.get(platform.machine(), {})
        self._kinds = {str(n).encode(): kind for kind, numbers in table.items() for n in numbers}
        task = f"/proc/self/task/{native_id}"
        self._syscall, self._stat = _opened(f"{task}/syscall"), _opened(f"{task}/stat")
        self._memory = _opened("/proc/self/mem")

    def read(self) -> str:
        """One of the values of `Site.state`."""
        fields = _read(self._syscall).split()
        if fields[:1] == [b"running"]:
            return "running"
        if not fields:  # not allowed, or no such kernel
            return "running" if self._letter() in "R?" else "blocked"
        if fields[0] == b"-1":  # asleep outside of any system call
            return "fault"
        kind = self._kinds.get(fields[0], "")
        if kind in ("descriptor", "poll", "select"):
            kind = _kind_of_descriptor(self._descriptor(kind, fields))
        return kind or ("file" if self._letter() == "D" else "blocked")

    def has_deadline(self) -> bool:
        """Whether a thread that waits for a lock does so for a limited time only.

        That is how the interpreter's own lock is waited for (CPython's `take_gil`), and not how an
        idle thread of an executor waits for work.
        """
        fields = _read(self._syscall).split()
        return len(fields) > _FUTEX_TIMEOUT and int(fields[_FUTEX_TIMEOUT], 16) != 0

    def _letter(self) -> str:
        # The name in parentheses may hold anything, so the letter is counted from its end.
        return _read(self._stat).decode(errors="replace").rpartition(") ")[2][:1] or "?"

    def _descriptor(self, kind: str, fields: list[bytes]) -> int:
        """The first descriptor that the call is about; -1 when there is none."""
        first = int(fields[1], 16)
        if kind == "descriptor":
            return first
        try:
            if kind == "poll":  # struct pollfd begins with the descriptor
                return int(struct.unpack("=i", os.pread(self._memory, 4, first))[0])
            size = (min(first, _MAX_SELECTED) + 7) // 8  # select: a bit per descriptor
            bits = int.from_bytes(os.pread(self._memory, size, int(fields[2], 16)), "little")
            return (bits & -bits).bit_length() - 1
        except (OSError, struct.error, OverflowError):
            return -1

    def close(self) -> None:
        """Give the descriptors back."""
        for descriptor in (self._syscall, self._stat, self._memory):
            if descriptor >= 0:
                os.close(descriptor)
        self._syscall = self._stat = self._memory = -1


def _kind_of_descriptor(descriptor: int) -> str:
    try:
        target = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115  # a fifth of the time
    except OSError:
        return ""
    if target.startswith("socket:"):
        return "socket"
    if target.startswith("pipe:"):
        return "pipe"
    if target.startswith(("anon_inode:", "/dev/")) and not target.startswith("/dev/shm/"):
        return ""
    return "file"


def _opened(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError:
        return -1


def _read(descriptor: int) -> bytes:
    if descriptor < 0:
        return b""
    try:
        return os.pread(descriptor, 512, 0)
    except OSError:  # the thread has ended, or the kernel changed its mind
        return b""
