"""The critical path of a trace, in seconds per step and in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from stepscope.advisor.advice import CriticalPath, PathItem, PathShare, WhatIf
from stepscope.profiler.format import Profile, Replayed

_MOST = 10
_NOTEWORTHY = 1.01
"""A replay whose speedup is below this is not told."""


class Owner(NamedTuple):
    """What can be on the path."""

    label: str
    category: str
    """Of causes: for the colour."""


OWNERS = {
    "data_loading": Owner("taking the next batch", "data_loading"),
    "operators": Owner("operators on the host", "host"),
    "python": Owner("Python between operators", "host"),
    "launch": Owner("launching kernels", "host"),
    "sync": Owner("coming back from the device", "host"),
    "allocation": Owner("allocating device memory", "memory"),
    "profiler": Owner("the profiler itself", "host"),
    "gemm": Owner("matrix products", "compute"),
    "convolution": Owner("convolutions", "compute"),
    "attention": Owner("attention", "compute"),
    "other": Owner("other kernels", "compute"),
    "optimizer": Owner("optimizer kernels", "compute"),
    "embedding": Owner("embeddings", "memory"),
    "normalisation": Owner("normalisation", "memory"),
    "copy": Owner("copy kernels", "memory"),
    "reduction": Owner("reductions", "memory"),
    "elementwise": Owner("elementwise kernels", "memory"),
    "memcpy": Owner("copies and fills of the device", "memory"),
    "queue": Owner("gaps between queued kernels", "compute"),
    "unrecorded": Owner("idle with work queued (kernels not recorded?)", "compute"),
    "collective": Owner("collectives", "communication"),
    "straggler": Owner("a rank that began the step late", "communication"),
}
SCENARIOS = {
    "launch_free": "launching and operators on the host cost nothing (a CUDA graph)",
    "communication_hidden": "no collective is waited for",
    "data_loading_free": "the next batch is always there",
}


def critical_path(profile: Profile) -> CriticalPath | None:
    """The path of a profile that was made from a trace; None for any other."""
    path = profile.trace.critical_path if profile.trace else None
    if path is None or not path.owners:
        return None
    steps = max(map(len, path.owners.values()))
    total = max(1, sum(map(sum, path.owners.values())))
    all_of = _times(profile)
    return CriticalPath(
        owners=sorted(
            (
                PathShare(
                    owner=name,
                    seconds_per_step=sum(column) / steps / 1e9,
                    share=sum(column) / total,
                )
                for name, column in path.owners.items()
                if any(column)
            ),
            key=lambda line: -line.share,
        ),
        operators=[
            _item(each.name, each.host_ns + each.device_ns, steps, total, all_of)
            for each in path.operators[:_MOST]
        ],
        kernels=[
            _item(each.name, each.time_ns, steps, total, all_of) for each in path.kernels[:_MOST]
        ],
        ranks=[
            PathItem(name=f"rank {rank}", seconds_per_step=time / steps / 1e9, share=time / total)
            for rank, time in path.ranks.items()
        ],
        what_if=[found for found in map(what_if, path.replayed) if found.speedup >= _NOTEWORTHY],
    )


def _times(profile: Profile) -> Counter[str]:
    """Time of each operator and kernel, on the path or not."""
    times: Counter[str] = Counter()
    for operator in profile.window.operators if profile.window else ():
        times[operator.name] += operator.self_cpu_ns + operator.self_device_ns
    for kernel in profile.trace.kernels if profile.trace else ():
        times[kernel.name] += kernel.time_ns
    return times


def _item(
    name: str, time_ns: int, steps: int, total_ns: int, all_of: Mapping[str, int]
) -> PathItem:
    return PathItem(
        name=name,
        seconds_per_step=time_ns / steps / 1e9,
        share=time_ns / total_ns,
        critical_share=min(1.0, time_ns / all_of[name]) if all_of.get(name) else None,
    )


def what_if(replayed: Replayed) -> WhatIf:
    """What a replay says."""
    now = replayed.recorded_ns / replayed.steps / 1e9
    then = max(1, replayed.wall_ns) / replayed.steps / 1e9
    return WhatIf(
        scenario=SCENARIOS.get(replayed.scenario, replayed.scenario),
        steps=replayed.steps,
        step_seconds=now,
        predicted_seconds=then,
        speedup=now / then,
        next_owner=next(iter(replayed.owners), ""),
        next_share=max(replayed.owners.values(), default=0) / max(1, replayed.wall_ns),
    )


def label(owner: str) -> str:
    """An owner in words."""
    return OWNERS[owner].label if owner in OWNERS else owner


def colour(owner: str) -> str:
    """The category of causes that an owner is coloured as."""
    return OWNERS[owner].category if owner in OWNERS else "host"
