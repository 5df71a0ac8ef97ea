from __future__ import annotations

import mmap
import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from loops import Pair, Points, epochs, only_loader, record
from torch.utils.data import DataLoader

from stepscope.profiler.format import FetchTotals
from stepscope.profiler.newpages import WorkerMemory, anonymous_pages

PAGE = os.sysconf("SC_PAGE_SIZE")
PAGES = 8000
EACH = 200
"""Pages that a sample looks at."""

needs_pagemap = pytest.mark.skipif(
    anonymous_pages() is None or not os.access("/proc/self/pagemap", os.R_OK),
    reason="the kernel does not tell whose a page is",
)
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def a_page_each() -> list[str]:
    """Strings of which each has a page of its own to be counted in."""
    return [str(i % 10) * (PAGE - 100) for i in range(PAGES)]


class Texts(Points):
    """Looks at many strings, or at one array of bytes."""

    def __init__(self, texts: list[str] | bytes) -> None:
        super().__init__(PAGES // EACH)
        self.texts = texts

    def __getitem__(self, index: int) -> Pair:
        for place in range(index * EACH, (index + 1) * EACH):
            assert self.texts[place % len(self.texts)] is not None
        return super().__getitem__(index)


def count_copies(texts: list[str], answer: Any) -> None:
    memory = WorkerMemory(forked=True)
    before = memory.new_pages()
    for place in range(PAGES // 2):
        assert texts[place]
    answer.send((before, memory.new_pages()))


@needs_pagemap
def test_looking_at_strings_after_a_fork_copies_their_pages() -> None:
    texts = a_page_each()
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=count_copies, args=(texts, theirs))
    child.start()
    before, after = ours.recv()
    child.join()

    # The sample tells a page in two hundred or so; other memory of ours is shared as well.
    assert after.copied - before.copied > PAGES / 4
    assert after.grown < PAGES / 4


@contextmanager
def touched_memory() -> Iterator[None]:
    """Fresh pages from the kernel: an allocator may hand out what it has from before."""
    with mmap.mmap(-1, PAGES * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory[::PAGE] = b"x" * PAGES
        yield


@needs_pagemap
def test_memory_that_comes_on_top_has_grown_and_is_no_copy() -> None:
    memory = WorkerMemory(forked=False)
    with touched_memory():
        once = memory.new_pages()
    memory.look()
    with touched_memory():
        twice = memory.new_pages()

    assert once is not None
    assert twice is not None
    assert (once.copied, twice.copied) == (0, 0)
    assert [once.grown, twice.grown] == pytest.approx([PAGES, 2 * PAGES], rel=0.1)


def recorded(path: Path, texts: list[str] | bytes) -> FetchTotals:
    loader = DataLoader(Texts(texts), 4, num_workers=1, multiprocessing_context="fork")
    (worker,) = only_loader(record(path, epochs(loader))).workers
    return worker.totals


@needs_pagemap
def test_a_worker_tells_what_its_page_faults_were(tmp_path: Path) -> None:
    totals = recorded(tmp_path / "profile.json", a_page_each())

    assert totals.minor_faults >= totals.faults_examined >= PAGES
    assert PAGES / 2 < totals.copied_pages <= totals.faults_examined


def test_an_array_stays_shared(tmp_path: Path) -> None:
    totals = recorded(tmp_path / "profile.json", b"x" * PAGES)

    assert totals.copied_pages < PAGES / 4
