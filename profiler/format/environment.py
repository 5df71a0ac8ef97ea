"""Where and how a run took place, and what the program had switched on."""

from __future__ import annotations

from math import inf
from typing import Annotated, Literal

from msgspec import Meta, Struct

from stepscope.profiler.format.columns import Count, Rate

Processors = Annotated[int, Meta(ge=1, le=65_536)]


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
    job: str | None = None
    """The same for all ranks of one recording, and for no other; None where they could not agree
    on one."""
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
    max_sm_clock_mhz: int | None = None
    max_memory_clock_mhz: int | None = None
    max_pcie_generation: int | None = None
    """The most that the device and its slot can do together."""
    max_pcie_width: int | None = None
    """Lanes, likewise."""
    nvlinks: int | None = None
    """Links to other devices that are up."""
    divided: bool = False
    """Whether it is divided into instances (MIG), of which NVML does not tell the use."""
    cuda_index: int | None = None
    """Number by which the program knows it; None where the program cannot see it."""


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
    host: str | None = None
    """Name of the machine, which tells the ranks of a job apart by host."""
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
    parameter_bytes: int | None = None
    gradient_bytes: int | None = None
    """After the first step."""
    state_bytes: int | None = None
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
    graph_breaks: Count | None = None
    """Places at which torch.compile had to stop and go back to Python; None where nothing was
    compiled, or a `torch._dynamo.reset` came after it."""
    gc_enabled: bool = True
    batch_size: int | None = None
    """First dimension of the first tensor of a batch."""
    batch_bytes: int | None = None
