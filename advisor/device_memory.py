"""What holds a device's memory, how much larger the batch could be, and what methods would free.

Parameters, gradients and the optimizer's state are known exactly; what the peak holds beyond them
are activations (and buffers, workspaces, inputs), which grow with the batch:

    peak = F + A        F = parameters + gradients + state, whatever the batch
    room = (U / k - F) / A        how many times the batch would fit
    U = 95 % of the device, less what others and the context hold
    k = reserved / allocated at the peak, what the allocator holds beyond what is in use
"""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

from stepscope.profiler.format import Configuration, Device, Profile

USABLE = 0.95
"""Part of a device to plan with: shapes vary, and blocks do not fit without gaps."""
_SMALL_STATE = 0.25
"""Eight-bit states take a quarter of 32-bit ones, and 1.6 % for a scale to each 256 values."""
_SCALES = 0.016


class Saving(NamedTuple):
    """What one method would free at the peak, by the formula in `how`."""

    method: str
    bytes: float
    how: str


class MemoryPicture(NamedTuple):
    """Bytes at the peak; of the device, or of a process on the host."""

    on_device: bool
    total: float | None
    outside: float | None
    """Held by other processes, and by the context of this one."""
    parameters: float
    gradients: float
    state: float
    activations: float
    """All the rest; on the host that is Python, libraries and data as well."""
    peak: float
    reserved: float | None
    room: float | None
    """How many times the batch would fit; None where that cannot be told."""
    savings: list[Saving]


def memory_picture(profile: Profile) -> MemoryPicture | None:
    """What holds memory, of the device or else of the training process; None if unknown."""
    found = profile.configuration
    if not found.models and not found.optimizers:
        return None
    memory = profile.device.memory if profile.device is not None else None
    if memory is not None and memory.peak_allocated_bytes:
        outside = _outside(profile, profile.device)
        return _picture(
            profile, memory.peak_allocated_bytes, memory.peak_reserved_bytes, memory.total_bytes,
            outside,
        )  # fmt: skip
    resident = [v for v in profile.samples.columns.get("rss_bytes", []) if v]
    on_host = all(place == "cpu" for model in found.models for place in model.devices)
    if not resident or not on_host:
        return None
    environment = profile.environment
    return _picture(
        profile, max(resident), None, environment.memory_limit_bytes or environment.memory_bytes,
        None,
    )  # fmt: skip


def _picture(
    profile: Profile,
    peak: float,
    reserved: float | None,
    total: float | None,
    outside: float | None,
) -> MemoryPicture:
    parameters, gradients, state = _fixed(profile.configuration)
    fixed = parameters + gradients + state
    activations = max(0.0, peak - fixed)
    room = None
    if reserved and total and activations:
        held_in_vain = max(1.0, reserved / peak)
        usable = (USABLE * total - (outside or 0.0)) / held_in_vain
        room = max(0.0, (usable - fixed) / activations)
    picture = MemoryPicture(
        on_device=reserved is not None,
        total=total,
        outside=outside,
        parameters=parameters,
        gradients=gradients,
        state=state,
        activations=activations,
        peak=peak,
        reserved=reserved,
        room=room,
        savings=[],
    )
    if not picture.on_device:
        return picture
    return picture._replace(savings=sorted(_savings(picture, profile), key=lambda s: -s.bytes))


def _fixed(found: Configuration) -> tuple[float, float, float]:
    """Bytes of parameters, gradients and the optimizers' state."""
    parameters = sum(model.parameter_bytes for model in found.models)
    known = [o for o in found.optimizers if o.parameter_bytes is not None]
    parameters = max(parameters, sum(o.parameter_bytes or 0 for o in known))
    gradients = sum(o.gradient_bytes or 0 for o in known)
    state = sum(o.state_bytes or 0 for o in known)
    return float(parameters), float(gradients), float(state)


def _outside(profile: Profile, device: Device | None) -> float | None:
    """What the device holds beyond this process's allocator, by NVML; None if it does not tell."""
    memory = device.memory if device is not None else None
    if memory is None:
        return None
    for gpu in profile.environment.gpus:
        if gpu.cuda_index == memory.device and not gpu.divided:
            column = profile.samples.columns.get(f"gpu{gpu.index}_memory_used_bytes", [])
            reserved = memory.course.columns.get("reserved_bytes", [])
            used = [v for v in column if v is not None]
            held = [v for v in reserved if v is not None]
            return max(0.0, max(used) - max(held)) if used and held else None
    return None


def _savings(picture: MemoryPicture, profile: Profile) -> list[Saving]:
    """What methods would free at most, for those that apply; derived, not measured."""
    found, kept = profile.configuration, picture
    savings = [
        Saving("oa-accum", kept.activations / 2, "half of the activations with half of the batch")
    ]
    layers = max((n for model in found.models for n in model.modules.values()), default=0)
    if layers > 4:
        left = 2 / sqrt(layers)
        savings.append(
            Saving(
                "dd-ckpt",
                kept.activations * (1 - left),
                f"of {layers} equal layers about 2 x sqrt({layers}) are kept or computed again",
            )
        )
    if not found.autocast and any("torch.float32" in model.dtypes for model in found.models):
        half = kept.activations / 2 - kept.parameters / 2
        savings.append(
            Saving("fp-amp", half, "activations of half the size, less a copy of the parameters")
        )
    if kept.state >= kept.parameters:  # two averages per parameter, or one
        small = kept.state * (1 - _SMALL_STATE - _SCALES)
        savings.append(Saving("oa-memopt", small, "8 bits in place of 32, and the scales"))
    if kept.gradients or kept.state:
        savings.append(
            Saving(
                "fp-peft",
                kept.gradients + kept.state,
                "gradients and state of parameters that are not trained any longer",
            )
        )
    world = profile.run.world_size
    sharded = any("FullySharded" in (m.distributed or "") for m in found.models)
    if world > 1 and not sharded:
        part = (kept.parameters + kept.gradients + kept.state) * (1 - 1 / world)
        savings.append(Saving("sy-shard", part, f"each of {world} ranks keeps its part"))
    return [saving for saving in savings if saving.bytes > 0]
