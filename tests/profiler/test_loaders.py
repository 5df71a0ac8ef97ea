from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stepscope.profiler import profile
from stepscope.profiler.format import Loader
from stepscope.profiler.loaders import LoaderLog, RingFolder, _remove_stale
from stepscope.profiler.observed import Observed
from stepscope.profiler.ring import BatchRecord, RingWriter
from stepscope.profiler.sitefile import SiteFile
from stepscope.profiler.stacks import Sites

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
Loop = Callable[[profile], Any]


def description(**changes: Any) -> Loader:
    fields: dict[str, Any] = {"class_name": "DataLoader", "dataset": "Points"}
    fields |= {"dataset_kind": "map", "num_workers": 1}
    return Loader(**fields | changes)


@pytest.fixture
def folder() -> Iterator[RingFolder]:
    made = RingFolder()
    yield made
    made.remove()
    assert not made.path.exists()


def write_ring(path: Path, records: int) -> None:
    writer = RingWriter(path, worker_id=1)
    for _ in range(records):
        writer.append(BatchRecord._make([7] * len(BatchRecord._fields)))


def test_rings_of_finished_workers_are_removed(folder: RingFolder) -> None:
    log = LoaderLog(0, description(), 0)
    finished = [
        multiprocessing.get_context("fork").Process(
            target=write_ring, args=(folder.path / f"0-{i}-1.ring", 3)
        )
        for i in range(3)
    ]
    for process in finished:
        process.start()
    for process in finished:
        process.join()
    write_ring(folder.path / "0-9-1.ring", 5)  # ours: still alive
    folder.drain([log])

    assert [file.name for file in folder.path.iterdir()] == ["0-9-1.ring"]
    assert len(folder.worker_pids()) == 1
    assert sum(worker.totals.batches for worker in log.result().workers) == 14


def test_tables_of_sites_are_added_once(folder: RingFolder) -> None:
    log = LoaderLog(0, description(), 0)
    write_ring(folder.path / "0-0-1.ring", 1)
    sites = Sites()
    file = SiteFile(folder.path / "0-0-1.sites", sites)
    key = ("fetch", "data.py", 3, "load", None, "file")
    for samples in (5, 2):
        sites.add(key, samples)
        file.write()
        folder.drain([log])
        folder.drain([log])
    assert [site.samples for site in log.result().sites] == [7]
    assert log.result().workers[0].samples == 7

    (folder.path / "0-0-1.sites").write_bytes(b"damaged")
    folder.drain([log])
    assert log.result().workers[0].samples == 7


def test_folders_of_killed_runs_are_removed_when_nobody_can_use_them(tmp_path: Path) -> None:
    gone = 2**22 + 1  # no process has this number
    ours, fresh, old = f"{os.getpid()}-a", f"{gone}-b", f"{gone}-c"
    for name in (ours, fresh, old):
        (tmp_path / f"stepscope-{name}").mkdir()
    for name in (ours, old):
        os.utime(tmp_path / f"stepscope-{name}", (0, 0))
    _remove_stale(tmp_path)
    # A fresh one may be of a run in another container, whose numbers are not ours.
    assert {path.name for path in tmp_path.iterdir()} == {f"stepscope-{n}" for n in (ours, fresh)}


def test_an_unfinished_ring_is_read_later(folder: RingFolder) -> None:
    log = LoaderLog(0, description(), 0)
    (folder.path / "0-0-1.ring").touch()
    folder.drain([log])
    assert log.result().workers == []
    (folder.path / "0-0-1.ring").unlink()
    write_ring(folder.path / "0-0-1.ring", 2)
    folder.drain([log])
    assert log.result().workers[0].totals.batches == 2


def test_lost_records_are_told(folder: RingFolder) -> None:
    log = LoaderLog(0, description(), 0)
    write_ring(folder.path / "0-0-1.ring", 3000)
    folder.drain([log])
    folder.drain([log])
    (worker,) = log.result().workers
    assert worker.totals.batches + worker.lost == 3000
    assert worker.lost > 900


def test_figures_the_kernel_does_not_tell_stay_unknown() -> None:
    log = LoaderLog(0, description(), 0)
    fields = BatchRecord._make([5] * len(BatchRecord._fields))
    log.add(0, 1, fields._replace(run_delay_ns=-1, read_bytes=-1))
    log.add(0, 1, fields._replace(run_delay_ns=-1, read_bytes=-1))
    (worker,) = log.result().workers

    assert worker.totals.run_delay_ns is None
    assert worker.totals.read_bytes is None
    assert worker.totals.wall_ns == 10


def test_the_number_of_workers_and_loaders_is_bounded(tmp_path: Path) -> None:
    log = LoaderLog(0, description(), 0)
    for pid in range(1000):
        log.add(0, pid, BatchRecord._make([1] * len(BatchRecord._fields)))
    result = log.result()
    assert len(result.workers) == 256
    assert sum(worker.totals.batches for worker in result.workers) == 1000

    observed = Observed(tmp_path, 0)
    for length in range(64):
        observed.add_loader(description(length=length))
    assert observed.add_loader(description(length=3)) is observed.loaders[3]
    with pytest.raises(ValueError, match="64 different loaders"):
        observed.add_loader(description(length=1000))
    assert len(observed.loaders) == 64


def test_the_first_batch_of_every_worker_is_told_apart() -> None:
    log = LoaderLog(0, description(), 0)
    quick = BatchRecord._make([7] * len(BatchRecord._fields))
    slow = quick._replace(wall_ns=100, cpu_ns=50)
    log.add(0, 11, slow, quick)
    log.add(0, 11, quick)
    log.add(0, 12, slow)  # the worker of the next epoch

    first, second = (worker.totals for worker in log.result().workers)

    assert (first.batches, first.firsts, first.first_wall_ns, first.first_cpu_ns) == (3, 1, 100, 50)
    assert (second.batches, second.firsts, second.first_wall_ns) == (1, 1, 100)


def test_batches_that_were_asked_about_stand_for_the_others() -> None:
    log = LoaderLog(0, description(), origin_ns=0)
    plain = BatchRecord._make([0] * len(BatchRecord._fields))._replace(wall_ns=10, cpu_ns=8)
    asked = plain._replace(minor_faults=6, run_delay_ns=1)
    not_asked = plain._replace(minor_faults=-1, run_delay_ns=-1)
    log.add(0, 7, asked, not_asked, not_asked)
    totals = log.worker(0, 7).totals
    assert (totals.minor_faults, totals.run_delay_ns) == (18, 3)
    assert (totals.wall_ns, totals.cpu_ns) == (30, 24), "of every batch"
