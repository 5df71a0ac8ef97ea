"""The program's other Python threads: what they use, and where they are.

They hold the interpreter's lock in turn with the training thread, and want its cores.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import closing

from stepscope.profiler import blame
from stepscope.profiler.format import Site
from stepscope.profiler.stacks import Sites
from stepscope.profiler.threadstate import ThreadState

OWN_NAMES = "stepscope-"
"""How the names of the profiler's threads begin."""
_HANDING = (
    "(_pin_memory_loop)",
    "QueueFeederThread",
    *("(_handle_tasks)", "(_handle_results)", "(_handle_workers)"),
)
"""How the names of threads end that pass data between processes, no doing of the program's own:
a DataLoader's that takes batches and copies them into pinned memory; that of a
`multiprocessing.Queue`, with which it sends indices to its workers; those of a pool."""
_EXECUTOR = "concurrent.futures.process"
"""Module of the class of the thread that does so for a `ProcessPoolExecutor`."""
_MOST = 8
_SETTLED_NS, _WATCHED_NS = 30_000, 60_000
"""Who has lost the lock to the look is asleep soon; who still runs then does not need it."""


class Companions:
    """Looks at the Python threads of this process that are neither `watched` nor ours.

    Args:
        watched: `threading.get_ident()` of the training thread.
    """

    def __init__(self, watched: int) -> None:
        self._watched = watched
        self._sites = Sites()

    def look(self) -> None:
        """Count where those are that run at this moment; at most eight threads are looked at."""
        threads = others(self._watched)[:_MOST]
        unlocked = _run_without_lock([native for _, native in threads])
        for ident, native in threads:
            with closing(ThreadState(native)) as thread:  # threads come and go, descriptors too
                state = thread.read()
                # Who wants the interpreter's lock would run, if the look had not taken it.
                works = state == "running" or (state == "lock" and thread.has_deadline())
            if native in unlocked and state == "running":
                state = "unlocked"
            place = _place_of(ident) if works else None
            if place is not None:
                self._sites.add(("thread", *place, None, state))

    def sites(self) -> list[Site]:
        """What was seen so far, the most frequent first; safe from any thread."""
        return self._sites.as_list()


def _run_without_lock(natives: list[int]) -> set[int]:
    """Which of these threads use a processor while this one has the interpreter's lock.

    Nothing here lets go of the lock: reading a clock does not, and it is over long before another
    thread may ask for it (`sys.getswitchinterval`).
    """
    begin = time.perf_counter_ns()
    while time.perf_counter_ns() - begin < _SETTLED_NS:
        pass
    before = [_cpu_ns(native) for native in natives]
    begin = time.perf_counter_ns()
    while time.perf_counter_ns() - begin < _WATCHED_NS:
        pass
    return {
        native
        for native, ran in zip(natives, before, strict=True)
        if _cpu_ns(native) - ran > _WATCHED_NS // 2
    }


def _cpu_ns(native: int) -> int:
    """Processor time of a thread of this process; 0 where it is gone, or this is not Linux."""
    try:  # the number of a thread's clock is part of Linux's interface to programs
        return time.clock_gettime_ns((~native << 3) | 6)
    except (OSError, AttributeError):
        return 0


def _place_of(ident: int) -> blame.Place | None:
    """Where a thread is, unless it waits there.

    All frames are let go of at once but those of this thread, and these before anything is read: a
    frame of the training thread that is held while it runs on has made PyTorch fail.
    """
    frame = sys._current_frames().get(ident)
    if frame is None or _waits(frame.f_code.co_filename):
        return None
    return blame.place(blame.stack(frame))


def others(watched: int) -> list[tuple[int, int]]:
    """Those threads, by `threading.get_ident()` and native id.

    Args:
        watched: `threading.get_ident()` of the training thread, which is left out.
    """
    return [
        (thread.ident, thread.native_id)
        for thread in threading.enumerate()
        if thread.ident is not None
        and thread.native_id is not None
        and thread.ident != watched
        and not thread.name.startswith(OWN_NAMES)
        and not _hands_over(thread)
    ]


def handing_over() -> set[int]:
    """Native ids of the threads that pass data between processes."""
    return {thread.native_id or 0 for thread in threading.enumerate() if _hands_over(thread)}


def _hands_over(thread: threading.Thread) -> bool:
    return thread.name.endswith(_HANDING) or type(thread).__module__ == _EXECUTOR


def _waits(file: str) -> bool:
    """Whether the innermost frame is in the part of the standard library that waits for others."""
    return os.path.basename(file) in ("threading.py", "queue.py", "selectors.py")  # noqa: PTH119
