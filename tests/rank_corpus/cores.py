"""Less of a core for this process, for as long as a context is open."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PERIOD_US = 20_000
_GROUPS = Path("/sys/fs/cgroup")


@contextmanager
def one_core(number: int) -> Iterator[None]:
    """Threads that begin in here, and this one, run on one core alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(before)[number % len(before)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def quota(share: float | None) -> Iterator[None]:
    """A control group may run for that part of a core's time; None: as long as it likes.

    Raises:
        OSError: there are no control groups here that we may make.
    """
    if share is None:
        yield
        return
    parent = _GROUPS / "cpu" if (_GROUPS / "cpu").is_dir() else _GROUPS
    group = parent / f"rank-corpus-{os.getpid()}"
    group.mkdir()
    try:
        most = round(share * _PERIOD_US)
        if (group / "cpu.max").exists():
            (group / "cpu.max").write_text(f"{most} {_PERIOD_US}")
        else:
            (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(most))
        (group / "cgroup.procs").write_text(str(os.getpid()))
        yield
    finally:
        (parent / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()


def obstacle() -> str | None:
    """Why no quota can be set here; None if it can."""
    try:
        with quota(1.0):
            return None
    except OSError as error:
        return f"needs control groups that it may write: {error}"
