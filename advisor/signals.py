"""The sampled signals of a profile: names, units, and what is drawn together."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from stepscope.profiler.format import Samples

_TITLES = {
    "job_busy_cores": "busy cores, this job",
    "system_busy_cores": "busy cores, all programs",
    "thread_delay_cores": "threads of the training process that wait for a core",
    "other_threads_cores": "other Python threads of the training process",
    "handing_threads_cores": "threads of the training process that pass data between processes",
    "steal_cores": "cores that the hypervisor took away",
    "rss_bytes": "memory of the training process",
    "swap_used_bytes": "swap in use",
    "memory_used_share": "memory in use, whole machine",
    "cpu_pressure_share": "time in which some task waited for a core",
    "io_pressure_share": "time in which some task waited for storage",
    "throttled_share": "time in which the CPU quota held the job back",
    "disk_read_bytes_per_s": "disk reads, whole machine",
    "written_bytes_per_s": "written by the training thread",
    "writes_per_s": "write calls of the training thread",
    "network_received_bytes_per_s": "network, received",
}
_UNITS = {
    "_bytes_per_s": "bytes/s",
    "_per_s": "1/s",
    "_bytes": "bytes",
    "_share": "share",
    "utilisation": "share",
    "_cores": "cores",
    "_w": "W",
    "_j": "J",
    "_c": "°C",
    "_mhz": "MHz",
}
"""Endings of column names, the first that fits."""
_GPU_TITLES = {
    "utilisation": "busy",
    "memory_used": "memory in use",
    "power": "power",
    "temperature": "temperature",
    "sm_clock": "clock",
    "memory_clock": "memory clock",
    "throttled_power": "slowed by the power cap",
    "throttled_thermal": "slowed by heat",
    "pcie_generation": "PCIe generation",
    "pcie_width": "PCIe lanes",
    "pcie_received": "received over PCIe",
    "pcie_sent": "sent over PCIe",
    "other_processes": "other processes",
    "other_memory": "memory of other processes",
    "energy": "energy since the start",
}
_TOPICS = {
    ("cores", False): "Processor, in cores",
    ("bytes", False): "Memory",
    ("bytes/s", False): "Disk and network",
    ("share", False): "Pressure and use of the machine",
    ("share", True): "GPU",
    ("bytes", True): "GPU memory",
    ("W", True): "GPU power",
    ("bytes/s", True): "GPU link to the host",
    ("°C", True): "GPU temperature",
    ("MHz", True): "GPU clock",
}
"""Signals of one topic share a unit, so that one axis serves them."""


class Signal(NamedTuple):
    """One column over time."""

    title: str
    unit: str
    topic: str
    """What it is drawn with; empty where a row of the table is enough."""
    values: list[float | None]


def signals(samples: Samples) -> list[Signal]:
    """The columns that were readable at least once."""
    return [
        _signal(name, [_finite(value) for value in values])
        for name, values in samples.columns.items()
        if any(_finite(value) is not None for value in values)
    ]


def _signal(name: str, values: list[float | None]) -> Signal:
    suffix = next((s for s in _UNITS if name.endswith(s)), "")
    unit = _UNITS.get(suffix, "")
    short = name.removesuffix(suffix) or name
    gpu = re.fullmatch(r"gpu(\d+)_(\w*)", name.removesuffix(suffix) or name)
    if gpu:
        what = gpu[2].strip("_") or suffix.strip("_")
        title = f"GPU {gpu[1]} {_GPU_TITLES.get(what, what)}"
    else:
        title = _TITLES.get(name, short.replace("_", " "))
    return Signal(title, unit, _TOPICS.get((unit, gpu is not None), ""), values)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
