"""What making a batch is made of: a fetch, divided into causes."""

from __future__ import annotations

from typing import NamedTuple

from stepscope.profiler.format import FetchTotals, Loader, Profile

HANDOVER_SYSTEM_SHARE = 0.4
"""A collate function that spends more than this part of its processor time in the kernel is
filling fresh shared-memory pages: that is the hand-over, not the collating."""
READS_FROM_FILES = 4096
"""Bytes per batch above which a blocked fetch is called a read from files."""


class Fetch(NamedTuple):
    """One batch, as one fetcher makes it: seconds by cause, run delay apart."""

    wall: dict[str, float]
    cpu: dict[str, float]
    run_delay: float


def training_loader(profile: Profile) -> Loader | None:
    """The loader that feeds the training steps: the one that made most batches for them."""
    candidates = [each for each in profile.loaders if each.training and each.workers]
    return max(candidates, key=lambda each: fetch_totals(each).batches, default=None)


def fetch_totals(loader: Loader) -> FetchTotals:
    """The sums of all fetchers of a loader."""
    totals = FetchTotals()
    for name in FetchTotals.__struct_fields__:
        values = [getattr(worker.totals, name) for worker in loader.workers]
        known = [value for value in values if value is not None]
        setattr(totals, name, sum(known) if known else None)
    return totals


def fetch_composition(loader: Loader) -> Fetch | None:
    """Mean seconds per batch by cause; None before the first batch is done."""
    t = fetch_totals(loader)
    if not t.batches:
        return None
    per = 1e-9 / t.batches
    delay, collate_delay = t.run_delay_ns or 0, t.collate_run_delay_ns or 0
    blocked = max(0, t.wall_ns - t.cpu_ns - delay)
    collate_blocked = max(0, t.collate_ns - t.collate_cpu_ns - collate_delay)
    item_blocked = max(0, blocked - collate_blocked)
    item_cpu = max(0, t.cpu_ns - t.collate_cpu_ns)
    kernel_work = t.collate_system_cpu_ns > HANDOVER_SYSTEM_SHARE * max(1, t.collate_cpu_ns)
    collate = "cpu_preprocessing.handover" if kernel_work else "cpu_preprocessing.collate"
    blocked_on = _blocked_on(loader, t, item_blocked)
    wall = {
        "cpu_preprocessing.transform": item_cpu * per,
        collate: (t.collate_cpu_ns + collate_blocked) * per,
    }
    cpu = {
        "cpu_preprocessing.transform": item_cpu * per,
        collate: t.collate_cpu_ns * per,
    }
    wall[blocked_on] = wall.get(blocked_on, 0.0) + item_blocked * per
    if loader.num_workers:
        cpu[blocked_on] = cpu.get(blocked_on, 0.0) + t.helper_cpu_ns * per
    return Fetch(wall, cpu, delay * per)


def _blocked_on(loader: Loader, t: FetchTotals, item_blocked: int) -> str:
    # In the training process the other threads are PyTorch's own; only a worker's are helpers.
    if loader.num_workers and t.helper_cpu_ns > 0.5 * item_blocked:
        return "cpu_preprocessing.transform"
    if t.major_faults or (t.read_bytes or 0) > READS_FROM_FILES * t.batches:
        return "data_loading.storage"
    return "data_loading.network"
