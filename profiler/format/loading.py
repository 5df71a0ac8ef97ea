"""Loaders, their workers, and what each half of the loop does alone."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from stepscope.profiler.format.columns import Count, same_length
from stepscope.profiler.format.timeline import Site
from stepscope.profiler.format.trial import ModelTrial


class Batches(Struct, kw_only=True):
    """Individual batches as the fetcher made them; every `stride`-th one is kept."""

    stride: int = 1
    worker: list[int]
    start_ns: list[int]
    """Monotonic clock of the machine, relative to the start of the run."""
    wall_ns: list[int]
    cpu_ns: list[int]
    run_delay_ns: list[int]
    """0 where it was not asked: in some of those that took less than 2 ms."""

    def __post_init__(self) -> None:
        """Reject a table whose columns differ in length, naming the column."""
        columns: dict[str, list[int] | None] = {
            name: getattr(self, name) for name in ("start_ns", "wall_ns", "cpu_ns", "run_delay_ns")
        }
        same_length("worker", len(self.worker), columns)


class FetchTotals(Struct, kw_only=True, omit_defaults=True):
    """Sums over the batches that one fetcher (worker, or main process) made.

    `wall = cpu + run_delay + blocked`, where blocked is the rest: storage, network, a lock, a
    child process or the process's own helper threads. What only the kernel tells is asked of every
    batch that takes milliseconds, and of one in a few shorter ones, which stands for the others.
    """

    batches: Count = 0
    items: Count = 0
    wall_ns: int = 0
    cpu_ns: int = 0
    system_cpu_ns: int = 0
    run_delay_ns: int | None = None
    helper_cpu_ns: int = 0
    """Processor time of the worker's other threads and its finished children meanwhile."""
    collate_ns: int = 0
    collate_cpu_ns: int = 0
    collate_system_cpu_ns: int = 0
    collate_run_delay_ns: int | None = None
    read_bytes: int | None = None
    """Bytes passed to read calls (page cache included)."""
    storage_bytes: int | None = None
    """Bytes that came from the storage device."""
    read_calls: int | None = None
    major_faults: int = 0
    minor_faults: int = 0
    faults_examined: int = 0
    """How many of them it is known of what they brought; 0 where they are too few to matter."""
    copied_pages: int = 0
    """Of those: a page that the worker had shared with its parent, until it wrote to it (looked at
    it, if it holds a Python object)."""
    grown_pages: int = 0
    """Of those: a page more than before."""
    opens: int = 0
    """Calls from Python that open, stat or list files."""
    open_ns: int = 0
    """Wall time inside them."""
    open_cpu_ns: int = 0
    packing_ns: int = 0
    """Wall time in which a thread of the worker's queue pickled batches; in no fetch."""
    packing_cpu_ns: int = 0
    firsts: Count = 0
    """How many of the batches were the first of a process; the next two are about those alone."""
    first_wall_ns: int = 0
    first_cpu_ns: int = 0


class Worker(Struct, kw_only=True):
    """One process (or the main process, id -1) that fetched batches for a loader."""

    id: int
    pid: int
    lost: int = 0
    """Batch records overwritten before they were read; their time is missing in `totals`."""
    samples: Count = 0
    """How often the stack sampler looked while this worker fetched; its `sites` say what it saw."""
    totals: FetchTotals


class Loader(Struct, kw_only=True, omit_defaults=True):
    """One DataLoader that was iterated during the run."""

    class_name: str
    dataset: str
    dataset_kind: Literal["map", "iterable"]
    length: int | None = None
    """Batches per epoch, where the loader knows it."""
    batch_size: int | None = None
    num_workers: int
    prefetch_factor: int | None = None
    persistent_workers: bool = False
    pin_memory: bool = False
    in_order: bool | None = None
    start_method: str | None = None
    sampler: str | None = None
    collate_fn: str | None = None
    transforms: list[str] = []
    """Class names found at `dataset.transform(s)`, outermost first."""
    epochs: int = 0
    """How often it was iterated."""
    training: bool = True
    """False for a loader that was iterated inside a validation phase."""
    workers: list[Worker] = []
    batches: Batches | None = None
    sites: list[Site] = []
    """Where the fetchers of all workers were seen, the most frequent first."""


class Solo(Struct, kw_only=True):
    """Fetches one at a time, beside fetches of all workers at once; means per batch."""

    batches: Count
    """Fetches timed on each side."""
    wall_ns: int
    cpu_ns: int
    run_delay_ns: int
    together_wall_ns: int
    together_cpu_ns: int
    together_run_delay_ns: int


class Ceilings(Struct, kw_only=True, omit_defaults=True):
    """What the user asked to be tried after the profiled steps: each half of the loop alone."""

    model_step_ns: list[int] = []
    """Wall time of steps that were given a batch which was there already."""
    loader_batch_ns: list[int] = []
    """Time between batches when nothing but the loader ran."""
    solo: Solo | None = None
    model: ModelTrial | None = None
    """The model with other sizes of batch and other numbers of threads."""
