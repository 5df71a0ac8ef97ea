"""Sensors of the devices: NVML's, or where there is none what PyTorch itself can tell."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import torch

from stepscope.profiler.device.nvml import COLUMNS, Nvml
from stepscope.profiler.format import Gpu


class Sensors(Protocol):
    """What the sampler asks once a second."""

    gpus: list[Gpu]
    reason: str | None

    @property
    def columns(self) -> list[str]:
        """Names of what `sample` returns."""

    def sample(self) -> list[float | None]:
        """One reading of every device; None where a device does not tell."""

    def close(self) -> None:
        """Give back what was opened."""


class AmdSensors:
    """AMD's devices, through PyTorch and its library `amdsmi`."""

    def __init__(self) -> None:
        count = torch.cuda.device_count()  # which does not begin to use any
        self.gpus = [Gpu(index=i, name="AMD device", cuda_index=i) for i in range(count)]
        self.reason: str | None = None

    @property
    def columns(self) -> list[str]:
        """Names of what `sample` returns."""
        return [f"gpu{gpu.index}_{name}" for gpu in self.gpus for name in COLUMNS]

    def sample(self) -> list[float | None]:
        """One reading of every device; None where a device does not tell."""
        readings: tuple[tuple[str, float], ...] = (
            ("utilization", 0.01),
            ("device_memory_used", 1.0),
            ("power_draw", 1.0),  # amdsmi has watts, whatever PyTorch documents
            ("temperature", 1.0),
            ("clock_rate", 1.0),
        )
        return [
            _scaled(getattr(torch.cuda, name, None), gpu.index, factor)
            for gpu in self.gpus
            for name, factor in readings
        ]

    def close(self) -> None:
        """Nothing was opened."""


class AppleSensors:
    """An Apple device: of its sensors PyTorch tells the memory."""

    def __init__(self) -> None:
        self.gpus = [Gpu(index=0, name="Apple GPU", memory_bytes=None)]
        self.reason: str | None = None
        with suppress(Exception):  # since torch 2.5
            self.gpus[0].memory_bytes = torch.mps.recommended_max_memory()

    @property
    def columns(self) -> list[str]:
        """Names of what `sample` returns."""
        return ["gpu0_memory_used_bytes"]

    def sample(self) -> list[float | None]:
        """Bytes that this process holds on the device."""
        return [_scaled(lambda _: torch.mps.driver_allocated_memory(), 0, 1.0)]

    def close(self) -> None:
        """Nothing was opened."""


def open_sensors() -> Sensors:
    """Those of this machine; without any device, those of NVML, which then has none."""
    nvml = Nvml()
    if not nvml.gpus and torch.version.hip and torch.cuda.is_available():
        return AmdSensors()
    if not nvml.gpus and torch.backends.mps.is_available():
        return AppleSensors()
    return nvml


def _scaled(read: Callable[[int], float] | None, index: int, factor: float) -> float | None:
    with suppress(Exception):  # missing library, missing permission, too old a PyTorch
        return float(read(index)) * factor if read is not None else None
    return None
