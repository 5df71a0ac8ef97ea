"""Once a second, in a thread of its own: resources, worker records, and a copy on disk.

At first four times as often, so that short runs have enough samples too.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from stepscope.profiler import companions
from stepscope.profiler.cgroup import throttled_seconds
from stepscope.profiler.columns import SampledRows
from stepscope.profiler.device.sensors import open_sensors
from stepscope.profiler.format import Gpu, Samples
from stepscope.profiler.processes import (
    FileTraffic,
    file_traffic,
    job_cpu_seconds,
    kernel_work,
    thread_times_ns,
)

SECONDS = 1.0
_DENSE_TICKS = 20
_COLUMNS = (
    "system_busy_cores",
    "job_busy_cores",
    "steal_cores",
    "rss_bytes",
    "memory_used_share",
    "swap_used_bytes",
    "disk_read_bytes_per_s",
    "network_received_bytes_per_s",
    "cpu_pressure_share",
    "io_pressure_share",
    "thread_delay_cores",
    "other_threads_cores",
    "handing_threads_cores",
    "read_bytes_per_s",
    "reads_per_s",
    "written_bytes_per_s",
    "writes_per_s",
    "throttled_share",
    "major_faults_per_s",
    "kernel_cores",
)


class Sampler(threading.Thread):
    """Reads what the machine does while the loop runs; to be made in the training thread.

    Args:
        origin_ns: `perf_counter_ns` at the start of the run.
        each_tick: called after each sample.
        problem: told once if sampling had to stop.
    """

    def __init__(
        self,
        origin_ns: int,
        each_tick: Callable[[], None],
        problem: Callable[[str], None],
    ) -> None:
        super().__init__(name="stepscope-sampler", daemon=True)
        self._origin_ns = origin_ns
        self._each_tick = each_tick
        self._problem = problem
        self._stop_event = threading.Event()
        self._sensors = open_sensors()
        self._names = [*_COLUMNS, *self._sensors.columns]
        self._rows = SampledRows(1 + len(self._names))
        self._training = threading.get_ident(), threading.get_native_id()
        self._before = _Counters.read(*self._training)
        self.cpu_ns = 0

    def run(self) -> None:
        """Sample until `stop`; an error ends the sampling, never the training."""
        began = time.thread_time_ns()
        try:
            for tick in itertools.count():
                if self._stop_event.wait(SECONDS / 4 if tick < _DENSE_TICKS else SECONDS):
                    return
                self._sample()
                self._each_tick()
                self.cpu_ns = time.thread_time_ns() - began
        except Exception as error:
            self._problem(f"sampling stopped: {error!r}")

    def stop(self) -> None:
        """End the thread and wait for the tick it is in."""
        self._stop_event.set()
        self.join(timeout=10)
        self._sensors.close()

    def gpus(self) -> list[Gpu]:
        """The devices of this machine."""
        return self._sensors.gpus

    def missing_sensors(self) -> str | None:
        """Why there are no figures of a device that the program can use, if there is one."""
        divided = [str(gpu.index) for gpu in self._sensors.gpus if gpu.divided]
        if divided:
            return f"GPU {', '.join(divided)} is divided (MIG): NVML does not tell its use"
        return self._sensors.reason if torch.cuda.is_available() else None

    def samples(self) -> Samples:
        """What was read so far."""
        columns = self._rows.columns()
        return Samples(
            stride=self._rows.stride,
            time_ns=[int(t or 0) for t in columns[0]],
            columns=dict(zip(self._names, columns[1:], strict=True)),
        )

    def _sample(self) -> None:
        before, now = self._before, _Counters.read(*self._training)
        self._before = now
        seconds = max(1e-9, now.time - before.time)
        memory, swap = psutil.virtual_memory(), psutil.swap_memory()
        row: list[float | int | None] = [
            time.perf_counter_ns() - self._origin_ns,
            # The kernel counts in ticks, and its idle counters may step back: never below zero.
            max(0.0, now.busy - before.busy) / seconds,
            max(0.0, now.job - before.job) / seconds,
            max(0.0, now.steal - before.steal) / seconds,
            psutil.Process().memory_info().rss,
            1 - memory.available / memory.total,
            swap.used,
            _rate(now.disk_read, before.disk_read, seconds),
            _rate(now.received, before.received, seconds),
            _pressure("cpu"),
            _pressure("io"),
            _grown(now.thread_delays_ns, before.thread_delays_ns, seconds),
            _grown(now.others_ns, before.others_ns, seconds),
            _grown(now.handing_ns, before.handing_ns, seconds),
            *(_rate(*counts, seconds) for counts in zip(now.files, before.files, strict=True)),
            _rate(now.throttled, before.throttled, seconds),
            _rate(now.major_faults, before.major_faults, seconds),
            _rate(now.kernel, before.kernel, seconds),
        ]
        self._rows.append((*row, *self._sensors.sample()))


class _Counters:
    """Counters of which only differences mean anything; processor times in core seconds."""

    def __init__(self) -> None:
        self.time = time.perf_counter()
        self.busy = self.steal = self.job = 0.0
        self.disk_read: int | None = None
        self.received: int | None = None
        self.thread_delays_ns: dict[int, int] | None = None
        self.others_ns: dict[int, int] | None = None
        self.handing_ns: dict[int, int] | None = None
        self.files = FileTraffic()
        self.throttled: float | None = None
        self.major_faults: int | None = None
        self.kernel: float | None = None

    @classmethod
    def read(cls, training: int, native: int) -> _Counters:
        now = cls()
        now.files = file_traffic(native)
        now.major_faults, now.kernel = kernel_work(native)
        # Only the processors we may use: another job on the rest of the machine is no neighbour.
        usable = (
            psutil.Process().cpu_affinity() if hasattr(psutil.Process, "cpu_affinity") else None
        )
        for number, times in enumerate(psutil.cpu_times(percpu=True)):
            if usable is None or number in usable:
                idle = times.idle + getattr(times, "iowait", 0.0)
                steal = getattr(times, "steal", 0.0)
                guest = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
                now.busy += sum(times) - idle - steal - guest
                now.steal += steal
        now.job = job_cpu_seconds()
        threads = thread_times_ns()
        if threads is not None:
            others = {native for _, native in companions.others(training)}
            now.thread_delays_ns = {thread: waited for thread, (_, waited) in threads.items()}
            handing = companions.handing_over()
            now.others_ns = {thread: threads[thread][0] for thread in others & threads.keys()}
            now.handing_ns = {thread: threads[thread][0] for thread in handing & threads.keys()}
        now.throttled = throttled_seconds()
        with suppress(Exception):
            now.disk_read = psutil.disk_io_counters().read_bytes  # type: ignore[union-attr]
        with suppress(Exception):
            now.received = psutil.net_io_counters().bytes_recv
        return now


def _grown(
    now: dict[int, int] | None, before: dict[int, int] | None, seconds: float
) -> float | None:
    """Seconds per second by which the threads' nanoseconds have grown."""
    if now is None or before is None:
        return None
    grown = sum(max(0, time_ns - before.get(thread, 0)) for thread, time_ns in now.items())
    return grown / 1e9 / seconds


def _rate(now: float | None, before: float | None, seconds: float) -> float | None:
    return None if now is None or before is None else max(0, now - before) / seconds


def _pressure(resource: str) -> float | None:
    """Share of the last ten seconds in which some task waited for `resource` (PSI)."""
    try:
        first = Path(f"/proc/pressure/{resource}").read_text(encoding="ascii").split("\n")[0]
        return float(first.split("avg10=")[1].split()[0]) / 100
    except (OSError, IndexError, ValueError):
        return None
