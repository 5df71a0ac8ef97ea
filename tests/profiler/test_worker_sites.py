from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from threading import get_ident, get_native_id
from typing import Any

import pytest
from loops import (
    SleepyPoints,
    epochs,
    only_loader,
    record,
    totals,
)
from pipelines import (
    Compose,
    Images,
    Quick,
    Slow,
    ThreadNames,
)
from torch.utils.data import DataLoader

from stepscope.profiler import profile
from stepscope.profiler.format import Loader
from stepscope.profiler.stacks import StackSampler

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def seen(loader: Loader, **fields: Any) -> float:
    """Part of the samples of a loader whose sites have these fields."""
    fit = [s for s in loader.sites if all(getattr(s, k) == v for k, v in fields.items())]
    return sum(s.samples for s in fit) / max(1, sum(s.samples for s in loader.sites))


WORKERS: dict[str, dict[str, Any]] = {
    "fork": {"num_workers": 2, "multiprocessing_context": "fork"},
    "spawn": {"num_workers": 1, "multiprocessing_context": "spawn"},
    "forkserver": {"num_workers": 1, "multiprocessing_context": "forkserver"},
    "persistent": {"num_workers": 1, "persistent_workers": True},
}


@pytest.mark.parametrize("name", WORKERS)
def test_the_slow_transform_of_the_workers_is_named(tmp_path: Path, name: str) -> None:
    options = WORKERS[name]
    context = options.get("multiprocessing_context")
    if context and context not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {context} here")
    dataset = Images(Compose([Quick(), Slow(), Quick()]))
    loader = DataLoader(dataset, batch_size=4, **options)
    count = 3 if name == "persistent" else 1  # starting a new interpreter takes seconds
    found = only_loader(record(tmp_path / "profile.json", epochs(loader, count)))

    assert found.sites[0].phase == "fetch"
    assert Path(found.sites[0].file).name == "loops.py"
    assert seen(found, transform="Slow", function="spin") > 0.6
    assert sum(worker.samples for worker in found.workers) == sum(s.samples for s in found.sites)
    assert totals(found, "batches") == 2 * count
    loader._iterator = None  # ends the persistent workers


def test_what_sleeping_workers_wait_for_is_told(tmp_path: Path) -> None:
    loader = DataLoader(SleepyPoints(16, 0.05), batch_size=4, num_workers=1)
    found = only_loader(record(tmp_path / "profile.json", epochs(loader)))
    if not Path("/proc/self/task").is_dir():
        pytest.skip("needs /proc")
    assert seen(found, state="sleep", function=found.sites[0].function) > 0.6


def test_a_fetch_in_the_training_process_is_seen_by_the_sampler_of_its_thread(
    tmp_path: Path,
) -> None:
    loader = DataLoader(Images(Compose([Quick(), Slow()])), batch_size=4)

    def body(prof: profile) -> None:
        sampler = StackSampler(lambda: None, get_ident(), get_native_id(), hz=100)
        sampler.start()
        for _ in prof.steps(loader):
            pass
        sampler.stop()

    found = only_loader(record(tmp_path / "profile.json", body))
    assert seen(found, phase="fetch", transform="Slow") > 0.6
    assert found.workers[0].samples > 0


def test_a_worker_that_outlives_the_recording_is_left_alone(tmp_path: Path) -> None:
    loader = DataLoader(ThreadNames(Quick()), batch_size=4, num_workers=1, persistent_workers=True)
    record(tmp_path / "profile.json", epochs(loader))
    deadline = time.monotonic() + 60
    names = {"stepscope-stacks"}
    while "stepscope-stacks" in names and time.monotonic() < deadline:
        names = {name for batch in loader for sample in batch for name in sample.split()}
    assert "stepscope-stacks" not in names
    loader._iterator = None  # ends the workers
