"""The training thread's time by cause, from the phases that the profiler told apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from math import inf
from statistics import median

from stepscope.advisor.fetch import (
    NETWORK,
    SLEEPS,
    SMALL_FILES,
    STORAGE,
    TRANSFORM,
    training_loader,
)
from stepscope.advisor.operators import (
    BETWEEN,
    ComputeSplit,
    compute_share,
    reading_share,
    split_compute,
)
from stepscope.advisor.samples import mean_of, settled, theil_sen
from stepscope.advisor.stages import HANDOVER
from stepscope.profiler.format import Profile, Site, Steps

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
    # of a device, in profiles made from traces
    "arithmetic": "compute.arithmetic",
    "unrecorded": "compute.arithmetic",
    "bandwidth": "memory.bandwidth",
    "optimizer_device": "compute.optimizer",
    "collective": "communication.collective",
    "straggler": "communication.straggler",
    "readback": "host.sync",
    "queue": "compute.launch",
    "launch": "compute.launch",
    "allocation": "memory.capacity",
}
_MIN_LOOKS = 5
_EXCHANGES = {"awaiting": TRANSFORM, "receiving": HANDOVER}
_IDLE = 0.05
"""Cores: who uses less makes nothing that is waited for."""
_LARGE_WRITE = 32 << 10
"""Bytes: several times what files and streams of Python gather before they write."""
_A_MESSAGE_EACH = 0.5
"""Collectives per tensor of the model: an exchange that gathers gradients has far fewer."""
_MANY_MESSAGES = 8
"""Per step; as the rule `small_messages` has it."""
_SMALL_MESSAGE = 1 << 20
"""Bytes on average: below, a meeting of the ranks takes longer than the transfer."""
_LARGE_READ = 64 << 10
"""Bytes: below, opening a file costs more than reading it from the page cache."""
_NEARLY_ALL = 0.75
"""Noise rises half of the time, and of ten samples three in four times once in twenty cases."""


def causes_of_phases(phases: Iterable[str]) -> set[str]:
    """Causes that a profile with these phases can tell, if it was made from a trace."""
    causes = {_PHASES[phase] for phase in phases if phase in _PHASES}
    return causes | ({PYTHON} if "python" in phases else set())


class Trainer:
    """What of a profile decides how the training thread's phases divide into causes."""

    def __init__(self, profile: Profile) -> None:
        window, calibration = profile.window, profile.environment.calibration
        self._compute = split_compute(window, calibration) or ComputeSplit(1.0, 0.0, 0.0)
        self._exposed = 0.0
        if "collective" not in profile.steady.phases:  # of many ranks, it is told by step
            exposed = sum(max(0, c.communication_ns - c.overlap_ns) for c in profile.collectives)
            self._exposed = exposed * 1e-9
        stepped = any(
            sum(steps.calls.get("optimizer_steps", []))
            for steps in (profile.warmup, profile.steady)
        )
        self._after_backward = PYTHON if stepped else "compute.optimizer"
        self._treated = compute_share(window, "after_backward") if window else 0.0
        """Part of what follows a backward pass that treats gradients or parameters: clipping,
        scaling, decay. The update begins there, whoever takes the step."""
        self._between = {phase: self._of_between(profile, phase) for phase in BETWEEN}
        self._collectives = collectives_cause(profile)
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
        if phase in self._between:
            return self._between[phase]
        if phase == "communication":
            return [(self._collectives, 1.0)]
        if phase == "after_backward":
            treated = self._treated
            return [("compute.optimizer", treated), (self._after_backward, 1 - treated)]
        return [(_PHASES.get(phase, PYTHON), 1.0)]

    def _of_between(self, profile: Profile, phase: str) -> list[tuple[str, float]]:
        """Parts of a phase of the program's own code."""
        window = profile.window
        writing, data = writing_share(profile, phase), reading_shares(profile, phase)
        # Losses and models that are plain functions compute outside any module's call.
        computing = min(compute_share(window, phase) if window else 0.0, 1 - writing)
        reading = computing * reading_share(window, phase) if window else 0.0
        rest = 1 - computing - writing
        input_ = min(1.0, rest / max(1e-12, sum(data.values())))
        k = computing - reading
        parts = zip(COMPUTE, self._compute_parts, strict=True)
        return [
            (PYTHON, rest - input_ * sum(data.values())),
            (writing_cause(profile), writing),
            *((cause, input_ * share) for cause, share in data.items()),
            ("host.sync", reading),
            *((cause, k * part) for cause, part in parts),
        ]

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


def writing_share(profile: Profile, phase: str) -> float:
    """Part of one of `BETWEEN` in which its lines write files, from looks at the stack."""
    looks = [site for site in profile.sites if site.phase == phase]
    total = sum(site.samples for site in looks)
    writing = sum(site.samples for site in looks if site.writes)
    return writing / total if writing >= _MIN_LOOKS else 0.0


def reading_shares(profile: Profile, phase: str) -> dict[str, float]:
    """Parts of one of `BETWEEN` in which the loop itself gets its data, by cause.

    From looks at a sleeping thread; reads through a mapped file keep the interpreter's lock, so
    nobody can look: they are told by page faults that went to the disk. Where there is one at
    least in each step, the time asleep and in the kernel is theirs.
    """
    looks = [site for site in profile.sites if site.phase == phase]
    total = sum(site.samples for site in looks)
    seen: dict[str, float] = {}
    files = reading_cause(profile)
    awaiting = sum(site.samples for site in looks if site.state == "awaiting")
    for site in looks:
        cause = own_reading(site, files)
        if cause is not None and site.state != "awaiting":
            seen[cause] = seen.get(cause, 0.0) + site.samples
    shares = {cause: n / total for cause, n in seen.items() if n >= _MIN_LOOKS}
    if awaiting >= _MIN_LOOKS:
        for cause, part in makers(profile).items():
            shares[cause] = shares.get(cause, 0.0) + part * awaiting / total
    steady, columns = profile.steady, profile.samples.columns
    spent, wall = sum(steady.phases.get(phase, [])), sum(steady.wall_ns)
    faults = (mean_of(columns.get("major_faults_per_s", [])) or 0.0) * wall / 1e9
    if phase == "python" and spent and faults >= steady.total:
        kernel = (mean_of(columns.get("kernel_cores", [])) or 0.0) * wall
        shares[STORAGE] = max(shares.get(STORAGE, 0.0), (_asleep(steady) + kernel) / spent)
    return shares


def makers(profile: Profile) -> dict[str, float]:
    """What it is to wait for results of the program's own processes and threads; sums to 1.

    By the processor time of these and of the threads that pass data on. Sending takes about as
    much as receiving does, in those threads or in the training thread, and is part of what the
    processes use.
    """
    handing = handing_cores(profile)
    looks = [site.samples for site in profile.sites if site.state == "receiving"]
    receiving = handing + sum(looks) / max(1, profile.stack_samples)
    threads = mean_of(profile.samples.columns.get("other_threads_cores", [])) or 0.0
    making = children_cores(profile) + threads
    if making + handing < _IDLE:
        return {NETWORK: 1.0}
    passing = min(1.0, (handing + receiving) / (making + handing))
    return {HANDOVER: passing, TRANSFORM: 1 - passing}


def handing_cores(profile: Profile) -> float:
    """Cores that threads use which pass data between processes."""
    return mean_of(profile.samples.columns.get("handing_threads_cores", [])) or 0.0


def children_cores(profile: Profile) -> float:
    """Cores that the program's own processes use; those of loader workers are not told apart."""
    cores = mean_of(profile.samples.columns.get("job_busy_cores", []))
    steady = profile.steady
    if cores is None or steady.process_cpu_ns is None or _has_workers(profile):
        return 0.0
    return max(0.0, cores - sum(steady.process_cpu_ns) / max(1, sum(steady.wall_ns)))


def own_reading(site: Site, files: str) -> str | None:
    """The cause by which data came late where the loop itself was seen getting it.

    Args:
        site: where it was seen.
        files: what a statement that opens or reads files is about, by `reading_cause`; all time
            in it is theirs.
    """
    if site.phase not in BETWEEN or site.writes:
        return None
    if site.state in _EXCHANGES:
        return _EXCHANGES[site.state]
    if site.reads and site.state in ("running", "lock"):
        return files
    return None if site.state == "sleep" else SLEEPS.get(site.state)


def reading_cause(profile: Profile) -> str:
    """What the training thread reads: small files in small pieces, or large ones."""
    large = _mean_size(profile, "read_bytes_per_s", "reads_per_s") >= _LARGE_READ
    return STORAGE if large else SMALL_FILES


def _mean_size(profile: Profile, size: str, calls: str) -> float:
    """Bytes a call, from the columns of samples that count both."""
    total, times = (
        sum(value or 0.0 for value in profile.samples.columns.get(name, []))
        for name in (size, calls)
    )
    return total / max(1e-9, times)


def _asleep(steps: Steps) -> float:
    """Nanoseconds in which the training thread used no core and wanted none; waits left out."""
    waits = sum(steps.phases.get("data_wait", []))
    if steps.cpu_ns is None:  # a trace does not tell
        return 0.0
    used = sum(steps.cpu_ns) - sum(steps.wait_cpu_ns or [])
    delay = sum(steps.run_delay_ns or []) - sum(steps.wait_run_delay_ns or [])
    return max(0.0, float(sum(steps.wall_ns) - waits - used - delay))


def collectives_cause(profile: Profile) -> str:
    """What the program's own collectives are: an exchange, or many small messages."""
    steady = profile.steady
    tensors = sum(optimizer.tensors for optimizer in profile.configuration.optimizers)
    calls = sum(steady.calls.get("collectives", [])) / max(1, steady.total)
    many = tensors > 1 and calls >= _A_MESSAGE_EACH * tensors
    sized = [row for row in profile.collective_calls if row.bytes]
    if sized:
        count = sum(row.calls for row in sized)
        small = sum(row.bytes or 0 for row in sized) <= _SMALL_MESSAGE * count
        many = small and (many or calls >= _MANY_MESSAGES)
    return "communication.messages" if many else "communication.collective"


def writing_cause(profile: Profile) -> str:
    """What the training thread writes: a log in small pieces, or a checkpoint in large ones."""
    large = _mean_size(profile, "written_bytes_per_s", "writes_per_s") >= _LARGE_WRITE
    return "host.checkpoint" if large else "host.logging"


def freeing_seconds(profile: Profile) -> float:
    """What giving back the shared memory of a batch costs, at the rate at which memory comes.

    It goes when the program lets go of the batch before, right after the next one was taken.
    """
    calibration, size = profile.environment.calibration, profile.configuration.batch_bytes
    if calibration is None or not calibration.fresh_bytes_per_s or not size:
        return 0.0
    return size / calibration.fresh_bytes_per_s if _has_workers(profile) else 0.0


def _has_workers(profile: Profile) -> bool:
    loader = training_loader(profile)
    return loader is not None and loader.num_workers > 0
