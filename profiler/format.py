"""The profile: what was observed during a training run, nothing inferred.

These types are the file format. `docs/profile.schema.json` is generated from them, and
:mod:`stepscope.profiler.storage` reads and writes them. A quantity that was not measured is
``None`` (never zero), durations are integer nanoseconds, sizes are bytes.
"""

from __future__ import annotations

from math import inf
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct, field

SCHEMA: Final = "stepscope.profile/1"

Count = Annotated[int, Meta(ge=0)]
Processors = Annotated[int, Meta(ge=1, le=65_536)]
Rate = Annotated[float, Meta(gt=0)]


class Run(Struct, kw_only=True, omit_defaults=True):
    """How the run went."""

    started_at: str
    """UTC, ISO 8601."""
    wall_ns: int
    """From entering the context to the writing of this file."""
    ended: Literal["completed", "exception", "running"]
    """`running`: the file was written while the loop went on, or the run was killed."""
    exception: str | None = None
    """Class name of the exception that left the context."""
    argv: list[str] = []
    rank: int = 0
    world_size: int = 1
    steps_by: Literal["steps", "step", "optimizer", "backward", "batch", "whole"] = "steps"
    """What ended a training step: the user's `steps()` or `step()` (in a trace: `ProfilerStep`),
    or, where neither was called, the end of an optimizer step, the end of a backward pass, or the
    fetch of the next batch. `whole`: a trace without any of them counts as one step."""


class Gpu(Struct, kw_only=True, omit_defaults=True):
    """One device as NVML names it."""

    index: int
    name: str
    memory_bytes: int | None = None
    driver: str | None = None
    power_limit_w: float | None = None


class Calibration(Struct, kw_only=True, omit_defaults=True):
    """What this machine does at its best, timed for a few milliseconds after the loop."""

    eager_op_ns: Rate
    """One operator on a one-element tensor, called from Python: dispatch and nothing else."""
    copy_bytes_per_s: Rate
    """Streaming copy through memory, bytes read plus bytes written."""
    gemm_fp32_flops: Rate
    gemm_bf16_flops: Rate | None = None
    threads: int
    """Intra-op threads in use while timing."""
    fresh_bytes_per_s: Rate | None = None
    """Touching memory that the process did not have before: what every page fault costs."""


class Environment(Struct, kw_only=True, omit_defaults=True):
    """The machine and the software, as far as they decide speed."""

    python: str
    torch: str
    platform: str
    cpu_model: str | None = None
    cpu_count: Processors | None = None
    """Logical processors of the machine."""
    cpu_affinity: Processors | None = None
    """Processors that this process may run on."""
    cpu_quota: Rate | None = None
    """Processors' worth of time that the cgroup grants; None when unlimited."""
    memory_bytes: int | None = None
    memory_limit_bytes: int | None = None
    gpus: list[Gpu] = []
    cuda: str | None = None
    variables: dict[str, str] = {}
    """Environment variables that change speed, from a fixed list; never the whole environment."""
    calibration: Calibration | None = None

    @property
    def usable_cores(self) -> float:
        """Processors this process may use, by affinity and cgroup quota; infinite if not known."""
        return min(float(self.cpu_affinity or inf), self.cpu_quota or inf)


class Model(Struct, kw_only=True, omit_defaults=True):
    """One outermost module that was called during the run."""

    class_name: str
    parameters: int
    parameter_bytes: int
    trainable_parameters: int
    dtypes: list[str] = []
    devices: list[str] = []
    modules: dict[str, int] = {}
    """How many submodules of each class."""
    channels_last: bool | None = None
    """None when the model has no 4-dimensional weight."""
    compiled: bool = False
    distributed: str | None = None
    """`DistributedDataParallel`, `FullyShardedDataParallel`, `DataParallel` or None."""


class Optimizer(Struct, kw_only=True, omit_defaults=True):
    """One optimizer that took a step."""

    class_name: str
    parameters: int
    tensors: int
    state_tensors_per_parameter: int | None = None
    fused: bool | None = None
    foreach: bool | None = None


class Configuration(Struct, kw_only=True, omit_defaults=True):
    """What the program has switched on."""

    models: list[Model] = []
    optimizers: list[Optimizer] = []
    autocast: str | None = None
    """The autocast dtype seen around forward, e.g. `torch.bfloat16`."""
    intra_op_threads: int | None = None
    inter_op_threads: int | None = None
    matmul_precision: str | None = None
    tf32_matmul: bool | None = None
    cudnn_benchmark: bool | None = None
    deterministic: bool | None = None
    anomaly_mode: bool | None = None
    gc_enabled: bool = True
    batch_size: int | None = None
    """First dimension of the first tensor of a batch."""
    batch_bytes: int | None = None


class Histogram(Struct, kw_only=True):
    """Counts in logarithmic bins: bin `b` holds values in [growth**b, growth**(b+1))."""

    growth: Annotated[float, Meta(gt=1, le=1.1)]
    bins: list[Annotated[int, Meta(ge=-5_000, le=5_000)]]
    counts: list[Count]


STEP_COLUMNS: Final = (
    "count",
    "wall_ns",
    "wall_max_ns",
    "cpu_ns",
    "process_cpu_ns",
    "run_delay_ns",
    "wait_cpu_ns",
    "wait_run_delay_ns",
)
"""Columns that every table of steps has after `first`."""


class Steps(Struct, kw_only=True):
    """A timeline of training steps in columns; one row is `count[i]` consecutive steps.

    Long runs are decimated by adding neighbouring rows, so that sums over rows stay exact and
    `wall_max_ns` keeps the spikes. Columns have equal length.
    """

    first: list[int]
    """Index of the row's first step, counted from the start of the run."""
    count: list[int]
    wall_ns: list[int]
    wall_max_ns: list[int]
    cpu_ns: list[int] | None = None
    """Processor time of the training thread."""
    process_cpu_ns: list[int] | None = None
    """Processor time of all threads of the training process."""
    run_delay_ns: list[int] | None = None
    """Time the training thread was runnable but waited for a core."""
    wait_cpu_ns: list[int] | None = None
    """Processor time of the training thread while it fetched the next batch."""
    wait_run_delay_ns: list[int] | None = None
    phases: dict[str, list[int]]
    """Wall time by phase, exclusive of nested phases; sums to `wall_ns`. Of the training thread; in
    a profile made from a trace with a device, of that, and where it was idle, of the host."""
    calls: dict[str, list[int]] = {}
    """How often a phase was entered, where that was counted."""

    def __post_init__(self) -> None:
        """Reject a table whose columns differ in length, naming the column."""
        rows = len(self.first)
        columns: dict[str, list[int] | None] = {name: getattr(self, name) for name in STEP_COLUMNS}
        columns |= {f"phases.{name}": column for name, column in self.phases.items()}
        columns |= {f"calls.{name}": column for name, column in self.calls.items()}
        _same_length("first", rows, columns)

    @property
    def total(self) -> int:
        """Number of steps in all rows."""
        return sum(self.count)


class Batches(Struct, kw_only=True):
    """Individual batches as the fetcher made them; every `stride`-th one is kept."""

    stride: int = 1
    worker: list[int]
    start_ns: list[int]
    """Monotonic clock of the machine, relative to the start of the run."""
    wall_ns: list[int]
    cpu_ns: list[int]
    run_delay_ns: list[int]

    def __post_init__(self) -> None:
        """Reject a table whose columns differ in length, naming the column."""
        columns: dict[str, list[int] | None] = {
            name: getattr(self, name) for name in ("start_ns", "wall_ns", "cpu_ns", "run_delay_ns")
        }
        _same_length("worker", len(self.worker), columns)


class Site(Struct, kw_only=True, omit_defaults=True):
    """A place in the program's own source, and what was seen there.

    `samples` come from a stack sampler that looks a few times a second; `calls` and `time_ns` are
    exact, where a probe has watched every call (`.item()`, logging, checkpoints).
    """

    phase: str
    """Phase of the training thread, or `thread` for another Python thread of its process; for a
    fetcher `fetch`, `collate` or `idle`."""
    file: str
    line: Count
    function: str
    transform: str | None = None
    """The transform, or the function called by the dataset, that this is part of."""
    state: str = "running"
    """What the thread was doing: `running`, `opening` (running inside a call that opens, stats or
    lists files), `held` (let go of the interpreter's lock there, for which the look had waited),
    `file`, `open`, `socket`, `lock`, `sleep`, `child`,
    `fault`, `pipe` or `blocked` (asleep, on what is not known)."""
    writes: bool = False
    """Whether the statement calls something that writes a file; told of the phase `python`."""
    reads: bool = False
    """The same of reading one."""
    samples: Count = 0
    calls: Count = 0
    time_ns: int = 0


class FetchTotals(Struct, kw_only=True, omit_defaults=True):
    """Exact sums over the batches that one fetcher (worker, or main process) made.

    `wall = cpu + run_delay + blocked`, where blocked is the rest: storage, network, a lock, a
    child process or the process's own helper threads.
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


class Samples(Struct, kw_only=True):
    """Resources over time, one column per signal; a value is None where it was not readable."""

    stride: int = 1
    time_ns: list[int]
    """Since the start of the run."""
    columns: dict[str, list[float | None]]

    def __post_init__(self) -> None:
        """Reject a table whose columns differ in length, naming the column."""
        _same_length(
            "time_ns", len(self.time_ns), {f"columns.{k}": v for k, v in self.columns.items()}
        )


class Operator(Struct, kw_only=True, omit_defaults=True):
    """One operator of the torch.profiler window, summed over its steps."""

    name: str
    calls: int
    self_cpu_ns: int
    self_device_ns: int = 0
    phase: str = "forward"
    """Phase of the training thread in which it ran."""


class WindowPhase(Struct, kw_only=True):
    """One phase of the training thread, summed over the window's steps."""

    wall_ns: int
    operator_ns: int
    """Part of it inside operators, nested ones not doubled."""
    gap_ns: int = 0
    """Part of it between operators that follow each other at once: Python driving them."""
    calls: int = 0
    """Operators called from Python or autograd, nested ones not counted."""


class Window(Struct, kw_only=True):
    """The short torch.profiler window; its steps are kept out of the timeline's statistics."""

    first_step: int
    steps: Annotated[int, Meta(ge=1)]
    wall_ns: int
    """Wall time of the steps inside, slowed by the recording."""
    phases: dict[str, WindowPhase]
    operators: list[Operator]


class Mark(Struct, kw_only=True, omit_defaults=True):
    """A single event worth naming."""

    kind: str
    step: int
    time_ns: int
    duration_ns: int = 0
    detail: str | None = None


class Metric(Struct, kw_only=True):
    """Values the user logged under one name."""

    stride: int = 1
    step: list[int]
    time_ns: list[int]
    value: list[float | None]
    """None where it was not a finite number: JSON knows no NaN."""


class Collective(Struct, kw_only=True, omit_defaults=True):
    """What DistributedDataParallel's own logger says of one wrapped model, averages per step."""

    backend: str | None = None
    gradient_bytes: int
    buckets: int
    communication_ns: int
    overlap_ns: int
    backward_ns: int
    find_unused_parameters: bool | None = None
    """Whether the graph is searched for parameters without a gradient in each step."""
    unused_parameter_bytes: int | None = None
    """Of parameters that had none when it was looked last."""


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


class KernelCategory(Struct, kw_only=True, omit_defaults=True):
    """Kernels of one kind (`gemm`, `attention`, `collective`, ...), summed over all steps."""

    name: str
    calls: Count
    time_ns: int
    tensor_core_ns: int = 0
    """Part of it in kernels whose names say that they use tensor cores."""


class Kernel(Struct, kw_only=True, omit_defaults=True):
    """One kernel, summed over all steps."""

    name: str
    category: str
    calls: Count
    time_ns: int
    tensor_cores: bool = False


class Copies(Struct, kw_only=True, omit_defaults=True):
    """Copies of one direction between one kind of memory and a device, summed over all steps."""

    direction: str
    """`HtoD`, `DtoH`, `DtoD`, `PtoP`, or `unknown`."""
    memory: str
    """Of the host: `pageable`, `pinned`, or `unknown`; `device` between devices."""
    calls: Count
    bytes: int | None = None
    time_ns: int


class RuntimeCalls(Struct, kw_only=True):
    """Calls of one function of the device's runtime, or of one annotation, over all steps."""

    name: str
    calls: Count
    time_ns: int


class Trace(Struct, kw_only=True, omit_defaults=True):
    """What only a Kineto trace knows of; sums over its steps."""

    device: int | None = None
    """Number of the device that is judged by; None where the trace has none."""
    devices: Count = 0
    """Devices at work in this trace."""
    capability: int | None = None
    """Major compute capability of the device."""
    busy_ns: int | None = None
    """Time in which the device did anything, overlapping work counted once."""
    communication_ns: int | None = None
    """Time in which it ran collectives, hidden or not; what nothing hides is the phase
    `collective`."""
    categories: list[KernelCategory] = []
    kernels: list[Kernel] = []
    """The longest first."""
    copies: list[Copies] = []
    runtime: list[RuntimeCalls] = []
    annotations: list[RuntimeCalls] = []
    launch_delay: Histogram | None = None
    """Nanoseconds from a launch on the host to the begin of its kernel."""
    queue_length: float | None = None
    """Launched work that had not begun, mean over time."""
    peak_allocated_bytes: int | None = None
    """Largest value of the allocator on the device, where memory was profiled."""
    peak_reserved_bytes: int | None = None
    lost_events: Count = 0
    """Events of the file that could not be read."""


class Straggler(Struct, kw_only=True):
    """A rank that others wait for."""

    rank: int
    collectives: Count
    """In so many it came last."""
    waited_for_ns: int
    """How long the others waited for it there, mean of the ranks, sum over all steps."""


class Ranks(Struct, kw_only=True, omit_defaults=True):
    """What only the traces of several ranks tell together."""

    count: Count
    missing: Count = 0
    """Ranks of the job without a trace."""
    transfer_ns: int = 0
    """Time in collectives once all ranks are there: for each, its shortest over the ranks. Like
    the next, the mean of the ranks, summed over all steps."""
    waiting_ns: int = 0
    """Time in collectives before that."""
    imbalance: float | None = None
    """Time that the slowest rank's device worked by itself, over the mean of the ranks."""
    slowest: int | None = None
    """That rank."""
    stragglers: list[Straggler] = []
    """Who waited least where others waited, the costliest first."""


class Overhead(Struct, kw_only=True, omit_defaults=True):
    """What the profiler itself cost, as far as it can tell from inside."""

    setup_ns: int = 0
    window_ns: int = 0
    """Starting and stopping torch.profiler; not part of any step."""
    background_cpu_ns: int = 0
    """Processor time of the sampling thread."""


class Profile(Struct, kw_only=True):
    """The whole document; `schema` comes first so that a reader can tell it at a glance."""

    schema: Literal["stepscope.profile/1"]
    tool_version: str
    run: Run
    environment: Environment
    configuration: Configuration
    warmup: Steps
    """The first steps: start-up, first batches, autotuning, compilation."""
    steady: Steps
    """Everything after warm-up except the torch.profiler window."""
    step_time: Histogram
    """Wall time in ns of the steady steps."""
    loaders: list[Loader] = []
    samples: Samples
    window: Window | None = None
    trace: Trace | None = None
    """Where the profile was made from a Kineto trace."""
    ranks: Ranks | None = None
    """Where it was made from traces of several ranks: then times are means of the ranks."""
    collectives: list[Collective] = []
    ceilings: Ceilings | None = None
    sites: list[Site] = []
    """Where the training thread was seen, by phase, the most frequent first."""
    stack_samples: Count = 0
    """How often the stack sampler looked at the training thread during steady steps."""
    marks: list[Mark] = []
    metrics: dict[str, Metric] = {}
    overhead: Overhead = field(default_factory=Overhead)
    problems: list[str] = []
    """What could not be measured and why, one sentence each."""


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of `profile.json`, generated from the types above."""
    import msgspec  # noqa: PLC0415  # only the documentation and its test need it

    schema = msgspec.json.schema(Profile)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": SCHEMA, **schema}


def _same_length(key: str, rows: int, columns: dict[str, list[Any] | None]) -> None:
    for name, column in columns.items():
        if column is not None and len(column) != rows:
            raise ValueError(f"`{name}` has {len(column)} rows where `{key}` has {rows}")
