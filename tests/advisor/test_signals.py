from __future__ import annotations

import math

from builders import a_profile, an_advice

from stepscope.advisor.noise import noise
from stepscope.advisor.signals import signals
from stepscope.advisor.tables import machine, resources
from stepscope.profiler.format import Samples


def test_names_units_and_topics() -> None:
    columns: dict[str, list[float | None]] = {
        "job_busy_cores": [1.0],
        "disk_read_bytes_per_s": [5e6],
        "writes_per_s": [12.0],
        "gpu1_utilisation": [0.5],
        "gpu0_memory_used_bytes": [1e9],
        "gpu0_power_w": [300.0],
        "gpu0_temperature_c": [61.0],
        "gpu0_sm_clock_mhz": [1410.0],
        "tomorrows_thing": [3.0],
        "never_read": [None],
        "broken": [math.nan],
    }

    found = signals(Samples(time_ns=[0], columns=columns))

    assert [(signal.title, signal.topic) for signal in found] == [
        ("busy cores, this job", "Processor, in cores"),
        ("disk reads, whole machine", "Disk and network"),
        ("write calls of the training thread", ""),
        ("GPU 1 busy", "GPU"),
        ("GPU 0 memory in use", "GPU memory"),
        ("GPU 0 power", "GPU power"),
        ("GPU 0 temperature", "GPU temperature"),
        ("GPU 0 clock", "GPU clock"),
        ("tomorrows thing", ""),
    ]
    assert [row.mean for row in resources(found)] == [
        "1 cores",
        "5.00 MB/s",
        "12 a second",
        "50 %",
        "1.00 GB",
        "300 W",
        "61 °C",
        "1,410 MHz",
        "3",
    ]


def test_the_machine_at_its_best() -> None:
    rows = {name: value for name, value, _ in machine(a_profile().environment.calibration)}

    assert rows["fp32 arithmetic"] == "210 GFLOP/s"
    assert rows["memory traffic"] == "18.0 GB/s"
    assert rows["ridge"] == "11.7 FLOP per byte"
    assert "bf16 arithmetic" not in rows
    assert machine(None) == []


def test_noise_tells_what_this_run_was_disturbed_by() -> None:
    profile = a_profile()
    profile.samples.columns |= {
        "system_busy_cores": [5.25 + 0.1 * (i % 4) for i in range(12)],
        "steal_cores": [0.5] * 12,
    }
    profile.loaders[0].workers[0].lost = 7

    rows = {row.name: row.value for row in noise(an_advice(), profile)}

    assert rows["Steps that count"] == "200"
    assert rows["Least certain share"] == "1.0 % to 7.0 %"
    assert rows["Other programs, mean"] == "1.75 cores"
    assert rows["Taken by the hypervisor, mean"] == "0.50 cores"
    assert rows["Batch records lost"] == "7"
