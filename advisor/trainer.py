"""The training thread's time by cause, from the phases that the profiler told apart."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from math import inf
from statistics import median

from stepscope.advisor.fetch import training_loader
from stepscope.advisor.operators import (
    ComputeSplit,
    python_compute_share,
    python_reading_share,
    split_compute,
)
from stepscope.advisor.stages import HANDOVER
from stepscope.profiler.format import Profile

PYTHON = "host.python"
COMPUTE = ("compute.arithmetic", "memory.bandwidth", "compute.launch")
_PHASES = {
    "optimizer": "compute.optimizer",
    "transfer": "data_loading.host_to_device",
    "worker_startup": "data_loading.worker_startup",
    "sync": "host.sync",
    "checkpoint": "host.checkpoint",
    "validation": "host.validation",
    "logging": "host.logging",
    "gc": "host.gc",
    "compilation": "host.compilation",
}
_MIN_GROWTH_SAMPLES = 10
_MIN_LOOKS = 5
_LARGE_WRITE = 32 << 10
"""Bytes: several times what files and streams of Python gather before they write."""
_NEARLY_ALL = 0.75
"""Noise rises half of the time, and of ten samples three in four times once in twenty cases."""


class Trainer:
    """What of a profile decides how the training thread's phases divide into causes."""

    def __init__(self, profile: Profile) -> None:
        window, calibration = profile.window, profile.environment.calibration
        self._compute = split_compute(window, calibration) or ComputeSplit(1.0, 0.0, 0.0)
        self._python_compute = python_compute_share(window) if window else 0.0
        self._python_reading = python_reading_share(window) if window else 0.0
        self._exposed = (
            sum(max(0, c.communication_ns - c.overlap_ns) for c in profile.collectives) * 1e-9
        )
        stepped = any(
            sum(steps.calls.get("optimizer_steps", []))
            for steps in (profile.warmup, profile.steady)
        )
        self._after_backward = PYTHON if stepped else "compute.optimizer"
        self._writing = writing_share(profile), writing_cause(profile)
        self._growth = growth_seconds(profile)
        self._freeing = freeing_seconds(profile)

    def causes(self, phases: Mapping[str, float], steps: float) -> dict[str, float]:
        """Seconds by cause, waiting for data left out.

        Args:
            phases: seconds of `steps` steps by phase.
            steps: how many.
        """
        seconds: dict[str, float] = {}
        for phase, spent in phases.items():
            if phase != "data_wait":
                for cause, part in self._parts(phase):
                    seconds[cause] = seconds.get(cause, 0.0) + part * spent
        freeing = min(self._freeing * steps, seconds.get(PYTHON, 0.0))
        if freeing > 0:
            seconds[PYTHON] -= freeing
            seconds[HANDOVER] = freeing
        self._take_out(seconds, "communication.collective", self._communication(phases, steps))
        self._take_out(seconds, "memory.growth", self._growth * steps)
        return seconds

    def _parts(self, phase: str) -> list[tuple[str, float]]:
        if phase in ("forward", "backward"):
            return list(zip(COMPUTE, self._compute_parts, strict=True))
        if phase == "python":
            # Losses and models that are plain functions compute outside any module's call.
            writing, writes = self._writing
            computing = min(self._python_compute, 1 - writing)
            reading = computing * self._python_reading
            k = computing - reading
            parts = zip(COMPUTE, self._compute_parts, strict=True)
            return [
                (PYTHON, 1 - computing - writing),
                (writes, writing),
                ("host.sync", reading),
                *((cause, k * part) for cause, part in parts),
            ]
        if phase == "after_backward":
            return [(self._after_backward, 1.0)]
        return [(_PHASES.get(phase, PYTHON), 1.0)]

    @property
    def _compute_parts(self) -> tuple[float, float, float]:
        return self._compute.arithmetic, self._compute.bandwidth, self._compute.launch

    def _communication(self, phases: Mapping[str, float], steps: float) -> float:
        """Backward contains the exchange of gradients that nothing hides."""
        return min(self._exposed * steps, phases.get("backward", 0.0))

    @staticmethod
    def _take_out(seconds: dict[str, float], cause: str, amount: float) -> None:
        """Give `amount` of the computing to `cause`: it happened inside."""
        compute = sum(seconds.get(each, 0.0) for each in COMPUTE)
        amount = min(amount, compute)
        if amount > 0:
            for each in COMPUTE:
                seconds[each] = seconds.get(each, 0.0) * (1 - amount / compute)
            seconds[cause] = seconds.get(cause, 0.0) + amount


def growth_bytes_per_step(profile: Profile) -> float | None:
    """Resident memory that each step adds; None with too few samples.

    The median slope (Theil-Sen) once start-up is over. Where memory grows nearly all the time and
    is dropped now and then, the usual rise counts.
    """
    column = profile.samples.columns.get("rss_bytes", [])
    points = [
        (t / 1e9, float(v)) for t, v in zip(profile.samples.time_ns, column, strict=False) if v
    ]
    course, steady = settled(points), profile.steady
    if not course or not steady.total:
        return None
    rises = [(y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in pairwise(course) if x2 > x1]
    rising = sum(rise > 0 for rise in rises) >= _NEARLY_ALL * len(rises)
    slope = max(theil_sen(course), median(rises) if rises and rising else -inf)
    return slope * sum(steady.wall_ns) / steady.total / 1e9


def settled(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The last two thirds: the first is start-up and filling caches. Empty if they are too few."""
    last = points[len(points) // 3 :]
    return last if len(last) >= _MIN_GROWTH_SAMPLES else []


def growth_seconds(profile: Profile) -> float:
    """What memory that a step keeps costs it: every page is fresh, and faults when touched.

    Operators write it, and each of their threads takes its part of the faults.
    """
    calibration = profile.environment.calibration
    grown = growth_bytes_per_step(profile)
    if calibration is None or not calibration.fresh_bytes_per_s or not grown:
        return 0.0
    threads = max(1.0, min(calibration.threads, profile.environment.usable_cores))
    return max(0.0, grown) / calibration.fresh_bytes_per_s / threads


def writing_share(profile: Profile) -> float:
    """Part of the phase `python` in which its lines write files, from looks at the stack."""
    looks = [site for site in profile.sites if site.phase == "python"]
    total = sum(site.samples for site in looks)
    writing = sum(site.samples for site in looks if site.writes)
    return writing / total if writing >= _MIN_LOOKS else 0.0


def writing_cause(profile: Profile) -> str:
    """What the training thread writes: a log in small pieces, or a checkpoint in large ones."""
    columns = profile.samples.columns
    written, writes = (
        sum(value or 0.0 for value in columns.get(name, []))
        for name in ("written_bytes_per_s", "writes_per_s")
    )
    return "host.checkpoint" if written >= _LARGE_WRITE * max(1e-9, writes) else "host.logging"


def freeing_seconds(profile: Profile) -> float:
    """What giving back the shared memory of a batch costs, at the rate at which memory comes.

    It goes when the program lets go of the batch before, right after the next one was taken.
    """
    calibration, size = profile.environment.calibration, profile.configuration.batch_bytes
    loader = training_loader(profile)
    if calibration is None or not calibration.fresh_bytes_per_s or not size:
        return 0.0
    return size / calibration.fresh_bytes_per_s if loader and loader.num_workers else 0.0


def theil_sen(points: list[tuple[float, float]]) -> float:
    """Median of the slopes between all pairs of at most 200 of the points."""
    points = points[:: max(1, len(points) // 200)]
    slopes = [
        (y2 - y1) / (x2 - x1)
        for i, (x1, y1) in enumerate(points)
        for x2, y2 in points[i + 1 :]
        if x2 > x1
    ]
    return median(slopes) if slopes else 0.0
