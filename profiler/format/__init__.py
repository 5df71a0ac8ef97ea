"""The profile: what was observed during a training run, nothing inferred.

These types are the file format. `docs/profile.schema.json` is generated from them, and
:mod:`stepscope.profiler.storage` reads and writes them. A quantity that was not measured is
``None`` (never zero), durations are integer nanoseconds, sizes are bytes.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from msgspec import Struct, field

from stepscope.profiler.format.columns import Count
from stepscope.profiler.format.communication import (
    Clock,
    Collective,
    HeatMap,
    HostTimes,
    Link,
    Meetings,
    RankLink,
    Ranks,
    RankTimes,
    Straggler,
)
from stepscope.profiler.format.compilation import Compilation, GraphBreak, Recompiled
from stepscope.profiler.format.device import (
    PACED,
    Annotation,
    Copies,
    Counted,
    Device,
    DeviceMemory,
    DeviceTimes,
    Kernel,
    KernelCategory,
    Operator,
    OperatorWork,
    PhaseMemory,
    RuntimeCalls,
    Trace,
    Window,
    WindowPhase,
)
from stepscope.profiler.format.environment import (
    Calibration,
    Configuration,
    Environment,
    Gpu,
    Model,
    Optimizer,
    Run,
)
from stepscope.profiler.format.loading import Batches, Ceilings, FetchTotals, Loader, Solo, Worker
from stepscope.profiler.format.messages import CollectiveCalls, Connection, FlightRecorder
from stepscope.profiler.format.path import CriticalPath, PathKernel, PathOperator, Replayed
from stepscope.profiler.format.timeline import (
    STEP_COLUMNS,
    Histogram,
    Mark,
    Metric,
    Samples,
    Site,
    Steps,
)
from stepscope.profiler.format.trial import ModelTrial, Resized, Threaded, ThreadedOperator

__all__ = [
    "PACED",
    "SCHEMA",
    "STEP_COLUMNS",
    "Annotation",
    "Batches",
    "Calibration",
    "Ceilings",
    "Clock",
    "Collective",
    "CollectiveCalls",
    "Compilation",
    "Configuration",
    "Connection",
    "Copies",
    "Counted",
    "CriticalPath",
    "Device",
    "DeviceMemory",
    "DeviceTimes",
    "Environment",
    "FetchTotals",
    "FlightRecorder",
    "Gpu",
    "GraphBreak",
    "HeatMap",
    "Histogram",
    "HostTimes",
    "Kernel",
    "KernelCategory",
    "Link",
    "Loader",
    "Mark",
    "Meetings",
    "Metric",
    "Model",
    "ModelTrial",
    "Operator",
    "OperatorWork",
    "Optimizer",
    "Overhead",
    "PathKernel",
    "PathOperator",
    "PhaseMemory",
    "Profile",
    "RankLink",
    "RankTimes",
    "Ranks",
    "Recompiled",
    "Replayed",
    "Resized",
    "Run",
    "RuntimeCalls",
    "Samples",
    "Site",
    "Solo",
    "Steps",
    "Straggler",
    "Threaded",
    "ThreadedOperator",
    "Trace",
    "Window",
    "WindowPhase",
    "Worker",
    "json_schema",
]

SCHEMA: Final = "stepscope.profile/1"


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
    device: Device | None = None
    """Where the loop ran on a device: its time, memory and copies."""
    ranks: Ranks | None = None
    """Where it was made from the records of several ranks: then times are means of the ranks, and
    the rest is of the one that was fastest by itself."""
    collectives: list[Collective] = []
    collective_calls: list[CollectiveCalls] = []
    """What the program has called itself in steady steps, by kind and size of message."""
    meetings: Meetings | None = None
    """What the clocks of ranks are compared by; None where no collective of all ranks was seen."""
    connections: list[Connection] = []
    """Those that have carried most, of whatever use; Linux only."""
    flight_recorder: FlightRecorder | None = None
    ceilings: Ceilings | None = None
    compilation: Compilation | None = None
    """Where torch.compile was used."""
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
