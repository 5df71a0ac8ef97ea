from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
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
)
from torch.utils.data import _DatasetKind, default_collate, default_convert
from torch.utils.data._utils import worker

from stepscope.profiler import fetching
from stepscope.profiler.fetching import FetchTimer, lend_worker_loop
from stepscope.profiler.ring import BatchRecord


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
