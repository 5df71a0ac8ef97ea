"""NVIDIA's management library: what the devices are, and once a second how they fare.

A figure that a device, its driver or a missing permission withholds is None; why there are no
figures at all is in `reason`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import psutil

from stepscope.profiler.format import Gpu

COLUMNS: Final = ("utilisation", "memory_used_bytes", "power_w", "temperature_c", "sm_clock_mhz")
"""Of every device of the machine."""
OWN_COLUMNS: Final = (
    "memory_clock_mhz",
    "throttled_power_share",
    "throttled_thermal_share",
    "pcie_generation",
    "pcie_width",
    "pcie_received_bytes_per_s",
    "pcie_sent_bytes_per_s",
    "other_processes",
    "other_memory_bytes",
    "energy_j",
)
"""Of those that the program can see, in addition."""
_POWER: Final = 0x04 | 0x80
"""Reasons for a lower clock: the power cap in software, and the brake on the board."""
_THERMAL: Final = 0x08 | 0x20 | 0x40
"""The slowdown in hardware, which is nearly always heat, and the two thermal ones."""
_MOST_LINKS: Final = 18


class Nvml:
    """The devices of this machine and their sensors."""

    def __init__(self) -> None:
        self.gpus: list[Gpu] = []
        self.reason: str | None = None
        """Why there is no device here."""
        self._library: Any = None
        self._handles: list[Any] = []
        self._energy: dict[int, float] = {}
        self._ticks = 0
        try:
            import pynvml  # noqa: PLC0415  # only where NVIDIA's driver may be

            pynvml.nvmlInit()
        except Exception as error:  # its errors share no base class across versions
            self.reason = f"NVML cannot be used: {error}"
            return
        self._library = pynvml
        try:
            self._describe_all()
        except Exception as error:
            self.reason = f"NVML stopped telling of the devices: {error}"

    def _describe_all(self) -> None:
        n = self._library
        handles = [n.nvmlDeviceGetHandleByIndex(i) for i in range(n.nvmlDeviceGetCount())]
        numbers = _cuda_indices([_said(n.nvmlDeviceGetUUID, handle) for handle in handles])
        for index, handle in enumerate(handles):
            self.gpus.append(self._describe(index, handle, numbers.get(index)))
            self._handles.append(handle)

    def _describe(self, index: int, handle: Any, number: int | None) -> Gpu:
        n = self._library

        def whole(read: Callable[[], float]) -> int | None:
            value = _or_none(read)
            return None if value is None else int(value)

        power = _or_none(lambda: n.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000)
        return Gpu(
            index=index,
            name=_text(n.nvmlDeviceGetName(handle)),
            memory_bytes=n.nvmlDeviceGetMemoryInfo(handle).total,
            driver=_text(n.nvmlSystemGetDriverVersion()),
            power_limit_w=power,
            max_sm_clock_mhz=whole(lambda: n.nvmlDeviceGetMaxClockInfo(handle, n.NVML_CLOCK_SM)),
            max_memory_clock_mhz=whole(
                lambda: n.nvmlDeviceGetMaxClockInfo(handle, n.NVML_CLOCK_MEM)
            ),
            max_pcie_generation=whole(lambda: n.nvmlDeviceGetMaxPcieLinkGeneration(handle)),
            max_pcie_width=whole(lambda: n.nvmlDeviceGetMaxPcieLinkWidth(handle)),
            nvlinks=self._links(handle),
            divided=_or_none(lambda: n.nvmlDeviceGetMigMode(handle)[0]) == 1,
            cuda_index=number,
        )

    def _links(self, handle: Any) -> int | None:
        """Links to other devices that are up; None where the device has none to tell of."""
        n = self._library
        states = [
            _or_none(lambda link=link: n.nvmlDeviceGetNvLinkState(handle, link))  # type: ignore[misc]
            for link in range(_MOST_LINKS)
        ]
        known = [state for state in states if state is not None]
        return sum(state == 1 for state in known) if known else None

    @property
    def columns(self) -> list[str]:
        """Names of what `sample` returns."""
        return [
            f"gpu{gpu.index}_{name}"
            for gpu in self.gpus
            for name in (*COLUMNS, *(OWN_COLUMNS if gpu.cuda_index is not None else ()))
        ]

    def sample(self) -> list[float | None]:
        """One reading of every device; None where a device does not tell."""
        own = [gpu.index for gpu in self.gpus if gpu.cuda_index is not None]
        in_turn = own[self._ticks % len(own)] if own else None
        self._ticks += 1
        row: list[float | None] = []
        for gpu, handle in zip(self.gpus, self._handles, strict=True):
            row += self._readings(handle, whole=not gpu.divided)
            if gpu.cuda_index is not None:
                row += self._own_readings(gpu.index, handle, link=gpu.index == in_turn)
        return row

    def _readings(self, handle: Any, *, whole: bool) -> list[float | None]:
        """Those of `COLUMNS`; the memory of a divided device is not only ours to fill."""
        n = self._library
        return [
            _or_none(lambda: n.nvmlDeviceGetUtilizationRates(handle).gpu / 100),
            _or_none(lambda: n.nvmlDeviceGetMemoryInfo(handle).used) if whole else None,
            _or_none(lambda: n.nvmlDeviceGetPowerUsage(handle) / 1000),
            _or_none(lambda: n.nvmlDeviceGetTemperature(handle, n.NVML_TEMPERATURE_GPU)),
            _or_none(lambda: n.nvmlDeviceGetClockInfo(handle, n.NVML_CLOCK_SM)),
        ]

    def _own_readings(self, index: int, handle: Any, *, link: bool) -> list[float | None]:
        """Those of `OWN_COLUMNS`.

        Args:
            index: of the device.
            handle: of the device.
            link: also read what goes over the link, for which NVML counts for 20 ms each way.
        """
        n = self._library
        reasons = self._throttle_reasons(handle)

        def moved(counter: str) -> float | None:
            return _or_none(
                lambda: n.nvmlDeviceGetPcieThroughput(handle, getattr(n, counter)) * 1024
            )

        others = self._others(handle)
        return [
            _or_none(lambda: n.nvmlDeviceGetClockInfo(handle, n.NVML_CLOCK_MEM)),
            None if reasons is None else float(reasons & _POWER != 0),
            None if reasons is None else float(reasons & _THERMAL != 0),
            _or_none(lambda: n.nvmlDeviceGetCurrPcieLinkGeneration(handle)),
            _or_none(lambda: n.nvmlDeviceGetCurrPcieLinkWidth(handle)),
            moved("NVML_PCIE_UTIL_RX_BYTES") if link else None,
            moved("NVML_PCIE_UTIL_TX_BYTES") if link else None,
            None if others is None else float(len(others)),
            None if others is None or None in others else float(sum(b or 0 for b in others)),
            self._energy_since_start(index, handle),
        ]

    def _throttle_reasons(self, handle: Any) -> int | None:
        n = self._library
        new = getattr(n, "nvmlDeviceGetCurrentClocksEventReasons", None)
        value = _or_none(lambda: new(handle)) if new is not None else None
        if value is None:  # drivers before 535
            value = _or_none(lambda: n.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
        return None if value is None else int(value)

    def _others(self, handle: Any) -> list[int | None] | None:
        """Bytes that each other process holds on the device.

        None where our own process is not among those that NVML names: then it counts processes by
        numbers of another container, and nobody can tell which are ours.
        """
        processes = None
        with suppress(Exception):
            processes = self._library.nvmlDeviceGetComputeRunningProcesses(handle)
        if not processes or all(process.pid != os.getpid() for process in processes):
            return None
        ours = {os.getpid()}
        if len(processes) > 1:
            with suppress(psutil.Error):
                ours |= {child.pid for child in psutil.Process().children(recursive=True)}
        return [process.usedGpuMemory for process in processes if process.pid not in ours]

    def _energy_since_start(self, index: int, handle: Any) -> float | None:
        joules = _or_none(lambda: self._library.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000)
        return None if joules is None else joules - self._energy.setdefault(index, joules)

    def close(self) -> None:
        """Give the library back."""
        if self._library is not None:
            with suppress(Exception):
                self._library.nvmlShutdown()


def _cuda_indices(uuids: list[str | None]) -> dict[int, int]:
    """Numbers by which this process knows the devices, by NVML's index.

    `CUDA_VISIBLE_DEVICES` is a list of indices, or of the beginnings of names; the first that is
    neither ends it, as CUDA does. Unset, all are visible.
    """
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return {index: index for index in range(len(uuids))}
    numbers: dict[int, int] = {}
    for number, name in enumerate(part.strip() for part in listed.split(",")):
        if name.isdigit() and int(name) < len(uuids):
            numbers[int(name)] = number
        else:
            found = [i for i, uuid in enumerate(uuids) if name and uuid and uuid.startswith(name)]
            if len(found) != 1:
                break
            numbers[found[0]] = number
    return numbers


def _said(read: Callable[[Any], str | bytes], handle: Any) -> str | None:
    with suppress(Exception):
        return _text(read(handle))
    return None


def _or_none(read: Callable[[], float]) -> float | None:
    try:
        return float(read())
    except Exception:  # NVML's errors share no base class across versions
        return None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
