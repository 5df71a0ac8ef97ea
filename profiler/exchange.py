"""Whether a thread is taking what other processes or threads have made for it, or waits for that.

Told from its frames: those of `multiprocessing` and `concurrent.futures` between the program's own
code and where the thread is. A DataLoader's workers are watched by themselves, and not meant.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import FrameType

from stepscope.profiler.blame import is_users

_FILES = tuple(
    os.path.join("", *path)  # noqa: PTH118  # as frames spell it
    for path in (
        ("", "multiprocessing", "pool.py"),
        ("", "multiprocessing", "connection.py"),
        ("", "multiprocessing", "queues.py"),
        ("", "multiprocessing", "managers.py"),
        ("", "concurrent", "futures", "_base.py"),
        ("", "concurrent", "futures", "process.py"),
    )
)
_LOADER = os.path.join("torch", "utils", "data")  # noqa: PTH118
_WAITING = ("threading.py", "selectors.py")


def within(frames: Sequence[FrameType]) -> str | None:
    """The innermost file, if the last call of the program's own code is such an exchange.

    Args:
        frames: of the thread, the outermost first.
    """
    called: list[str] = []
    for frame in reversed(frames):
        file = frame.f_code.co_filename
        if is_users(file):
            break
        called.append(file)
    exchanges = any(file.endswith(_FILES) for file in called)
    return called[0] if exchanges and not any(_LOADER in file for file in called) else None


def state(innermost: str, state: str) -> str:
    """`awaiting` or `receiving`, for a thread in an exchange.

    Args:
        innermost: file where it is.
        state: what the kernel says that it does.
    """
    waits = os.path.basename(innermost) in _WAITING  # noqa: PTH119
    working = state in ("running", "lock", "fault") and not waits
    return "receiving" if working else "awaiting"
