"""What the page faults of a loader worker brought: copies of its parent's pages, or more memory.

After a fork both see the same pages, and whoever writes to one first gets a copy of its own. In
Python looking is writing: it changes the reference count of what one looks at.
"""

from __future__ import annotations

import os
import random
import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_SAMPLE = 256
_PRIVATE = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) rw-p [0-9a-f]+ 00:00 0 ", re.MULTILINE)
"""Lines of `/proc/self/maps` about memory that belongs to no file."""
_ENTRY = 8
_PRESENT, _OF_FILE, _EXCLUSIVE = 1 << 63, 1 << 61, 1 << 56
"""Bits of an entry of `/proc/self/pagemap` (kernel: Documentation/admin-guide/mm/pagemap.rst)."""


class NewPages(NamedTuple):
    """Pages that a process has now and had not at first."""

    copied: int
    """In the place of one that it shared with its parent."""
    grown: int
    """On top of what there was at the look before; what came and went between looks is not seen."""


class WorkerMemory:
    """The memory of this process; to be made when it starts.

    Args:
        forked: from the process whose data it works with, not from a server or anew.
    """

    def __init__(self, *, forked: bool) -> None:
        self._forked = forked
        self._at_first = self._before = anonymous_pages() or 0
        self._grown = 0

    def look(self) -> int | None:
        """Note by how much it has grown since the last look; its pages, if the kernel tells."""
        now = anonymous_pages()
        if now is not None:
            self._grown += max(0, now - self._before)
            self._before = now
        return now

    def new_pages(self) -> NewPages | None:
        """What has come since the start; None where the kernel does not tell.

        The copies are an estimate from a sample, so that it costs the same (1 to 2 ms) however
        large the process.
        """
        now = self.look()
        if now is None:
            return None
        own = 0
        if self._forked:
            with suppress(OSError):
                own = round(_own_share() * now)
        return NewPages(max(0, own - max(0, now - self._at_first)), self._grown)


def anonymous_pages() -> int | None:
    """Resident pages of this process that belong to no file; None where the kernel is silent."""
    try:
        words = Path("/proc/self/statm").read_text(encoding="ascii").split()
        return int(words[1]) - int(words[2])
    except (OSError, ValueError, IndexError):
        return None


def _own_share() -> float:
    """Part of the anonymous pages that no other process maps.

    Raises:
        OSError: the kernel has no `pagemap`, or does not let us read it.
    """
    size = os.sysconf("SC_PAGE_SIZE")
    areas = [
        range(int(begin, 16) // size, int(end, 16) // size)
        for begin, end in _PRIVATE.findall(Path("/proc/self/maps").read_bytes())
    ]
    present = own = 0
    chance = random.Random(0)  # the program's own random numbers are none of ours
    places = sorted(chance.sample(range(total := sum(map(len, areas))), min(_SAMPLE, total)))
    pagemap = os.open("/proc/self/pagemap", os.O_RDONLY)
    try:
        before = 0
        for area in areas:
            while places and places[0] - before < len(area):
                page = area[places.pop(0) - before]
                entry = int.from_bytes(os.pread(pagemap, _ENTRY, page * _ENTRY), "little")
                if entry & _PRESENT and not entry & _OF_FILE:
                    present += 1
                    own += bool(entry & _EXCLUSIVE)
            before += len(area)
    finally:
        os.close(pagemap)
    return own / max(1, present)
