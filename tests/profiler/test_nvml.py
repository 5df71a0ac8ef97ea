"""Sensors of devices, on a fake of NVML's library: there need not be a device."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest
import torch
from fake_nvml import GIB, FakeNvml

from stepscope.profiler.device.nvml import COLUMNS, OWN_COLUMNS, Nvml
from stepscope.profiler.device.sensors import AmdSensors, AppleSensors, open_sensors


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def read(nvml: Nvml) -> dict[str, float | None]:
    return dict(zip(nvml.columns, nvml.sample(), strict=True))


def test_devices_are_named(library: FakeNvml) -> None:
    nvml = Nvml()
    first, second = nvml.gpus
    assert (first.index, first.name, first.memory_bytes) == (0, "Example 80GB", 80 * GIB)
    assert (first.driver, first.power_limit_w) == ("570.00", 700.0)
    assert (first.max_sm_clock_mhz, first.max_memory_clock_mhz) == (1980, 2619)
    assert (first.max_pcie_generation, first.max_pcie_width, first.nvlinks) == (5, 16, 3)
    assert (first.cuda_index, first.divided) == (0, False)
    assert (second.index, second.name, second.power_limit_w) == (1, "Example 40GB", None)
    assert (second.max_sm_clock_mhz, second.max_pcie_width, second.nvlinks) == (None, None, None)
    nvml.close()
    assert library.open == 0


def test_devices_are_read(library: FakeNvml) -> None:
    library.reasons = 0x04 | 0x01
    nvml = Nvml()
    found = read(nvml)
    assert {name: found[f"gpu0_{name}"] for name in (*COLUMNS, *OWN_COLUMNS)} == {
        "utilisation": 0.37,
        "memory_used_bytes": 3 * GIB,
        "power_w": 412.5,
        "temperature_c": 61,
        "sm_clock_mhz": 1980,
        "memory_clock_mhz": 2619,
        "throttled_power_share": 1.0,
        "throttled_thermal_share": 0.0,
        "pcie_generation": 3,
        "pcie_width": 8,
        "pcie_received_bytes_per_s": 2000 * 1024,
        "pcie_sent_bytes_per_s": 1000 * 1024,
        "other_processes": 0,
        "other_memory_bytes": 0,
        "energy_j": 0.0,
    }
    silent = {name for name, value in found.items() if value is None}
    withheld = {"power_w", *OWN_COLUMNS} - {"memory_clock_mhz"}
    assert silent == {f"gpu1_{name}" for name in withheld}

    again = read(nvml)
    assert again["gpu0_energy_j"] == 400.0
    assert again["gpu0_pcie_received_bytes_per_s"] is None  # the other's turn


@pytest.mark.parametrize("bit", [0x08, 0x20, 0x40])
def test_heat_is_told_from_the_power_cap(library: FakeNvml, bit: int) -> None:
    library.reasons = bit
    found = read(Nvml())
    assert (found["gpu0_throttled_power_share"], found["gpu0_throttled_thermal_share"]) == (0, 1)


def test_later_drivers_have_another_name_for_it(library: FakeNvml) -> None:
    library.nvmlDeviceGetCurrentClocksEventReasons = lambda _: 0x80  # type: ignore[attr-defined]
    assert read(Nvml())["gpu0_throttled_power_share"] == 1


def test_other_processes_are_counted(library: FakeNvml) -> None:
    library.processes += [(1, 7 * GIB), (2, 1 * GIB)]
    found = read(Nvml())
    assert found["gpu0_other_processes"] == 2
    assert found["gpu0_other_memory_bytes"] == 8 * GIB

    library.processes[1] = (1, None)  # not permitted
    found = read(Nvml())
    assert found["gpu0_other_processes"] == 2
    assert found["gpu0_other_memory_bytes"] is None


def test_numbers_of_another_container_tell_nothing(library: FakeNvml) -> None:
    library.processes = [(os.getpid() + 100_000, 7 * GIB)]
    found = read(Nvml())
    assert found["gpu0_other_processes"] is None
    library.processes = []
    assert read(Nvml())["gpu0_other_processes"] is None


@pytest.mark.parametrize(
    ("visible", "numbers"),
    [
        ("1", [None, 0]),
        ("1,0", [1, 0]),
        ("GPU-bbbb", [None, 0]),
        ("", [None, None]),
        ("-1,0", [None, None]),
        ("MIG-cccc", [None, None]),
        ("0,7,1", [0, None]),
    ],
)
def test_only_visible_devices_are_read_in_full(
    library: FakeNvml, monkeypatch: pytest.MonkeyPatch, visible: str, numbers: list[int | None]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    nvml = Nvml()
    assert [gpu.cuda_index for gpu in nvml.gpus] == numbers
    full = sum(number is not None for number in numbers)
    assert len(nvml.columns) == 2 * len(COLUMNS) + full * len(OWN_COLUMNS)
    assert len(nvml.sample()) == len(nvml.columns)


def test_a_divided_device_is_called_so(library: FakeNvml) -> None:
    library.mig = 1
    nvml = Nvml()
    assert [gpu.divided for gpu in nvml.gpus] == [True, False]
    found = read(nvml)
    assert found["gpu0_memory_used_bytes"] is None
    assert found["gpu1_memory_used_bytes"] == 3 * GIB


def test_a_device_that_falls_silent_gives_no_figures(library: FakeNvml) -> None:
    nvml = Nvml()
    library.broken = True
    assert set(nvml.sample()) == {None}
    assert len(nvml.columns) == 2 * len(COLUMNS) + 2 * len(OWN_COLUMNS)


def test_a_device_that_cannot_be_described_is_left_out(library: FakeNvml) -> None:
    library.broken = True
    nvml = Nvml()
    assert nvml.gpus == []
    assert nvml.columns == []
    assert nvml.sample() == []
    assert nvml.reason is not None
    assert nvml.reason.startswith("NVML stopped telling")


def test_without_a_library_there_are_no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    nvml = Nvml()
    assert nvml.gpus == []
    assert nvml.columns == []
    assert nvml.sample() == []
    assert nvml.reason is not None
    assert "pynvml" in nvml.reason
    nvml.close()


# Devices of others --------------------------------------------------------------------------------


def test_amd_devices_tell_what_pytorch_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(torch.version, "hip", "6.2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "utilization", lambda _: 80)
    monkeypatch.setattr(torch.cuda, "power_draw", lambda _: 300)

    def missing(_: int) -> Any:
        raise ModuleNotFoundError("amdsmi")

    for name in ("device_memory_used", "temperature", "clock_rate"):
        monkeypatch.setattr(torch.cuda, name, missing, raising=False)
    sensors = open_sensors()
    assert isinstance(sensors, AmdSensors)
    assert dict(zip(sensors.columns, sensors.sample(), strict=True)) == {
        "gpu0_utilisation": 0.8,
        "gpu0_memory_used_bytes": None,
        "gpu0_power_w": 300.0,
        "gpu0_temperature_c": None,
        "gpu0_sm_clock_mhz": None,
    }
    sensors.close()


def test_apple_devices_tell_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 20 * GIB, raising=False)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 3 * GIB)
    sensors = open_sensors()
    assert isinstance(sensors, AppleSensors)
    assert sensors.gpus[0].memory_bytes == 20 * GIB
    assert dict(zip(sensors.columns, sensors.sample(), strict=True)) == {
        "gpu0_memory_used_bytes": 3 * GIB
    }
    sensors.close()


def test_the_fake_is_like_the_library() -> None:
    library = pytest.importorskip("pynvml")
    names = [name for name in vars(FakeNvml) if name.lower().startswith("nvml")]
    for name in names:
        assert hasattr(library, name), name
        if name.isupper():
            assert getattr(library, name) == getattr(FakeNvml, name), name
    assert {"pid", "usedGpuMemory"} <= {
        field for field, _ in library.c_nvmlProcessInfo_v3_t._fields_
    }
