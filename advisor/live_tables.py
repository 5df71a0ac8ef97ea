"""Rows of the report about a device that was followed live: its time, its memory, its copies."""

from __future__ import annotations

from typing import NamedTuple

from stepscope.advisor import wording
from stepscope.advisor.device_memory import MemoryPicture, memory_picture
from stepscope.profiler.format import PACED, Device, Profile

_WORK = ("forward", "backward", "optimizer_device", "collective", "transfer", "readback")
_NAMES = {
    "optimizer_device": "optimizer",
    "transfer": "copies to the device",
    "readback": "copies to the host",
    "collective": "exchange between devices",
    "sync": "the host had waited for the device",
    "data_wait": "the host waited for data",
    "after_forward": "after the forward pass",
    "after_backward": "between backward and optimizer",
    "python": "Python between phases",
}
_KINDS = {True: "works", False: "idle"}
_METHODS = {
    "dd-ckpt": "Activation checkpointing",
    "fp-amp": "Mixed precision (bf16 autocast)",
    "fp-peft": "Training a few of the parameters (LoRA)",
    "oa-accum": "Accumulation over batches of half the size",
    "oa-memopt": "An optimizer with an 8-bit state",
    "sy-shard": "Sharding over the ranks (FSDP, ZeRO)",
}
_TOLD = 0.05
"""On the host parameters, gradients and state are told where they are this part of the process."""


class TimeRow(NamedTuple):
    """What the device did in one phase, per step."""

    doing: str
    name: str
    seconds: str
    share: float


class Part(NamedTuple):
    """One part of the memory in use at the peak."""

    number: int
    name: str
    size: str
    share: float
    x: float
    """Where it begins in the bar, from 0 to 1."""


class MemoryTable(NamedTuple):
    """What holds memory, and what would free some."""

    where: str
    peak: str
    parts: list[Part]
    lines: list[tuple[str, str]]
    phases: list[tuple[str, str, str, str]]
    savings: list[tuple[str, str, str]]


class LiveTables(NamedTuple):
    """All that the report shows of the device."""

    times: list[TimeRow]
    followed: str
    copies: list[tuple[str, str, str, str]]
    memory: MemoryTable | None


def live(profile: Profile) -> LiveTables | None:
    """The tables of a profile as it was recorded; None where nothing is known."""
    found = profile.device or Device()
    times, followed = _times(found)
    memory = _memory(profile)
    copies = _copies(found, max(1, profile.steady.total))
    if not times and not copies and memory is None:
        return None
    return LiveTables(times, followed, copies, memory)


def _times(found: Device) -> tuple[list[TimeRow], str]:
    if found.times is None:
        return [], ""
    steps, wall = found.times.steps, sum(found.times.steps.wall_ns)
    rows = []
    for name, column in sorted(steps.phases.items(), key=lambda item: -sum(item[1])):
        spent, bare = sum(column), name.removesuffix(PACED)
        if not spent:
            continue
        doing = "keeps up with the host" if name.endswith(PACED) else _KINDS[name in _WORK]
        each = wording.duration(spent / steps.total / 1e9)
        rows.append(TimeRow(doing, _NAMES.get(bare, bare), each, spent / max(1, wall)))
    own = found.times.own_ns / max(1, wall)
    followed = (
        f"{wording.plural(steps.total, 'step')} followed on device {found.times.device} with "
        f"{wording.number(found.times.events / steps.total)} events each, which took "
        f"{wording.share(own)} of these steps"
    )
    return rows, followed


def _copies(found: Device, steps: int) -> list[tuple[str, str, str, str]]:
    directions = {"HtoD": "to the device", "DtoH": "to the host"}
    return [
        (
            f"{directions.get(c.direction, c.direction)}, {c.memory}",
            wording.number(c.calls / steps),
            wording.size((c.bytes or 0) / steps),
            wording.share((c.non_blocking or 0) / max(1, c.calls)),
        )
        for c in found.copies
    ]


def _memory(profile: Profile) -> MemoryTable | None:
    picture = memory_picture(profile)
    if picture is None or not picture.peak:
        return None
    if not picture.on_device and picture.peak - picture.activations < _TOLD * picture.peak:
        return None
    names = ("parameters", "gradients", "optimizer state", _rest(picture))
    sizes = (picture.parameters, picture.gradients, picture.state, picture.activations)
    parts, x = [], 0.0
    for number, (name, size) in enumerate(zip(names, sizes, strict=True), 1):
        share = min(size / picture.peak, 1 - x)
        parts.append(Part(number, name, wording.size(size), share, x))
        x += share
    lines = []
    if picture.reserved is not None:
        lines.append(("held by the allocator, peak", wording.size(picture.reserved)))
    if picture.outside is not None:
        lines.append(("held by others and by the context", wording.size(picture.outside)))
    if picture.total is not None:
        where = "memory of the device" if picture.on_device else "memory that may be used"
        lines.append((where, wording.size(picture.total)))
    if picture.room is not None:
        lines.append(("the batch would fit, predicted", f"{picture.room:.1f} times"))
    memory = profile.device.memory if profile.device is not None else None
    phases = [
        (
            _NAMES.get(name, name),
            wording.size(held.begin_bytes),
            wording.size(held.end_bytes),
            "" if held.peak_bytes is None else wording.size(held.peak_bytes),
        )
        for name, held in (memory.phases if memory is not None else {}).items()
    ]
    savings = [(_METHODS[s.method], wording.size(s.bytes), s.how) for s in picture.savings]
    where = "device" if picture.on_device else "training process"
    return MemoryTable(where, wording.size(picture.peak), parts, lines, phases, savings)


def _rest(picture: MemoryPicture) -> str:
    return "activations" if picture.on_device else "activations, data, Python and libraries"
