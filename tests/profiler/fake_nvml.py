"""NVML's functions as far as they are used, for machines without a device."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

GIB = 2**30


class NotSupported(Exception):
    """What NVML raises for a figure the device does not have."""


class FakeNvml:
    """Two devices; the second tells neither its power nor anything that came with later ones."""

    NVML_TEMPERATURE_GPU = 0
    NVML_CLOCK_SM = 1
    NVML_CLOCK_MEM = 2
    NVML_PCIE_UTIL_TX_BYTES = 0
    NVML_PCIE_UTIL_RX_BYTES = 1

    def __init__(self) -> None:
        self.open = 0
        self.broken = False
        self.reasons = 0
        self.mig = 0
        self.millijoules = 5_000_000
        self.processes: list[tuple[int, int | None]] = [(os.getpid(), 2 * GIB)]

    def _checked(self, value: Any, handle: int = 0) -> Any:
        if self.broken or handle == 1:
            raise NotSupported
        return value

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return ("GPU-aaaa-1", "GPU-bbbb-2")[handle]

    def nvmlDeviceGetName(self, handle: int) -> Any:
        return b"Example 80GB" if handle == 0 else "Example 40GB"

    def nvmlSystemGetDriverVersion(self) -> str:
        return "570.00"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return self._checked(SimpleNamespace(total=(80 - 40 * handle) * GIB, used=3 * GIB))

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: int) -> Any:
        return self._checked(700_000, handle)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        return self._checked(SimpleNamespace(gpu=37))

    def nvmlDeviceGetPowerUsage(self, handle: int) -> Any:
        return self._checked(412_500, handle)

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> Any:
        assert sensor == self.NVML_TEMPERATURE_GPU
        return self._checked(61)

    def nvmlDeviceGetClockInfo(self, handle: int, clock: int) -> Any:
        return self._checked({self.NVML_CLOCK_SM: 1980, self.NVML_CLOCK_MEM: 2619}[clock])

    def nvmlDeviceGetMaxClockInfo(self, handle: int, clock: int) -> Any:
        return self._checked({self.NVML_CLOCK_SM: 1980, self.NVML_CLOCK_MEM: 2619}[clock], handle)

    def nvmlDeviceGetMaxPcieLinkGeneration(self, handle: int) -> Any:
        return self._checked(5, handle)

    def nvmlDeviceGetMaxPcieLinkWidth(self, handle: int) -> Any:
        return self._checked(16, handle)

    def nvmlDeviceGetCurrPcieLinkGeneration(self, handle: int) -> Any:
        return self._checked(3, handle)

    def nvmlDeviceGetCurrPcieLinkWidth(self, handle: int) -> Any:
        return self._checked(8, handle)

    def nvmlDeviceGetPcieThroughput(self, handle: int, counter: int) -> Any:
        return self._checked((1000, 2000)[counter], handle)  # KiB/s

    def nvmlDeviceGetNvLinkState(self, handle: int, link: int) -> Any:
        if link >= 4:
            raise NotSupported
        return self._checked(int(link < 3), handle)

    def nvmlDeviceGetMigMode(self, handle: int) -> Any:
        return self._checked([self.mig, self.mig], handle)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: int) -> Any:
        return self._checked(self.reasons, handle)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> Any:
        found = [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in self.processes]
        return self._checked(found, handle)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> Any:
        self._checked(None, handle)
        self.millijoules += 400_000
        return self.millijoules
