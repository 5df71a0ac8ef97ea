from __future__ import annotations

import itertools
import multiprocessing
import threading
import time
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from loops import (
    MS,
    BrokenPoints,
    FilePoints,
    Points,
    PointStream,
    SleepyPoints,
    SpinningPoints,
    all_steps,
    assert_exclusive,
    epochs,
    only_loader,
    record,
    sleepy_collate,
    spent,
    totals,
)
from pipelines import (
    SPIN_S,
    AtOnce,
    Nested,
    NestedWorkers,
    Quick,
    SuicidalPoints,
)
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from stepscope.profiler import companions, profile
from stepscope.profiler.storage import load

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


BATCHES_OF_4: dict[str, dict[str, Any]] = {
    "inline": {},
    "fork": {"num_workers": 2, "multiprocessing_context": "fork"},
    "spawn": {"num_workers": 1, "multiprocessing_context": "spawn"},
    "forkserver": {"num_workers": 1, "multiprocessing_context": "forkserver"},
    "custom collate": {"num_workers": 1, "collate_fn": sleepy_collate},
    "inline collate": {"collate_fn": sleepy_collate},
}


@pytest.mark.parametrize("name", BATCHES_OF_4)
def test_every_batch_is_recorded_once(tmp_path: Path, name: str) -> None:
    options = BATCHES_OF_4[name]
    context = options.get("multiprocessing_context")
    if context and context not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {context} here")
    loader = DataLoader(Points(18), batch_size=4, **options)
    result = record(tmp_path / "profile.json", epochs(loader))
    found = only_loader(result)

    assert totals(found, "batches") == 5
    assert totals(found, "items") == 18
    assert found.num_workers == options.get("num_workers", 0)
    assert len(found.workers) == max(1, found.num_workers)
    assert found.batches is not None
    assert len(found.batches.wall_ns) == 5
    assert sum(found.batches.wall_ns) == totals(found, "wall_ns")
    assert sum(found.batches.cpu_ns) == totals(found, "cpu_ns")
    assert all(worker.lost == 0 for worker in found.workers)
    assert found.start_method == (context or ("fork" if found.num_workers else None))
    assert (found.class_name, found.dataset, found.dataset_kind) == ("DataLoader", "Points", "map")
    assert (found.length, found.batch_size, found.epochs) == (5, 4, 1)
    assert found.collate_fn == ("sleepy_collate" if "collate" in name else "default_collate")
    if "collate" in name:
        assert totals(found, "collate_ns") >= 5 * 20 * MS
    assert sum(steps.total for steps in all_steps(result)) == 5
    assert result.problems == []
    assert_exclusive(result)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_is_recorded(tmp_path: Path, workers: int) -> None:
    loader = DataLoader(PointStream(16), batch_size=4, num_workers=workers)
    found = only_loader(record(tmp_path / "profile.json", epochs(loader)))

    assert found.dataset_kind == "iterable"
    assert found.length is None
    assert totals(found, "batches") == 4
    assert totals(found, "items") == 16


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_without_batches_is_recorded(tmp_path: Path, workers: int) -> None:
    loader = DataLoader(Points(6), batch_size=None, num_workers=workers)
    found = only_loader(record(tmp_path / "profile.json", epochs(loader)))

    assert found.batch_size is None
    assert totals(found, "batches") == totals(found, "items") == 6


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_sampler_of_the_users_own_is_recorded(tmp_path: Path, workers: int) -> None:
    sampler = BatchSampler(SequentialSampler(Points(10)), batch_size=3, drop_last=False)
    loader = DataLoader(Points(10), batch_sampler=sampler, num_workers=workers)
    found = only_loader(record(tmp_path / "profile.json", epochs(loader)))

    assert found.batch_size == 3
    assert totals(found, "batches") == 4
    assert totals(found, "items") == 10


def test_persistent_workers_are_the_same_over_epochs(tmp_path: Path) -> None:
    loader = DataLoader(Points(16), batch_size=4, num_workers=2, persistent_workers=True)
    result = record(tmp_path / "profile.json", epochs(loader, 3))
    found = only_loader(result)

    assert found.persistent_workers
    assert found.epochs == 3
    assert len(found.workers) == 2
    assert [worker.totals.batches for worker in found.workers] == [6, 6]
    loader._iterator = None  # ends the workers


def test_new_workers_every_epoch_are_told_apart(tmp_path: Path) -> None:
    loader = DataLoader(Points(16), batch_size=4, num_workers=2)
    found = only_loader(record(tmp_path / "profile.json", epochs(loader, 3)))

    assert found.epochs == 3
    assert len({worker.pid for worker in found.workers}) == 6
    assert sorted(worker.id for worker in found.workers) == [0, 0, 0, 1, 1, 1]
    assert all(worker.totals.batches == 2 for worker in found.workers)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_made_anew_each_epoch_is_one(tmp_path: Path, workers: int) -> None:
    def body(prof: profile) -> None:
        for _ in range(3):
            for _ in prof.steps(DataLoader(Points(8), batch_size=4, num_workers=workers)):
                pass

    found = only_loader(record(tmp_path / "profile.json", body))
    assert found.epochs == 3
    assert totals(found, "batches") == 6


def test_different_loaders_are_told_apart(tmp_path: Path) -> None:
    def body(prof: profile) -> None:
        for _ in prof.steps(DataLoader(Points(8), batch_size=4)):
            with prof.phase("validation"):
                for _ in DataLoader(Points(8), batch_size=4):
                    pass
        for _ in DataLoader(Points(9), batch_size=3):
            prof.step()

    result = record(tmp_path / "profile.json", body)
    assert [
        (loader.training, loader.batch_size, loader.epochs, totals(loader, "batches"))
        for loader in result.loaders
    ] == [(True, 4, 1, 2), (False, 4, 2, 4), (True, 3, 1, 3)]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sleeping_dataset_is_blocked(tmp_path: Path, workers: int) -> None:
    loader = DataLoader(SleepyPoints(8, 0.01), batch_size=4, num_workers=workers)
    result = record(tmp_path / "profile.json", epochs(loader))
    found = only_loader(result)
    blocked = totals(found, "wall_ns") - totals(found, "cpu_ns") - totals(found, "run_delay_ns")

    assert totals(found, "wall_ns") >= 80 * MS
    assert blocked >= 60 * MS
    waited = spent(result, "data_wait") + spent(result, "worker_startup")
    assert waited >= 70 * MS


@pytest.mark.parametrize("workers", [0, 1])
def test_a_spinning_dataset_is_busy(tmp_path: Path, workers: int) -> None:
    loader = DataLoader(SpinningPoints(8, 0.01), batch_size=4, num_workers=workers)
    result = record(tmp_path / "profile.json", epochs(loader))

    assert totals(only_loader(result), "cpu_ns") >= 80 * MS
    if workers == 0:
        assert sum(sum(steps.wait_cpu_ns or []) for steps in all_steps(result)) >= 80 * MS


def test_the_files_a_worker_reads_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "sample.bin"
    file.write_bytes(b"x" * 200_000)
    loader = DataLoader(FilePoints(8, file), batch_size=4, num_workers=1)
    found = only_loader(record(tmp_path / "profile.json", epochs(loader)))
    if found.workers[0].totals.read_bytes is None:
        pytest.skip("the kernel does not tell what a thread reads")

    assert 8 * 200_000 <= totals(found, "read_bytes") < 9 * 200_000


@pytest.mark.parametrize("workers", [0, 2])
def test_an_exception_of_the_dataset_arrives(tmp_path: Path, workers: int) -> None:
    loader = DataLoader(
        BrokenPoints(16), batch_size=2, num_workers=workers, persistent_workers=workers > 0
    )
    with pytest.raises(LookupError, match="sample 5 is broken"):
        record(tmp_path / "profile.json", epochs(loader))
    if workers:  # left to the garbage collector, PyTorch waits 5 s for each of them
        assert loader._iterator is not None
        cast(Any, loader._iterator)._shutdown_workers()


def test_the_start_of_workers_is_no_waiting_for_data(tmp_path: Path) -> None:
    loader = DataLoader(Points(8), batch_size=4, num_workers=2)
    result = record(tmp_path / "profile.json", epochs(loader))

    first = all_steps(result)[1]
    assert first.phases["worker_startup"][0] > 0
    assert first.phases["data_wait"][1] > 0
    assert first.phases["worker_startup"][1] == 0


def test_the_end_of_workers_is_no_waiting_for_data(tmp_path: Path) -> None:
    def body(prof: profile) -> None:
        for _ in range(2):
            for _ in DataLoader(Points(8), batch_size=4, num_workers=1):
                prof.step()

    phases = all_steps(record(tmp_path / "profile.json", body))[1].phases
    new = [i for i, ns in enumerate(phases["worker_startup"]) if ns]

    # The third step has the end of the first worker in it, and the start of the next.
    assert new == [0, 2]
    assert phases["worker_startup"][2] > phases["data_wait"][2]


def test_pairs_of_loaders_are_followed(tmp_path: Path) -> None:
    def body(prof: profile) -> None:
        first = DataLoader(Points(8), batch_size=4, num_workers=1)
        second = DataLoader(Points(9), batch_size=3)
        for _ in prof.steps(zip(first, second, strict=False)):
            pass

    result = record(tmp_path / "profile.json", body)
    batches = {found.batch_size: totals(found, "batches") for found in result.loaders}
    assert batches[4] == 2
    assert batches[3] in (2, 3)
    assert sum(steps.total for steps in all_steps(result)) == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_whole_batches_asked_of_the_dataset_are_recorded(tmp_path: Path, workers: int) -> None:
    loader = DataLoader(AtOnce(Quick()), batch_size=4, num_workers=workers)
    found = only_loader(record(tmp_path / "profile.json", epochs(loader)))
    assert totals(found, "batches") == 2
    assert totals(found, "items") == 8


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_inside_the_dataset_is_part_of_the_fetch(tmp_path: Path, workers: int) -> None:
    loader = DataLoader(Nested(), batch_size=2, num_workers=workers)
    result = record(tmp_path / "profile.json", epochs(loader))
    found = only_loader(result)

    assert found.dataset == "Nested"
    assert totals(found, "batches") == 2
    assert totals(found, "items") == 4
    assert totals(found, "cpu_ns") >= 4 * 8 * int(SPIN_S * 1e9)
    assert totals(found, "cpu_ns") <= totals(found, "wall_ns") + 2 * MS
    assert result.problems == []


def test_workers_of_a_loader_inside_the_dataset_are_told_apart(tmp_path: Path) -> None:
    loader = DataLoader(NestedWorkers(), batch_size=2)
    result = record(tmp_path / "profile.json", epochs(loader))
    outer, inner = result.loaders
    assert (outer.dataset, totals(outer, "items")) == ("NestedWorkers", 2)
    assert (inner.dataset, totals(inner, "items")) == ("Points", 2 * 8)


def test_a_run_that_skips_batches_is_recorded(tmp_path: Path) -> None:
    loader = DataLoader(Points(24), batch_size=4, num_workers=1)

    def body(prof: profile) -> None:
        for _ in prof.steps(itertools.islice(loader, 2, None)):
            pass

    result = record(tmp_path / "profile.json", body)
    assert totals(only_loader(result), "batches") == 6
    assert sum(steps.total for steps in all_steps(result)) == 4
    assert_exclusive(result)


def test_batches_out_of_order_are_recorded(tmp_path: Path) -> None:
    try:
        loader = DataLoader(Points(24), batch_size=4, num_workers=2, in_order=False)
    except TypeError:
        pytest.skip("needs PyTorch 2.6")
    found = only_loader(record(tmp_path / "profile.json", epochs(loader)))
    assert found.in_order is False
    assert totals(found, "batches") == 6


@pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")
def test_a_pinning_thread_is_no_worker(tmp_path: Path) -> None:
    loader = DataLoader(Points(8), batch_size=4, num_workers=1, pin_memory=True)
    found = only_loader(record(tmp_path / "profile.json", epochs(loader)))
    assert found.pin_memory
    assert totals(found, "batches") == 2
    assert len(found.workers) == 1


def test_a_killed_worker_leaves_what_it_has_told(tmp_path: Path) -> None:
    loader = DataLoader(SuicidalPoints(16, at=9), batch_size=4, num_workers=1)
    file = tmp_path / "profile.json"
    with pytest.raises(RuntimeError, match=r"exited unexpectedly|killed by signal"):
        record(file, epochs(loader))
    found = only_loader(load(file))
    assert totals(found, "batches") == 2


@pytest.mark.filterwarnings("ignore:.*set_vital.*:UserWarning")
def test_a_stateful_loader_is_recorded(tmp_path: Path) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader")
    options: dict[str, Any] = {"batch_size": 4, "num_workers": 1}
    first = stateful.StatefulDataLoader(Points(24), **options)
    state = next(
        state for number, _ in enumerate(first) if (state := first.state_dict()) and number
    )
    resumed = stateful.StatefulDataLoader(Points(24), **options)
    resumed.load_state_dict(state)
    result = record(tmp_path / "profile.json", epochs(resumed))
    assert sum(steps.total for steps in all_steps(result)) == 4
    assert totals(only_loader(result), "batches") >= 4


def test_many_epochs_of_workers_hold_no_files_open(tmp_path: Path) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("needs /proc")
    held: list[int] = []

    def body(prof: profile) -> None:
        loader = DataLoader(Points(4), batch_size=2, num_workers=1)
        for epoch in range(8):
            for _ in prof.steps(loader):
                pass
            if epoch % 4 == 3:
                time.sleep(1.2)  # the sampling thread has looked
                held.append(len(list(descriptors.iterdir())))

    record(tmp_path / "profile.json", body)
    assert held[1] <= held[0] + 1


def test_the_thread_that_pins_memory_is_the_loaders_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no device here: what a driver would do is a copy, the rest is PyTorch's own."""
    accelerator = pytest.importorskip("torch.accelerator")
    monkeypatch.setattr(accelerator, "is_available", lambda: True)
    monkeypatch.setattr(accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(accelerator, "current_device_index", lambda: 0)
    monkeypatch.setattr(accelerator, "set_device_index", lambda index: None)
    pinned: list[int] = []

    def pin_memory(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(threading.get_ident())
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    others: set[int] = set()

    def body(prof: profile) -> None:
        for _ in prof.steps(DataLoader(Points(40), 4, num_workers=1, pin_memory=True)):
            others.update(ident for ident, _ in companions.others(threading.get_ident()))

    found = only_loader(record(tmp_path / "profile.json", body))

    if not pinned:
        pytest.skip("this version of PyTorch does not ask the accelerator whether it is there")
    assert len(pinned) == 2 * 10
    assert threading.get_ident() not in pinned
    assert not others & set(pinned)
    assert found.pin_memory
    assert totals(found, "batches") == 10
