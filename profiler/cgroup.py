"""What the control groups of this process grant it, in version 1 and 2 of the kernel's interface.

A limit may stand in our own group or in any group above it; the tightest one holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_SELF = Path("/proc/self")
_UNLIMITED = 2**60
"""Version 1 says so with a number near 2**63."""


def cpu_quota() -> float | None:
    """Processors' worth of time per second; None where there is no limit, or no cgroup."""
    quotas = []
    for group in _groups("cpu"):
        limit = _words(group / "cpu.max")
        if not limit:
            limit = _words(group / "cpu.cfs_quota_us") + _words(group / "cpu.cfs_period_us")
        if len(limit) == 2 and limit[0].isdigit() and int(limit[1]):
            quotas.append(int(limit[0]) / int(limit[1]))
    return min(quotas, default=None)


def memory_limit() -> int | None:
    """Bytes; None where there is no limit, or no cgroup."""
    limits = []
    for group in _groups("memory"):
        limit = _words(group / "memory.max") or _words(group / "memory.limit_in_bytes")
        if limit and limit[0].isdigit() and int(limit[0]) < _UNLIMITED:
            limits.append(int(limit[0]))
    return min(limits, default=None)


def throttled_seconds() -> float | None:
    """For how long a quota has kept our groups from running, summed over processors."""
    seconds = []
    for group in _groups("cpu"):
        words = _words(group / "cpu.stat")
        for name, value in zip(words[::2], words[1::2], strict=False):
            if name == "throttled_usec":
                seconds.append(int(value) / 1e6)
            elif name == "throttled_time":
                seconds.append(int(value) / 1e9)
    return max(seconds, default=None)


def _groups(controller: str) -> Iterator[Path]:
    """The folder of our group for `controller`, then those of the groups above it."""
    try:
        place = _mount(controller)
        if place is None:
            return
        mount, folder = place
        yield folder
        while folder != mount and mount in folder.parents:
            folder = folder.parent
            yield folder
    except (OSError, ValueError, LookupError):
        return


def _mount(controller: str) -> tuple[Path, Path] | None:
    """Where the hierarchy of `controller` is mounted, and our group in it."""
    paths: dict[str, str] = {}
    for line in (_SELF / "cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), path))
    version = "cgroup" if controller in paths else "cgroup2"
    path = paths[controller if controller in paths else ""]
    for line in (_SELF / "mountinfo").read_text(encoding="utf-8").splitlines():
        before, _, after = line.partition(" - ")
        root, folder = before.split()[3:5]
        kind, _, options = after.split(" ", 2)
        if kind == version and (version == "cgroup2" or controller in options.split(",")):
            # In a container the mount shows only a part of the tree that the path goes through.
            inside = path[len(root) :] if path.startswith(root) else ""
            return Path(folder), Path(folder, inside.lstrip("/"))
    return None


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="ascii").split()
    except OSError:
        return []
