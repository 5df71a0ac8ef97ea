"""What kind of event a category stands for, in the spelling of every version of the profiler.

A new input format, or a new category of Kineto's, is a row of `KINDS`.
"""

from __future__ import annotations

from enum import IntEnum


class Kind(IntEnum):
    """Kinds of events that we keep; those up to `PYTHON` happen on a thread of the host."""

    OPERATOR = 0
    ANNOTATION = 1
    RUNTIME = 2
    """A call of the CUDA or HIP interface."""
    OVERHEAD = 3
    """Time taken by the profiler itself."""
    PYTHON = 4
    """A call of a Python function, recorded with `with_stack=True`."""
    KERNEL = 5
    COPY = 6
    FILL = 7
    MEMORY = 8
    """The allocator of a device got or gave back memory; a moment."""
    WAIT = 9
    """Who waits for which stream, recorded with `enable_cuda_sync_events=True`."""


KINDS: dict[str, Kind] = {
    # torch 1.13 and later
    "cpu_op": Kind.OPERATOR,
    "user_annotation": Kind.ANNOTATION,
    "cuda_runtime": Kind.RUNTIME,
    "cuda_driver": Kind.RUNTIME,
    "overhead": Kind.OVERHEAD,
    "python_function": Kind.PYTHON,
    "kernel": Kind.KERNEL,
    "gpu_memcpy": Kind.COPY,
    "gpu_memset": Kind.FILL,
    "cuda_sync": Kind.WAIT,
    # torch 1.8 to 1.12; annotations were operators then
    "Operator": Kind.OPERATOR,
    "Runtime": Kind.RUNTIME,
    "Kernel": Kind.KERNEL,
    "Memcpy": Kind.COPY,
    "Memset": Kind.FILL,
    # Intel and Meta devices name theirs after the vendor's runtime
    "xpu_runtime": Kind.RUNTIME,
    "mtia_runtime": Kind.RUNTIME,
    "mtia_ccp_events": Kind.KERNEL,
    "privateuse1_runtime": Kind.RUNTIME,
}
"""Not kept: arrows between events (`ac2g`, `async*`, `fwdbwd`), since correlations say the same;
`gpu_user_annotation`, which repeats annotations."""

MEMORY_NAME = "[memory]"
"""Name of the events of the allocator."""
