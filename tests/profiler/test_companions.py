from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from loops import record, spin

from stepscope.profiler import companions, profile, stacks
from stepscope.profiler.companions import Companions
from stepscope.profiler.processes import thread_times_ns
from stepscope.profiler.stacks import StackSampler

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
    for _ in range(times):
        found.look()
        time.sleep(0.002)
    return [(site.phase, site.function) for site in found.sites() for _ in range(site.samples)]


def test_a_thread_that_computes_is_seen_where_it_is() -> None:
    with beside(computing):
        seen = looked(50)

    assert seen.count(("thread", "spin")) > 25


def test_a_thread_that_waits_is_not_seen() -> None:
    go_on = threading.Event()
    with beside(lambda: go_on.wait(0.5)):
        assert looked(20) == []
        go_on.set()


def test_an_executor_without_work_is_not_seen() -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
        assert len(looked(20)) <= 2  # while it goes to rest


def unlocked_share(work: Callable[[], object]) -> float:
    """Which part of the looks at a thread that does `work` found that it needs no lock."""
    found = Companions(threading.get_ident())
    with beside(work):
        for _ in range(100):
            found.look()
            time.sleep(0.005)
    states = Counter[str]()
    for site in found.sites():
        states[site.state] += site.samples
    return states["unlocked"] / states.total()


def test_who_computes_without_the_lock_is_told_apart() -> None:
    noise = os.urandom(2_000_000)

    # A processor that a host takes from its guest seems to go on running a thread, and a thread
    # that needs no lock may have to wait for a core: on a busy machine a try can fail.
    assert any(
        unlocked_share(lambda: zlib.compress(noise)) > unlocked_share(computing) + 0.2
        for _ in range(10)
    )


def test_our_own_threads_are_none_of_the_programs() -> None:
    with beside(computing, companions.OWN_NAMES + "test"):
        assert looked(20) == []


def test_no_file_stays_open() -> None:
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))
    with beside(computing):
        Companions(threading.get_ident()).look()
        assert len(list(descriptors.iterdir())) == before


def test_the_training_goes_on_unharmed_beside_thousands_of_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # While a frame of the training thread was held, PyTorch failed within seconds of this.
    class Running:
        def __init__(self, native_id: int) -> None:
            pass

        def read(self) -> str:
            return "running"

        def close(self) -> None:
            pass

    def now_and_then() -> None:
        time.sleep(0.0005)
        [list(range(50)) for _ in range(20)]

    monkeypatch.setattr(companions, "ThreadState", Running)
    monkeypatch.setattr(stacks, "_EAGER_LOOKS", 10**9)
    found = Companions(threading.get_ident())
    sampler = StackSampler(
        lambda: "python",
        threading.get_ident(),
        threading.get_native_id(),
        hz=3000,
        each_tick=found.look,
    )
    model, x = torch.nn.Linear(64, 64), torch.randn(32, 64)

    def step() -> torch.Tensor:
        loss: torch.Tensor = model(x.reshape(-1).view(32, -1).t().t()).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    with beside(now_and_then), beside(now_and_then), beside(now_and_then):
        sampler.start()
        until = time.monotonic() + 5
        while time.monotonic() < until:
            str(step())
        sampler.stop()

    assert sampler.samples > 100


def test_what_a_thread_uses_is_told_by_thread() -> None:
    with beside(computing) as thread:
        before = thread_times_ns()
        time.sleep(0.2)
        after = thread_times_ns()
        others = [native for _, native in companions.others(threading.get_ident())]

    native = thread.native_id
    assert native is not None
    assert before is not None
    assert after is not None
    assert after[native][0] > before[native][0]
    assert native in others
    assert threading.get_native_id() not in others


def test_threads_that_pass_data_between_processes_are_told_apart() -> None:
    context = multiprocessing.get_context("fork")
    before = {native for _, native in companions.others(threading.get_ident())}
    with context.Pool(1) as pool, ProcessPoolExecutor(1, context) as executor:
        pool.apply(int)
        executor.submit(int).result()
        handing = companions.handing_over()
        others = {native for _, native in companions.others(threading.get_ident())}

    assert len(handing) >= 3 + 2  # of the pool; of the executor, one for its queue
    assert others <= before


def test_the_profile_tells_what_other_threads_use(tmp_path: Path) -> None:
    def loop(prof: profile) -> None:
        for _ in prof.steps(range(40)):
            time.sleep(0.02)

    with beside(computing):
        recorded = record(tmp_path / "profile.json", loop)

    used = [u for u in recorded.samples.columns["other_threads_cores"] if u is not None]
    assert max(used) > 0.1
    assert any(site.phase == "thread" and site.function == "spin" for site in recorded.sites)
