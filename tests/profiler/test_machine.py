from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from fake_nvml import FakeNvml

from stepscope.profiler import cgroup, machine, sampler
from stepscope.profiler.machine import VARIABLES, calibrate, configuration, environment
from stepscope.profiler.observed import Observed
from stepscope.profiler.sampler import Sampler

GIB = 2**30


# The machine --------------------------------------------------------------------------------------


def test_the_environment_is_plausible() -> None:
    found = environment([])

    assert found.python == ".".join(str(part) for part in sys.version_info[:3])
    assert found.torch == torch.__version__
    assert found.cpu_affinity is not None
    assert found.cpu_count is not None
    assert found.memory_bytes is not None
    assert 1 <= found.cpu_affinity <= found.cpu_count
    assert 0 < found.usable_cores <= found.cpu_count
    assert found.memory_bytes > GIB // 4
    assert found.memory_limit_bytes is None or 0 < found.memory_limit_bytes < found.memory_bytes
    assert found.gpus == []
    assert found.platform.startswith(os.uname().sysname)


def test_only_listed_variables_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    assert environment([]).variables == {"OMP_NUM_THREADS": "3", "NCCL_DEBUG": "INFO"}


def test_text_that_is_not_utf_8_is_made_printable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "caf\udce9", "x" * 1000, *["a"] * 100])
    monkeypatch.setenv("LD_PRELOAD", "/caf\udce9.so")
    found = machine.command_line()

    assert found[:2] == ["train.py", "caf?"]
    assert len(found[2]) == 200
    assert len(found) == 50
    assert environment([]).variables["LD_PRELOAD"] == "/caf?.so"


@pytest.mark.parametrize(
    ("quota", "limit", "kept"),
    [(None, None, None), (1.5, 1048576, 1048576), (0.5, 2**59, None)],
)
def test_limits_of_the_cgroup(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, limit: int | None, kept: int | None
) -> None:
    monkeypatch.setattr(cgroup, "cpu_quota", lambda: quota)
    monkeypatch.setattr(cgroup, "memory_limit", lambda: limit)
    found = environment([])

    assert found.cpu_quota == quota
    assert found.memory_limit_bytes == kept
    assert found.usable_cores == min(found.cpu_affinity or 0, quota or 10**9)


def test_the_configuration_says_what_is_on(tmp_path: Path) -> None:
    observed = Observed(tmp_path, 0)
    observed.autocast = "torch.bfloat16"
    found = configuration(observed)
    assert found.intra_op_threads == torch.get_num_threads()
    assert found.deterministic is False
    assert found.gc_enabled is True
    assert found.autocast == "torch.bfloat16"
    if not torch.cuda.is_available():
        assert found.tf32_matmul is None
        assert found.cudnn_benchmark is None

    torch.use_deterministic_algorithms(True)
    try:
        with torch.autograd.set_detect_anomaly(True, check_nan=False):
            found = configuration(observed)
    finally:
        torch.use_deterministic_algorithms(False)
    assert found.deterministic is True
    assert found.anomaly_mode is True


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_calibrating_draws_no_random_number_and_takes_little_time() -> None:
    states = torch.get_rng_state(), random.getstate()
    began = time.monotonic()
    found = calibrate()
    assert time.monotonic() - began < 10

    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert 50 < found.eager_op_ns < 1e7
    assert 1e7 < found.copy_bytes_per_s < 1e13
    assert found.gemm_fp32_flops > 1e6
    assert found.gemm_bf16_flops is not None
    assert found.gemm_bf16_flops > 1e6
    assert found.threads == torch.get_num_threads()
    assert found.fresh_bytes_per_s is not None
    assert 1e6 < found.fresh_bytes_per_s < 1e13


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


# The sampling thread ------------------------------------------------------------------------------


@pytest.fixture
def make_sampler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Sampler]]:
    monkeypatch.setattr(sampler, "SECONDS", 0.02)
    made: list[Sampler] = []

    def make(tick: Callable[[], None], problems: list[str]) -> Sampler:
        made.append(Sampler(time.perf_counter_ns(), tick, problems.append))
        made[-1].start()
        return made[-1]

    yield make
    for each in made:
        each.stop()


def test_samples_are_taken_until_it_is_stopped(make_sampler: Callable[..., Sampler]) -> None:
    ticks = threading.Semaphore(0)
    problems: list[str] = []
    running = make_sampler(ticks.release, problems)
    for _ in range(5):
        assert ticks.acquire(timeout=20)
    running.stop()
    assert not running.is_alive()
    found = running.samples()

    assert len(found.time_ns) >= 5
    assert found.time_ns == sorted(found.time_ns)
    assert all(len(column) == len(found.time_ns) for column in found.columns.values())
    cores = os.cpu_count() or 1
    for name in ("rss_bytes", "memory_used_share", "system_busy_cores", "job_busy_cores"):
        assert all(value is not None and value >= 0 for value in found.columns[name])
    share = found.columns["memory_used_share"]
    assert all(value is not None and value <= 1 for value in share)
    busy = found.columns["system_busy_cores"]
    assert sum(value or 0 for value in busy) / len(busy) <= 2 * cores
    if sys.platform == "linux":
        delay = found.columns["thread_delay_cores"]
        assert all(value is not None and value >= 0 for value in delay)
    assert running.cpu_ns > 0
    assert problems == []


def test_an_error_ends_the_sampling_and_is_noted(make_sampler: Callable[..., Sampler]) -> None:
    def fail() -> None:
        raise OSError(28, "No space left on device")

    problems: list[str] = []
    running = make_sampler(fail, problems)
    running.join(timeout=20)

    assert not running.is_alive()
    assert problems == [
        "sampling stopped: OSError(28, 'No space left on device')",
    ]
    assert len(running.samples().time_ns) == 1


def test_devices_have_columns_of_their_own(
    library: FakeNvml, make_sampler: Callable[..., Sampler]
) -> None:
    ticks = threading.Semaphore(0)
    running = make_sampler(ticks.release, [])
    assert ticks.acquire(timeout=20)
    running.stop()
    columns = running.samples().columns

    assert set(columns["gpu0_power_w"]) == {412.5}
    assert set(columns["gpu1_power_w"]) == {None}
    assert [gpu.name for gpu in running.gpus()] == ["Example 80GB", "Example 40GB"]
    assert library.open == 0
