from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from loops import record, spin

from stepscope.profiler import companions, profile
from stepscope.profiler.companions import Companions

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@contextmanager
def beside(work: object, name: str = "statistics") -> Iterator[threading.Thread]:
    """A thread that calls `work` again and again."""
    ended = threading.Event()

    def run() -> None:
        while not ended.is_set():
            work()  # type: ignore[operator]

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        ended.set()
        thread.join()


def computing() -> None:
    spin(0.01)


def looked(times: int) -> list[tuple[str, str]]:
    found = Companions(threading.get_ident())
    try:
        for _ in range(times):
            found.look()
            time.sleep(0.002)
        return [(site.phase, site.function) for site in found.sites() for _ in range(site.samples)]
    finally:
        found.close()


def test_a_thread_that_computes_is_seen_where_it_is() -> None:
    with beside(computing):
        seen = looked(50)

    assert seen.count(("thread", "spin")) > 25


def test_a_thread_that_waits_is_not_seen() -> None:
    go_on = threading.Event()
    with beside(lambda: go_on.wait(0.5)):
        assert looked(20) == []
        go_on.set()


def test_our_own_threads_are_none_of_the_programs() -> None:
    with beside(computing, companions.OWN_NAMES + "test"):
        assert looked(20) == []


def test_a_thread_that_ends_gives_its_files_back() -> None:
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))
    found = Companions(threading.get_ident())
    with beside(computing):
        found.look()
        assert len(list(descriptors.iterdir())) > before
    found.look()

    assert len(list(descriptors.iterdir())) == before


def test_what_a_thread_uses_is_told_by_thread() -> None:
    with beside(computing) as thread:
        before = companions.cpu_ns(threading.get_ident())
        time.sleep(0.2)
        after = companions.cpu_ns(threading.get_ident())

    native = thread.native_id
    assert native is not None
    assert after[native] > before[native]
    assert threading.get_native_id() not in after


def test_the_profile_tells_what_other_threads_use(tmp_path: Path) -> None:
    def loop(prof: profile) -> None:
        for _ in prof.steps(range(40)):
            time.sleep(0.02)

    with beside(computing):
        recorded = record(tmp_path / "profile.json", loop)

    used = [u for u in recorded.samples.columns["other_threads_cores"] if u is not None]
    assert max(used) > 0.1
    assert any(site.phase == "thread" and site.function == "spin" for site in recorded.sites)
