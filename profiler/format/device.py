"""Operators, kernels and copies: the window of torch.profiler, and what a trace knows."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from stepscope.profiler.format.columns import Count
from stepscope.profiler.format.path import CriticalPath
from stepscope.profiler.format.timeline import Histogram, Samples, Steps


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


class OperatorWork(Struct, kw_only=True, omit_defaults=True):
    """What one operator computed and moved, in calls not passed on to another of its kind."""

    name: str
    phase: str = "forward"
    dtype: str | None = None
    """Type of the values that it computed with, e.g. `float32`."""
    kind: Literal["product", "pass", "copy", "other"]
    """Matrix products, convolutions, attention, recurrent layers; passes over elements; moves;
    what does none of that (views, autograd's nodes), or is not known."""
    calls: Count
    time_ns: int | None = None
    """On the host, without other operators inside that have work of their own."""
    flops: int | None = None
    """Operations, a multiplication and an addition being two."""
    bytes: int | None = None
    """Inputs and outputs, each moved once: the least there is."""
    recomputed_flops: Count = 0
    """Part of them in layers that backward has computed again, for their activations were not
    kept."""
    misaligned_flops: Count = 0
    """Part of them in products with a dimension that is no multiple of what tensor cores take."""


class Counted(Struct, kw_only=True):
    """Steps in which the shapes of operators' arguments were recorded, and so their work is known.

    In a run it is one step of its own, soon after the window: recording shapes takes time, which
    the window's times are kept free of, and it too is in no other table.
    """

    first_step: int
    steps: Annotated[int, Meta(ge=1)]
    wall_ns: int
    operators: list[OperatorWork]


class Window(Struct, kw_only=True):
    """The short torch.profiler window; its steps are kept out of the timeline's statistics."""

    first_step: int
    steps: Annotated[int, Meta(ge=1)]
    wall_ns: int
    """Wall time of the steps inside, slowed by the recording."""
    phases: dict[str, WindowPhase]
    operators: list[Operator]
    counted: Counted | None = None

    @property
    def recorded(self) -> list[tuple[int, int]]:
        """First step, and first one after, of what was recorded and is in no other table."""
        window, counted = (self.first_step, self.first_step + self.steps), self.counted
        if counted is None or counted.first_step < window[1]:
            return [window]
        return [window, (counted.first_step, counted.first_step + counted.steps)]

    @property
    def recorded_steps(self) -> int:
        """How many steps that is."""
        return sum(end - first for first, end in self.recorded)


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
    occupancy: float | None = None
    """Active warps over what a multiprocessor can hold, from 0 to 1; like the next an estimate
    from the launch, mean over the kernel's time (CUDA only)."""
    blocks_per_sm: float | None = None
    """Blocks of a launch over the device's multiprocessors; below 1 some have nothing to do."""


class Copies(Struct, kw_only=True, omit_defaults=True):
    """Copies of one direction between one kind of memory and a device, summed over all steps."""

    direction: str
    """`HtoD`, `DtoH`, `DtoD`, `PtoP`, or `unknown`."""
    memory: str
    """Of the host: `pageable`, `pinned`, or `unknown`; `device` between devices."""
    calls: Count
    bytes: int | None = None
    time_ns: int
    """On the device in a trace; else in the program's calls, which return early where they may."""
    non_blocking: Count | None = None
    """Calls that asked not to be waited for; None in a trace."""


class RuntimeCalls(Struct, kw_only=True):
    """Calls of one function of the device's runtime, over all steps."""

    name: str
    calls: Count
    time_ns: int


class Annotation(Struct, kw_only=True, omit_defaults=True):
    """Ranges of one name (`record_function`), summed over all steps; not the steps themselves."""

    name: str
    calls: Count
    time_ns: int
    """On the host."""
    device_ns: int | None = None
    """Of kernels, copies and fills that were launched inside; at work together, each counts."""


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
    annotations: list[Annotation] = []
    sm_efficiency: float | None = None
    """Part of the device's multiprocessors that had a block to work on, mean over the steps."""
    filled: float | None = None
    """The same part, mean over the time of kernels that are no collectives."""
    occupancy: float | None = None
    """Of kernels, as theirs, mean over their time."""
    launch_delay: Histogram | None = None
    """Nanoseconds from a launch on the host to the begin of its kernel."""
    queue_length: float | None = None
    """Launched work that had not begun, mean over time."""
    peak_allocated_bytes: int | None = None
    """Largest value of the allocator on the device, where memory was profiled."""
    peak_reserved_bytes: int | None = None
    peak_allocated_by_phase: dict[str, int] = {}
    """Likewise, while the host was in a phase: `forward`, `backward`, `optimizer`, ..."""
    critical_path: CriticalPath | None = None
    lost_events: Count = 0
    """Events of the file that could not be read."""


PACED = "_paced"
"""Ends the name of a phase of `DeviceTimes` in which the device kept up with the host: its kernels
and the gaps between them."""


class DeviceTimes(Struct, kw_only=True, omit_defaults=True):
    """One device's time line, from events recorded where the training thread's phases change."""

    device: int
    steps: Steps
    """Steps on the device. Phases in which it was behind the host are work; `forward_paced` and
    their like hold kernels and the gaps between them; the others are what the host did while the
    device was out of work. Rows need not be consecutive."""
    events: Count = 0
    """Recorded in these steps."""
    own_ns: int = 0
    """Time that recording and reading them took on the training thread, part of the steps."""
    lost_steps: Count = 0
    """Steps whose events could not be read, or with more phases than events."""


class PhaseMemory(Struct, kw_only=True, omit_defaults=True):
    """What the allocator held where a phase began and ended; largest of a few early steps."""

    begin_bytes: int
    end_bytes: int
    peak_bytes: int | None = None
    """Where the largest value so far was reached in this phase; None where it was another's."""


class DeviceMemory(Struct, kw_only=True, omit_defaults=True):
    """What PyTorch's allocator did on one device."""

    device: int
    total_bytes: int | None = None
    course: Samples
    """At ends of steps: `allocated_bytes`, `reserved_bytes`, `inactive_split_bytes`, and counted
    from the start of the process `retries`, `ooms`, `device_allocations`, `step`."""
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    phases: dict[str, PhaseMemory] = {}


class Device(Struct, kw_only=True, omit_defaults=True):
    """What was observed of a device while the loop ran."""

    times: DeviceTimes | None = None
    memory: DeviceMemory | None = None
    copies: list[Copies] = []
