"""The steps of a program on a device as its critical path: device work, and why it was idle.

A live profile has two time lines. Where the device was behind the host it worked; where it kept up,
the torch.profiler window tells how much of a phase its kernels take, and the rest is the host's.
The phases that come of it are those that a profile made from a trace has.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from typing import NamedTuple

from msgspec.structs import replace

from stepscope.advisor.operators import category, of_model
from stepscope.profiler.format import PACED, DeviceTimes, Profile, Steps, Window

MIN_STEPS = 5
"""Steps that have to be known on the device before a run is judged by them."""
DEVICE_PHASES = (
    "arithmetic",
    "bandwidth",
    "optimizer_device",
    "collective",
    "transfer",
    "readback",
)
"""Phases in which the device works."""
_WAITING = ("data_wait", "sync")
_COLLECTIVE = ("nccl:", "c10d::", "record_param_comms")


class _Owner(NamedTuple):
    """Whose a phase of `DeviceTimes` is: while kernels run, and in the gaps between them."""

    work: str
    gap: str


_OWNERS = {
    "forward": _Owner("model", "launch"),
    "forward" + PACED: _Owner("model", "launch"),
    "python" + PACED: _Owner("model", "python"),
    "after_forward" + PACED: _Owner("model", "python"),
    "backward": _Owner("model", "launch"),
    "backward" + PACED: _Owner("model", "launch"),
    "optimizer_device": _Owner("optimizer_device", "optimizer"),
    "optimizer" + PACED: _Owner("optimizer_device", "optimizer"),
    "after_backward" + PACED: _Owner("optimizer_device", "python"),
    "communication" + PACED: _Owner("collective", "collective"),
}
_GROUPS = (
    (("python" + PACED,), ("python",)),
    (("after_forward" + PACED,), ("after_forward",)),
    (("forward", "forward" + PACED), ("forward", "after_forward", "python")),
    (("backward", "backward" + PACED), ("backward",)),
    (
        ("optimizer_device", "optimizer" + PACED, "after_backward" + PACED),
        ("optimizer", "after_backward"),
    ),
)
"""Phases on the device, and the host's phases that launch the kernels in them."""


def on_device_path(profile: Profile) -> Profile:
    """`profile` with its steady steps on the device's critical path, where that was followed."""
    times = device_times(profile)
    if times is None or profile.ranks is not None:  # those of many ranks are divided already
        return profile
    table, window = times.steps, profile.window
    mean = {name: sum(column) / table.total for name, column in table.phases.items()}
    working = _working_parts(mean, window)
    arithmetic = _arithmetic_part(window)
    exposed = sum(max(0, c.communication_ns - c.overlap_ns) for c in profile.collectives)
    paths = []
    for i, count in enumerate(table.count):
        row = {name: float(column[i]) for name, column in table.phases.items()}
        paths.append(_path(row, working, arithmetic, exposed * count))
    return replace(profile, steady=_replaced(profile.steady, table, paths))


def on_device(profile: Profile) -> bool:
    """Whether a profile's steps are those of a device."""
    if profile.trace is not None:
        return profile.trace.device is not None
    return device_times(profile) is not None


def device_times(profile: Profile) -> DeviceTimes | None:
    """The device's time line, where the model ran there and enough of it is known."""
    times = profile.device.times if profile.device is not None else None
    if times is None or times.steps.total < MIN_STEPS or not profile.steady.total:
        return None
    models = profile.configuration.models
    places = [place for model in models for place in model.devices]
    return times if not places or any(p.startswith("cuda") for p in places) else None


def _working_parts(mean: Mapping[str, float], window: Window | None) -> dict[str, float]:
    """Part of each phase in which kernels run.

    By the kernel time of the window; without a window all of what was behind the host, and
    nothing of what kept up with it, where the host sets the pace anyway.
    """
    kernels = _kernel_ns(window)
    if kernels is None:
        return {name: 0.0 if name.endswith(PACED) else 1.0 for name in _OWNERS}
    parts = {"communication" + PACED: 1.0}
    for phases, launched_from in _GROUPS:
        elapsed = sum(mean.get(phase, 0.0) for phase in phases)
        busy = min(elapsed, sum(kernels.get(phase, 0.0) for phase in launched_from))
        for phase in launched_from:  # what is counted here is not counted again
            kernels[phase] = max(0.0, kernels.get(phase, 0.0) - busy)
        parts |= dict.fromkeys(phases, busy / elapsed if elapsed else 0.0)
    return parts


def _kernel_ns(window: Window | None) -> dict[str, float] | None:
    """Nanoseconds of kernels per step by the phase that launched them; collectives left out."""
    if window is None or not any(o.self_device_ns for o in window.operators):
        return None
    kernels: dict[str, float] = {}
    for o in window.operators:
        if not o.name.startswith(_COLLECTIVE):
            kernels[o.phase] = kernels.get(o.phase, 0.0) + o.self_device_ns / window.steps
    return kernels


def _arithmetic_part(window: Window | None) -> float:
    """Part of the model's kernel time in products, convolutions and attention; all if unknown."""
    operators = of_model(window) if window is not None else []
    total = sum(o.self_device_ns for o in operators)
    products = sum(o.self_device_ns for o in operators if category(o.name) == "matmul")
    return products / total if total else 1.0


def _path(
    row: Mapping[str, float], working: Mapping[str, float], arithmetic: float, exposed: float
) -> dict[str, float]:
    """Nanoseconds of one row by the phases of the critical path.

    Args:
        row: by the phases of `DeviceTimes`.
        working: part of each in which kernels run.
        arithmetic: part of the model's kernel time that is arithmetic.
        exposed: exchange of gradients that nothing hides; it is part of backward.
    """
    path: dict[str, float] = {}

    def add(phase: str, spent: float) -> None:
        path[phase] = path.get(phase, 0.0) + spent

    model = 0.0
    for name, spent in row.items():
        owner = _OWNERS.get(name)
        if owner is None:
            add(name, spent)
            continue
        busy = spent * working.get(name, 1.0)
        add(owner.gap, spent - busy)
        if owner.work == "model":
            model += busy
        else:
            add(owner.work, busy)
    exchanged = min(exposed, model)
    add("collective", exchanged)
    add("arithmetic", (model - exchanged) * arithmetic)
    add("bandwidth", (model - exchanged) * (1 - arithmetic))
    return path


def _replaced(steady: Steps, table: Steps, paths: list[dict[str, float]]) -> Steps:
    """The host's steps, each divided as the step on the device that was followed before it."""
    names = list(dict.fromkeys(name for path in paths for name in path))
    phases: dict[str, list[int]] = {name: [] for name in names}
    cpu: list[int] = []
    for i, wall in enumerate(steady.wall_ns):
        path = paths[max(0, bisect_right(table.first, steady.first[i]) - 1)]
        scale = wall / max(1e-9, sum(path.values()))
        spent = {name: round(path.get(name, 0.0) * scale) for name in names}
        largest = max(spent, key=spent.__getitem__)
        spent[largest] += wall - sum(spent.values())
        for name in names:
            phases[name].append(spent[name])
        # More cores make only that faster which the host does meanwhile.
        own = wall - sum(spent.get(name, 0) for name in (*DEVICE_PHASES, *_WAITING))
        used = steady.cpu_ns[i] if steady.cpu_ns is not None else 0
        waiting = steady.wait_cpu_ns[i] if steady.wait_cpu_ns is not None else 0
        cpu.append(min(used, own + waiting))
    return replace(steady, phases=phases, cpu_ns=None if steady.cpu_ns is None else cpu)
