"""What making a batch is made of: a fetch, divided into causes."""

from __future__ import annotations

from typing import NamedTuple

from stepscope.advisor.stages import HANDOVER, STARTUP
from stepscope.profiler.format import Calibration, FetchTotals, Loader, Profile

TRANSFORM, COLLATE = "cpu_preprocessing.transform", "cpu_preprocessing.collate"
STORAGE, NETWORK = "data_loading.storage", "data_loading.network"
SMALL_FILES = "data_loading.small_files"
HOST_MEMORY, GROWTH = "memory.host", "memory.growth"

HANDOVER_SYSTEM_SHARE = 0.4
"""A collate function that spends more than this part of its processor time in the kernel is
filling fresh shared-memory pages: that is the hand-over, not the collating."""
READS_FROM_FILES = 4096
"""Bytes per batch above which a blocked fetch is called a read from files, if nobody looked."""
SLEEPS = {
    "file": STORAGE,
    "fault": STORAGE,
    "open": SMALL_FILES,
    "socket": NETWORK,
    "sleep": NETWORK,
}
"""What a sleeping thread waits for, by the state it was seen in. A lock, a pipe, a child process
or an unknown sleep is work if processor time was used meanwhile on the fetcher's behalf."""
PAGE_BYTES = 4096
_MOSTLY = 0.5
"""Part of the page faults that must be copies of the parent's pages to say that they are it: where
other processes let go of a page it looks the same. Growth: what is given back comes anew."""
_MIN_LOOKS = 5
_OPENS = 0.25
"""A line that was seen opening files in this part of the looks at it is about that."""
_HELPED = 0.2
"""Processor time of helpers, over the time blocked, above which the fetcher waits for them."""


class Fetch(NamedTuple):
    """The batches of a step, as one fetcher makes them: mean seconds by cause."""

    cpu: dict[str, float]
    """Processor time of the fetching thread."""
    blocked: dict[str, float]
    """Time in which it waited for anything but a core."""
    run_delay: float
    """Time in which it waited for a core."""
    helpers: float
    """Processor time of the fetcher's other threads and children."""
    packing: float = 0.0
    """Time in which another thread packs the finished batches for the training process."""

    def times(self, k: float) -> Fetch:
        """`k` of these."""
        return Fetch(
            {cause: k * s for cause, s in self.cpu.items()},
            {cause: k * s for cause, s in self.blocked.items()},
            k * self.run_delay,
            k * self.helpers,
            k * self.packing,
        )

    @property
    def elapsed(self) -> float:
        """From the beginning of the fetches to their end, run delay included."""
        return sum(self.wall.values()) + self.run_delay

    @property
    def wall(self) -> dict[str, float]:
        """Seconds by cause, run delay left out."""
        return {c: self.cpu.get(c, 0.0) + self.blocked.get(c, 0.0) for c in _all(self)}


def _all(fetch: Fetch) -> list[str]:
    return list(dict.fromkeys([*fetch.cpu, *fetch.blocked]))


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


def fetch_composition(
    loader: Loader, calibration: Calibration | None = None, children: float = 0.0
) -> Fetch | None:
    """Mean seconds per batch by cause; None before the first batch is done.

    Args:
        loader: with what its fetchers have reported.
        calibration: what this machine does at its best.
        children: processor seconds per batch of processes that the fetchers keep running.
    """
    t = fetch_totals(loader)
    if not t.batches:
        return None
    # In the training process the other threads are PyTorch's own; only a worker's are helpers.
    helpers = max(0, t.helper_cpu_ns - t.packing_cpu_ns) if loader.num_workers else 0
    helping = helpers + children * t.batches * 1e9
    cpu, blocked = _sample_times(t, loader, calibration, helping)
    _set_apart(cpu, blocked, _preparing(t, loader))
    _add_collate(cpu, blocked, t)
    fetch = Fetch(
        cpu, blocked, float(t.run_delay_ns or 0), helping + t.packing_cpu_ns, float(t.packing_ns)
    )
    return fetch.times(1e-9 / t.batches)


def _sample_times(
    t: FetchTotals, loader: Loader, calibration: Calibration | None, helping: float
) -> tuple[dict[str, float], dict[str, float]]:
    """Processor and blocked nanoseconds of making the samples, before they are collated."""
    delay, collate_delay = t.run_delay_ns or 0, t.collate_run_delay_ns or 0
    all_blocked = max(0, t.wall_ns - t.cpu_ns - delay)
    collate_blocked = max(0, t.collate_ns - t.collate_cpu_ns - collate_delay)
    blocked = max(0.0, float(all_blocked - collate_blocked))
    cpu = max(0.0, float(t.cpu_ns - t.collate_cpu_ns))
    opening_cpu = min(float(t.open_cpu_ns), cpu)
    if opening_cpu >= cpu / 2:  # who mostly opens files spends the rest on reading and closing them
        opening_cpu = cpu
    elif opening_cpu > 0:
        opening_cpu = max(opening_cpu, cpu * _handling_files(loader))
    opening = min(max(0.0, float(t.open_ns - t.open_cpu_ns)), blocked)
    reading_cpu = min(_input_cpu(t, calibration), cpu - opening_cpu)
    parts = _waits(loader, t, TRANSFORM if helping > _HELPED * blocked else _unexplained_wait(t))
    waits = {cause: (blocked - opening) * part for cause, part in parts.items()}
    waits[SMALL_FILES] = waits.get(SMALL_FILES, 0.0) + opening
    left = cpu - opening_cpu - reading_cpu
    spent = {SMALL_FILES: opening_cpu}
    for cause, part in new_pages(t).items():  # it is for them that the kernel works
        spent[cause] = min(part * _kernel_ns(t), left)
        left -= spent[cause]
    spent[TRANSFORM] = left
    if t.major_faults or (t.read_bytes or 0) > READS_FROM_FILES * t.batches:
        spent[STORAGE] = reading_cpu
    elif waits.get(NETWORK, 0.0) > cpu:  # receiving is not counted as reading
        spent[NETWORK] = reading_cpu
    else:
        spent[TRANSFORM] += reading_cpu
    return spent, waits


def _preparing(t: FetchTotals, loader: Loader) -> tuple[float, float]:
    """Processor and blocked nanoseconds by which first batches of new workers cost more.

    What a data set does once in each process (reading its index, opening its files, copying what
    it shares) is done again by the workers of every epoch, unless they are kept.
    """
    others = t.batches - t.firsts
    if others <= 0 or t.firsts <= loader.num_workers:  # started once: nothing is done again
        return 0.0, 0.0
    cpu = t.first_cpu_ns - t.firsts * (t.cpu_ns - t.first_cpu_ns) / others
    wall = t.first_wall_ns - t.firsts * (t.wall_ns - t.first_wall_ns) / others
    asleep = max(0, t.wall_ns - t.cpu_ns)
    waiting = 1 - min(1.0, (t.run_delay_ns or 0) / asleep) if asleep else 0.0
    return max(0.0, cpu), waiting * max(0.0, wall - max(0.0, cpu))


def _set_apart(
    cpu: dict[str, float], blocked: dict[str, float], preparing: tuple[float, float]
) -> None:
    """Give what first batches cost more to the starting of workers."""
    for stage, more in zip((cpu, blocked), preparing, strict=True):
        total = sum(stage.values())
        part = min(1.0, more / total) if total > 0 else 0.0
        if part > 0:
            for cause in stage:
                stage[cause] *= 1 - part
            stage[STARTUP] = part * total


def _handling_files(loader: Loader) -> float:
    """Part of the looks at working fetchers that found them in lines which open files.

    There, what is around the opening (paths, buffers, reading and closing) is its price too.
    """
    looks: dict[tuple[str, int], dict[str, int]] = {}
    for site in loader.sites:
        if site.phase == "fetch" and site.state in ("running", "opening", "lock"):
            place = looks.setdefault((site.file, site.line), {})
            place[site.state] = place.get(site.state, 0) + site.samples
    total = sum(sum(place.values()) for place in looks.values())
    handling = (
        sum(place.values())
        for place in looks.values()
        if place.get("opening", 0) >= _OPENS * sum(place.values())
    )
    return sum(handling) / total if total >= _MIN_LOOKS else 0.0


def _add_collate(cpu: dict[str, float], blocked: dict[str, float], t: FetchTotals) -> None:
    kernel_work = t.collate_system_cpu_ns > HANDOVER_SYSTEM_SHARE * max(1, t.collate_cpu_ns)
    cause = HANDOVER if kernel_work else COLLATE
    cpu[cause] = float(t.collate_cpu_ns)
    waited = t.collate_ns - t.collate_cpu_ns - (t.collate_run_delay_ns or 0)
    blocked[cause] = blocked.get(cause, 0.0) + max(0.0, float(waited))


def new_pages(t: FetchTotals) -> dict[str, float]:
    """Parts of the page faults by cause: copies of the parent's pages, growth; only if most are."""
    pages = {HOST_MEMORY: t.copied_pages, GROWTH: t.grown_pages}
    return {c: n / t.faults_examined for c, n in pages.items() if n > _MOSTLY * t.faults_examined}


def _kernel_ns(t: FetchTotals) -> int:
    """Kernel time of getting samples; that of collating is coarse, but no more than it used."""
    collating = min(t.collate_system_cpu_ns, t.collate_cpu_ns)
    return max(0, t.system_cpu_ns - collating - t.open_cpu_ns)


def _input_cpu(t: FetchTotals, calibration: Calibration | None) -> float:
    """Kernel time of getting samples: all but that of fresh memory, at this machine's price."""
    if calibration is None or not calibration.fresh_bytes_per_s:
        return 0.0
    fresh = 1e9 * PAGE_BYTES * t.minor_faults / calibration.fresh_bytes_per_s
    return max(0.0, _kernel_ns(t) - fresh)


def _waits(loader: Loader, t: FetchTotals, unclear: str) -> dict[str, float]:
    """Parts of the blocked time by cause, from the states the sampler saw; they sum to 1."""
    if t.major_faults and t.storage_bytes and not t.read_bytes:
        return {STORAGE: 1.0}  # a fault under Python's lock hides the thread from the sampler
    # A thread that works in Python is often seen at the interpreter's lock: the look has taken it.
    ignored = {"running", "opening"} if unclear == TRANSFORM else {"running", "opening", "lock"}
    seen: dict[str, float] = {}
    for site in loader.sites:
        if site.phase == "fetch" and site.state not in ignored:
            cause = SLEEPS.get(site.state, unclear)
            seen[cause] = seen.get(cause, 0.0) + site.samples
    looks = sum(seen.values())
    if looks < _MIN_LOOKS:
        return {unclear: 1.0}
    return {cause: count / looks for cause, count in seen.items()}


def _unexplained_wait(t: FetchTotals) -> str:
    if t.major_faults or (t.read_bytes or 0) > READS_FROM_FILES * t.batches:
        return STORAGE
    return NETWORK
