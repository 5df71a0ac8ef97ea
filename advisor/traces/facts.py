"""Facts that a profile made from a trace supports beyond, or instead of, those of a recording."""

from __future__ import annotations

import re

from stepscope.advisor.fetch import training_loader
from stepscope.advisor.knowledge import Draft
from stepscope.advisor.measure import Measurement, quantile
from stepscope.profiler.format import Profile, Trace

_HAS_TENSOR_CORES = 7
"""Compute capability of NVIDIA's first devices with them; AMD's matrix cores count from 9 on."""
_LAYOUT = re.compile(r"nchwToNhwc|nhwcToNchw|batched_transpose", re.I)
"""Kernels by which cuDNN and MIOpen bring images into the layout that they compute in, and back."""
_WITH_TENSOR_CORES = ("gemm", "convolution", "attention")


def trace_facts(facts: Draft, profile: Profile, measurement: Measurement) -> None:
    """Device, copies and collectives of the trace; of the loader only what it tells."""
    trace, steps = profile.trace, profile.steady
    if trace is None or not steps.total:
        return
    wall = max(1, sum(steps.wall_ns))
    if "syncs" in steps.calls:
        facts["sync.per_step"] = sum(steps.calls["syncs"]) / steps.total
    loader = training_loader(profile)
    if loader is not None:
        facts["loader.num_workers"] = loader.num_workers
        facts["loader.best_workers"] = measurement.stages.best_workers()
    if trace.device is not None:
        facts["gpu.count"] = 1
        _device(facts, trace, wall)
        _launches(facts, trace, wall, steps.total)
        _exchange(facts, profile, trace, wall)
        _copies(facts, trace, steps.total)
    held, gpus = trace.peak_reserved_bytes, profile.environment.gpus
    if held is not None and gpus and gpus[0].memory_bytes:
        facts["gpu.memory_share"] = held / gpus[0].memory_bytes


def _device(facts: Draft, trace: Trace, wall: int) -> None:
    if trace.busy_ns is not None:
        facts["gpu.utilisation"] = trace.busy_ns / wall
    kernels = sum(category.calls for category in trace.categories)
    if kernels:
        time = sum(category.time_ns for category in trace.categories)
        facts["gpu.kernel_seconds"] = time / kernels / 1e9
    eligible = [c for c in trace.categories if c.name in _WITH_TENSOR_CORES]
    if time := sum(category.time_ns for category in eligible):
        used = sum(category.tensor_core_ns for category in eligible)
        facts["gpu.tensor_core_share"] = used / time
        if used == 0 and (trace.capability or 0) >= _HAS_TENSOR_CORES:
            facts["torch.autocast"] = "off"
    if trace.launch_delay is not None:
        delay = quantile(trace.launch_delay, 0.5)
        facts["gpu.launch_delay_seconds"] = delay / 1e9 if delay else None
    facts["gpu.queue_length"] = trace.queue_length
    facts["gpu.sm_efficiency"] = trace.sm_efficiency
    facts["gpu.filled_share"] = trace.filled
    facts["gpu.occupancy"] = trace.occupancy


def _launches(facts: Draft, trace: Trace, wall: int, steps: int) -> None:
    """How many kernels there are, and what part of their time only turns images around."""
    kernels = sum(category.calls for category in trace.categories)
    time = sum(category.time_ns for category in trace.categories)
    if not kernels or not time:
        return
    facts["gpu.kernels_per_step"] = kernels / steps
    facts["gpu.launches_per_second"] = kernels / (wall / 1e9)
    turned = sum(k.time_ns for k in trace.kernels if _LAYOUT.search(k.name))
    facts["gpu.layout_share"] = turned / time


def _exchange(facts: Draft, profile: Profile, trace: Trace, wall: int) -> None:
    if not trace.communication_ns:
        return
    exposed = sum(profile.steady.phases.get("collective", []))
    facts["comm.exposed_share"] = exposed / wall
    facts["comm.overlap_share"] = max(0.0, 1 - exposed / trace.communication_ns)


def _copies(facts: Draft, trace: Trace, steps: int) -> None:
    known = [c for c in trace.copies if c.direction == "HtoD" and c.memory != "unknown"]
    total = sum(copies.bytes or 0 for copies in known)
    if total:
        pageable = sum(copies.bytes or 0 for copies in known if copies.memory == "pageable")
        facts["copy.pageable_share"] = pageable / total
        facts["loader.pin_memory"] = pageable < total / 2
        facts["copy.upload_bytes"] = total / steps
