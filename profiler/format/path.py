"""The critical path of a trace: what the steps were waiting for at each of their moments."""

from __future__ import annotations

from msgspec import Struct

from stepscope.profiler.format.columns import Count


class PathOperator(Struct, kw_only=True, omit_defaults=True):
    """An operator on the path, summed over all steps."""

    name: str
    host_ns: int
    """In itself, on the host."""
    device_ns: int = 0
    """In what it launched."""


class PathKernel(Struct, kw_only=True):
    """A kernel on the path, summed over all steps."""

    name: str
    category: str
    calls: Count
    time_ns: int


class Replayed(Struct, kw_only=True):
    """Steps of a trace replayed with other durations and the same dependencies."""

    scenario: str
    """`launch_free`, `communication_hidden`, `data_loading_free`, or what was asked for."""
    steps: Count
    recorded_ns: int
    """What these steps took."""
    wall_ns: int
    """What they would take."""
    owners: dict[str, int] = {}
    """What would be on the path then, the longest first."""


class CriticalPath(Struct, kw_only=True, omit_defaults=True):
    """For each moment of a step the one thing that the step was waiting for."""

    owners: dict[str, list[int]]
    """Nanoseconds by owner, one value for each row of the steps. On the host `data_loading`,
    `operators`, `python` between them, `allocation`, `profiler`; `launch` until a kernel begins,
    `sync` until the host goes on; on the device the categories of kernels, `memcpy`, `queue`
    between queued kernels, `unrecorded` where that is long; and `collective`. Of several ranks
    they sum to the step of the slowest rank."""
    operators: list[PathOperator] = []
    """The longest first."""
    kernels: list[PathKernel] = []
    """The longest first."""
    replayed: list[Replayed] = []
    ranks: dict[int, int] = {}
    """Of several ranks: nanoseconds that the path spends on each, the longest first. What is on
    none is in collectives once all ranks are there, or `straggler`: a rank began the step late."""
