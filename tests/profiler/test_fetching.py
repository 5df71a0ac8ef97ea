from __future__ import annotations

import builtins
import copy
import gc
import io
import mmap
import os
import pickle
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from loops import (
    MS,
    BrokenPoints,
    FilePoints,
    Points,
    PointStream,
    SleepyPoints,
    SpinningPoints,
    sleepy_collate,
    spin,
)
from torch.utils.data import _DatasetKind, default_collate, default_convert
from torch.utils.data._utils import worker

from stepscope.profiler import fetching
from stepscope.profiler.fetching import FetchTimer, lend_worker_loop
from stepscope.profiler.ring import BatchRecord
from stepscope.profiler.stacks import under_way


def fetcher_of(
    dataset: Any, collate: Any = default_collate, batched: bool = True, kind: int | None = None
) -> Any:
    """The fetcher that a DataLoader makes for `dataset`."""
    kind = _DatasetKind.Map if kind is None else kind
    create: Any = _DatasetKind.create_fetcher
    return create(kind, dataset, batched, collate, False)


def fetch_once(fetcher: Any, indices: Any) -> tuple[Any, BatchRecord]:
    records: list[BatchRecord] = []
    FetchTimer(records.append).attach(fetcher)
    batch = fetcher.fetch(indices)
    assert len(records) == 1
    return batch, records[0]


def blocked(record: BatchRecord) -> int:
    return record.wall_ns - record.cpu_ns - max(0, record.run_delay_ns)


def test_the_batch_is_the_same() -> None:
    plain = fetcher_of(Points()).fetch([1, 2, 3])
    timed, record = fetch_once(fetcher_of(Points()), [1, 2, 3])

    assert all((a == b).all() for a, b in zip(plain, timed, strict=True))
    assert record.items == 3
    assert record.wall_ns >= record.collate_ns > 0
    assert record.wall_ns + MS >= record.cpu_ns > 0  # two clocks, read one after the other


def test_sleeping_is_blocked_time() -> None:
    _, record = fetch_once(fetcher_of(SleepyPoints(8, 0.02)), [0, 1, 2])
    assert record.wall_ns >= 60 * MS
    assert record.cpu_ns < 30 * MS
    # `run_delay` may include a wake-up that waited for a core: it is no sleep.
    assert blocked(record) >= 50 * MS


def test_computing_is_processor_time() -> None:
    _, record = fetch_once(fetcher_of(SpinningPoints(8, 0.02)), [0, 1, 2])
    assert record.cpu_ns >= 60 * MS
    assert record.wall_ns + MS >= record.cpu_ns
    assert blocked(record) < 60 * MS


def test_collating_is_timed_apart() -> None:
    _, slow = fetch_once(fetcher_of(Points(), sleepy_collate), [0, 1])
    assert slow.collate_ns >= 20 * MS > slow.collate_cpu_ns
    _, fast = fetch_once(fetcher_of(SleepyPoints(8, 0.02)), [0, 1])
    assert fast.wall_ns - fast.collate_ns >= 40 * MS


def test_reads_of_files_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "sample.bin"
    file.write_bytes(b"x" * 300_000)
    _, record = fetch_once(fetcher_of(FilePoints(8, file)), [0, 1])
    if record.read_bytes < 0:
        pytest.skip("the kernel does not tell what a thread reads")

    assert 600_000 <= record.read_bytes < 700_000
    assert record.read_calls >= 2
    _, without = fetch_once(fetcher_of(Points()), [0, 1])
    assert 0 <= without.read_bytes < 10_000


def test_our_own_readings_are_no_reads_of_the_dataset() -> None:
    for dataset in (Points(), SleepyPoints(8, 0.001)):
        _, record = fetch_once(fetcher_of(dataset), [0, 1])
        assert (record.read_bytes, record.read_calls) in ((0, 0), (-1, -1))


def in_fresh_memory(samples: object) -> int:
    """Writes to pages that no allocator had before."""
    with mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory[:: mmap.PAGESIZE] = b"x" * len(range(0, 64 << 20, mmap.PAGESIZE))
    return 0


def test_new_memory_is_counted_in_pages() -> None:
    _, record = fetch_once(fetcher_of(Points(), in_fresh_memory), [0])
    if not hasattr(pytest.importorskip("resource"), "RUSAGE_THREAD"):
        pytest.skip("the kernel does not tell what a thread faults")
    assert record.minor_faults >= 10  # of 2 MB, where the kernel gives such pages
    _, without = fetch_once(fetcher_of(Points()), [0])
    assert without.minor_faults < record.minor_faults


# Opening files ------------------------------------------------------------------------------------


class Opening(Points):
    """Each sample calls `action`."""

    def __init__(self, action: Callable[[], Any]) -> None:
        super().__init__()
        self.action = action

    def __getitem__(self, index: int) -> Any:
        self.action()
        return super().__getitem__(index)


def test_opening_and_listing_files_is_counted(tmp_path: Path) -> None:
    file = tmp_path / "sample.bin"
    file.write_bytes(b"x")

    def action() -> None:
        with open(file, "rb"), io.open(file):  # noqa: PTH123, UP020
            pass
        os.stat(file)  # noqa: PTH116
        os.lstat(file)
        os.listdir(tmp_path)  # noqa: PTH208
        os.scandir(tmp_path).close()
        os.close(os.open(file, os.O_RDONLY))
        assert os.path.exists(file)  # noqa: PTH110

    _, record = fetch_once(fetcher_of(Opening(action)), [0, 1])
    assert record.opens == 2 * 8
    assert 0 < record.open_ns < record.wall_ns
    assert 0 < record.open_cpu_ns <= record.cpu_ns


@pytest.mark.skipif(sys.version_info < (3, 11), reason="pathlib kept references of its own")
def test_pathlib_is_counted_too(tmp_path: Path) -> None:
    file = tmp_path / "sample.bin"
    file.write_bytes(b"x")

    def action() -> None:
        file.read_bytes()
        file.stat()

    _, record = fetch_once(fetcher_of(Opening(action)), [0])
    assert record.opens == 2


def test_a_nested_call_is_counted_once(tmp_path: Path) -> None:
    def opener(path: str, flags: int) -> int:
        return os.open(path, flags)

    def action() -> None:
        with open(tmp_path / "new", "w", opener=opener):
            pass

    _, record = fetch_once(fetcher_of(Opening(action)), [0])
    assert record.opens == 1


def test_other_threads_and_other_times_are_not_counted(tmp_path: Path) -> None:
    def elsewhere() -> None:
        thread = threading.Thread(target=lambda: os.stat(tmp_path))  # noqa: PTH116
        thread.start()
        thread.join()

    fetcher = fetcher_of(Opening(elsewhere))
    os.stat(tmp_path)  # noqa: PTH116
    _, record = fetch_once(fetcher, [0, 1, 2])
    assert record.opens == 0


def test_the_functions_are_replaced_only_during_a_fetch(tmp_path: Path) -> None:
    before = (builtins.open, io.open, os.open, os.stat, os.lstat, os.listdir, os.scandir)

    def failing() -> None:
        during.append(os.stat)
        raise LookupError

    during: list[Any] = []
    with pytest.raises(LookupError):
        fetch_once(fetcher_of(Opening(failing)), [0])
    assert during[0] is not os.stat
    after = (builtins.open, io.open, os.open, os.stat, os.lstat, os.listdir, os.scandir)
    assert all(a is b for a, b in zip(before, after, strict=True))
    assert during[0](tmp_path) == os.stat(tmp_path)  # noqa: PTH116  # still good for who keeps it


def test_a_replaced_function_passes_for_the_original() -> None:
    found: list[Any] = []

    def action() -> None:
        class Keeper:
            stat: Any = os.stat
            open = open

        found.append(Keeper().stat("/"))  # a function of Python would be bound here
        found.append(os.stat in os.supports_fd and os.open in os.supports_dir_fd)
        found.append(pickle.loads(pickle.dumps(os.stat)))
        found.append(copy.deepcopy([os.listdir]))

    expected = os.stat in os.supports_fd and os.open in os.supports_dir_fd
    fetch_once(fetcher_of(Opening(action)), [0])
    assert found[1] == expected
    assert found[2] is os.stat
    assert found[3] == [os.listdir]


def test_somebody_elses_replacement_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.stat

    def theirs(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    def action() -> None:
        monkeypatch.setattr(os, "stat", theirs)
        os.stat("/")  # noqa: PTH116

    _, record = fetch_once(fetcher_of(Opening(action)), [0])
    assert record.opens == 0
    assert os.stat is theirs
    fetch_once(fetcher_of(Opening(action)), [0])
    assert os.stat is theirs


# Which fetches ------------------------------------------------------------------------------------


def test_of_nested_fetches_the_outer_is_timed() -> None:
    records: list[BatchRecord] = []
    inner = fetcher_of(SpinningPoints(8, 0.01))
    FetchTimer(records.append).attach(inner)
    outer = fetcher_of(Opening(lambda: inner.fetch([0])))
    FetchTimer(records.append).attach(outer)

    outer.fetch([0, 1])
    assert [record.items for record in records] == [2]
    assert records[0].cpu_ns >= 20 * MS
    inner.fetch([0])
    assert len(records) == 2


def test_a_fetch_in_another_thread_is_left_alone() -> None:
    records: list[BatchRecord] = []
    fetcher = fetcher_of(Points())
    FetchTimer(records.append).attach(fetcher)
    batches: list[Any] = []
    thread = threading.Thread(target=lambda: batches.append(fetcher.fetch([0, 1])))
    thread.start()
    thread.join()
    assert len(batches) == 1
    assert records == []
    assert not under_way


def test_a_closed_timer_passes_through() -> None:
    records: list[BatchRecord] = []
    fetcher = fetcher_of(Points())
    timer = FetchTimer(records.append)
    timer.attach(fetcher)
    timer.close()
    assert len(fetcher.fetch([0, 1])) == 2
    assert records == []


def test_threads_of_the_dataset_are_helpers() -> None:
    def action() -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(spin, [0.05, 0.05]))

    _, record = fetch_once(fetcher_of(Opening(action)), [0])
    assert record.helper_cpu_ns >= 90 * MS > record.cpu_ns


def test_children_of_the_dataset_are_helpers() -> None:
    code = "import time\nwhile time.process_time() < 0.2: pass"

    def action() -> None:
        subprocess.run([sys.executable, "-S", "-c", code], check=True)

    _, record = fetch_once(fetcher_of(Opening(action)), [0])
    assert record.helper_cpu_ns >= 150 * MS > record.cpu_ns


def test_an_exception_of_the_dataset_is_left_alone() -> None:
    records: list[BatchRecord] = []
    fetcher = fetcher_of(BrokenPoints())
    FetchTimer(records.append).attach(fetcher)

    with pytest.raises(LookupError, match="sample 5 is broken"):
        fetcher.fetch([4, 5])
    assert records == []
    fetcher.fetch([4])
    assert [record.items for record in records] == [1]


def test_an_exception_of_the_collate_function_is_left_alone() -> None:
    def collate(samples: Any) -> Any:
        raise OverflowError(f"{len(samples)} samples")

    with pytest.raises(OverflowError, match="2 samples"):
        fetch_once(fetcher_of(Points(), collate), [0, 1])


def test_an_error_of_ours_does_not_reach_the_loader() -> None:
    def broken_sink(record: BatchRecord) -> None:
        raise RuntimeError("ours")

    fetcher = fetcher_of(Points())
    FetchTimer(broken_sink).attach(fetcher)
    assert len(fetcher.fetch([0, 1])) == 2


def test_the_last_batch_of_a_stream_has_its_own_number_of_items() -> None:
    records: list[BatchRecord] = []
    fetcher = fetcher_of(PointStream(5), kind=_DatasetKind.Iterable)
    FetchTimer(records.append).attach(fetcher)
    fetcher.fetch([None] * 3)
    fetcher.fetch([None] * 3)
    with pytest.raises(StopIteration):
        fetcher.fetch([None] * 3)
    assert [record.items for record in records] == [3, 2]


def test_a_tuple_that_is_one_sample_is_one_item() -> None:
    _, record = fetch_once(fetcher_of(Points(), default_convert, batched=False), 4)
    assert record.items == 1


def test_a_timed_fetcher_is_freed_as_soon_as_its_iterator() -> None:
    # A stream may hold a shuffle buffer of gigabytes.
    fetcher = fetcher_of(PointStream(), kind=_DatasetKind.Iterable)
    FetchTimer(lambda record: None).attach(fetcher)
    fetcher.fetch([None])
    gone = weakref.ref(fetcher)
    gc.disable()
    try:
        del fetcher
        assert gone() is None
    finally:
        gc.enable()


def test_a_fetcher_per_epoch_opens_no_file_per_epoch() -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("needs /proc")
    fetchers = [fetcher_of(Points()) for _ in range(20)]
    FetchTimer(lambda record: None).attach(fetchers[0])
    before = len(list(descriptors.iterdir()))
    for fetcher in fetchers[1:]:
        FetchTimer(lambda record: None).attach(fetcher)
    assert len(list(descriptors.iterdir())) == before


@pytest.fixture
def original_loop() -> Iterator[Any]:
    original = worker._worker_loop
    yield original
    worker._worker_loop = original
    fetching._originals.clear()


def test_the_worker_loop_is_lent_and_given_back(tmp_path: Path, original_loop: Any) -> None:
    give_back = lend_worker_loop(worker, tmp_path, "0-0")
    assert worker._worker_loop is not original_loop
    give_back()
    assert worker._worker_loop is original_loop


def test_a_version_without_a_worker_loop_is_left_alone(tmp_path: Path) -> None:
    class Other:
        __name__ = "other"

    lend_worker_loop(Other, tmp_path, "0-0")()
    assert not hasattr(Other, "_worker_loop")


def test_of_short_fetches_only_some_are_asked_about() -> None:
    records: list[BatchRecord] = []
    fetcher = fetcher_of(Points(8), default_convert)
    FetchTimer(records.append).attach(fetcher)
    for _ in range(130):
        fetcher.fetch([0, 1])
    asked = [record for record in records if record.minor_faults >= 0]
    assert 10 <= len(asked) < 65, "some, and not most"
    assert len(records) == 130
    assert all(record.wall_ns > 0 for record in records)


def test_long_fetches_are_all_asked_about() -> None:
    records: list[BatchRecord] = []
    fetcher = fetcher_of(SleepyPoints(8, 0.003), default_convert)
    FetchTimer(records.append).attach(fetcher)
    for _ in range(10):
        fetcher.fetch([0])
    assert all(record.minor_faults >= 0 for record in records)
