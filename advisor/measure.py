"""From the profile's columns to stages and to the breakdown: who owns each part of a step."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import NamedTuple

from stepscope.advisor.blocks import Block, blocks_of, summed
from stepscope.advisor.causes import CAUSES
from stepscope.advisor.fetch import Fetch, fetch_composition, fetch_totals, training_loader
from stepscope.advisor.operators import ComputeSplit, split_compute
from stepscope.advisor.stages import Stages
from stepscope.profiler.format import Profile

RESAMPLES = 40

_PHASES = {
    "optimizer": "compute.optimizer",
    "transfer": "data_loading.host_to_device",
    "worker_startup": "data_loading.worker_startup",
    "sync": "host.sync",
    "checkpoint": "host.checkpoint",
    "validation": "host.validation",
    "logging": "host.logging",
    "gc": "host.gc",
}
_STOPS = {
    "data_loading.worker_startup": "",
    "host.checkpoint": "checkpoints",
    "host.validation": "validations",
}
"""Causes that stop the loop, with the counter of how often; nothing hides a worker's start."""
_COMPUTE = ("compute.arithmetic", "memory.bandwidth", "compute.launch")


class Interval(NamedTuple):
    """A share of the step with its bounds."""

    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Breakdown:
    """Where a step goes."""

    step_seconds: float
    causes: dict[str, Interval]
    """Shares sum to 1; causes with no time are left out."""


@dataclass(frozen=True)
class Measurement:
    """A profile, measured: the breakdown, and the stages it was made of."""

    breakdown: Breakdown
    stages: Stages
    resamples: list[Stages]
    """The same stages from bootstrap resamples of blocks of steps, for intervals."""


class NoStepsError(Exception):
    """The profile holds too few steps to say anything."""


def measure(profile: Profile) -> Measurement:
    """Attribute the steady steps of `profile` to causes, and build the pipeline's stages.

    Raises:
        NoStepsError: there are no steps after warm-up.
    """
    steady = profile.steady if profile.steady.total >= 3 else profile.warmup
    if steady.total < 3:
        raise NoStepsError(
            f"only {steady.total} training steps were recorded; profile at least 20, better 100"
        )
    blocks = [block for block in blocks_of(steady) if block.wall > 0]
    if not blocks:
        raise NoStepsError("no training step took any time; record the profile again")
    sources = _Sources(profile)
    whole = summed(blocks)
    random_ = random.Random(0)  # the same profile gives the same advice
    resampled = [summed(random_.choices(blocks, k=len(blocks))) for _ in range(RESAMPLES)]
    shares = _shares(sources.attribute(whole))
    spread = [_shares(sources.attribute(block)) for block in resampled]
    causes = {
        cause: Interval(share, *_bounds([s.get(cause, 0.0) for s in spread], share))
        for cause, share in shares.items()
    }
    return Measurement(
        breakdown=Breakdown(whole.wall / whole.steps, causes),
        stages=sources.stages(whole),
        resamples=[sources.stages(block) for block in resampled],
    )


class _Sources:
    """What does not change between resamples: the composition of a fetch, of compute, the cores."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.loader = training_loader(profile)
        self.fetch = self._fetch_per_step()
        self.workers = self.loader.num_workers if self.loader else 0
        self.cores = max(0.01, profile.environment.usable_cores)
        split = split_compute(profile.window, profile.environment.calibration)
        self.compute = split or ComputeSplit(1.0, 0.0, 0.0)
        self.foreign = foreign_cores(profile)
        self.exposed = sum(max(0, c.communication_ns - c.overlap_ns) for c in profile.collectives)

    def _fetch_per_step(self) -> Fetch | None:
        """One batch's composition, times the batches that a step takes (accumulation: several)."""
        fetch = fetch_composition(self.loader) if self.loader else None
        if self.loader is None or fetch is None:
            return None
        steps = self.profile.warmup.total + self.profile.steady.total
        several = max(1, int(fetch_totals(self.loader).batches / max(1, steps) + 0.25))
        return Fetch(
            {cause: several * s for cause, s in fetch.wall.items()},
            {cause: several * s for cause, s in fetch.cpu.items()},
            several * fetch.run_delay,
        )

    def own_delay_share(self, block: Block) -> float:
        """Which part of waiting for a core this job causes itself.

        A thread waits because others run: our own (the rest of the job's processor time) or
        foreign ones (what the machine was busy with besides). They share the blame by their use.
        """
        own = max(0.0, self._demand(block) - block.cpu) / block.wall
        if self.foreign is None:
            return 1.0 if own > 0 else 0.0
        total = own + self.foreign
        return own / total if total > 0 else 0.0

    def _demand(self, block: Block) -> float:
        fetched = sum(self.fetch.cpu.values()) if self.fetch and self.workers else 0.0
        return block.process_cpu + fetched * block.steps

    def main_causes(self, block: Block) -> dict[str, float]:
        """Wall time of the training thread by cause, waiting for data left out."""
        seconds: dict[str, float] = {}
        for phase, spent in block.phases.items():
            if phase == "data_wait":
                continue
            if phase in ("forward", "backward"):
                for cause, part in zip(_COMPUTE, _compute_parts(self.compute), strict=True):
                    seconds[cause] = seconds.get(cause, 0.0) + part * spent
            else:
                cause = _PHASES.get(phase, "host.python")
                seconds[cause] = seconds.get(cause, 0.0) + spent
        self._take_out_communication(seconds, block)
        return seconds

    def _take_out_communication(self, seconds: dict[str, float], block: Block) -> None:
        """Backward contains the exchange of gradients that nothing hides."""
        exposed = min(self.exposed * 1e-9 * block.steps, block.phases.get("backward", 0.0))
        compute = sum(seconds.get(cause, 0.0) for cause in _COMPUTE)
        if exposed > 0 and compute > 0:
            for cause in _COMPUTE:
                seconds[cause] = seconds.get(cause, 0.0) * (1 - exposed / compute)
            seconds["communication.collective"] = exposed

    def attribute(self, block: Block) -> dict[str, float]:
        """Seconds of the block's wall time by cause; sums to its wall time."""
        own = self.own_delay_share(block)
        seconds = self.main_causes(block)
        foreign = (1 - own) * max(0.0, block.run_delay - block.wait_run_delay)
        _move(seconds, "cpu_preprocessing.core_starvation", foreign)
        for cause, part in self._wait(block, own).items():
            seconds[cause] = seconds.get(cause, 0.0) + part
        return self._by_processor_time(seconds, block)

    def _by_processor_time(self, seconds: dict[str, float], block: Block) -> dict[str, float]:
        """As far as the cores are full, a cause owns the step by the processor time it uses.

        Then nobody waits for long, everybody is slow, and a step takes as long as the cores need
        for the work of all threads: whose work that is, is what holds it back.
        """
        full = self.fullness(block)
        used = self._processor_time(block)
        starved = seconds.get("cpu_preprocessing.core_starvation", 0.0)
        total = sum(used.values())
        if full <= 0 or total <= 0:
            return seconds
        k = (block.wall - starved) / total
        by_use = {cause: s * k for cause, s in used.items()}
        by_use["cpu_preprocessing.core_starvation"] = starved
        return {
            cause: (1 - full) * seconds.get(cause, 0.0) + full * by_use.get(cause, 0.0)
            for cause in {**seconds, **by_use}
        }

    def _free_cores(self, block: Block) -> float:
        """Cores this job can have: what others leave, and never less than it has now."""
        return max(self.cores - (self.foreign or 0.0), self._demand(block) / block.wall)

    def fullness(self, block: Block) -> float:
        """0 while cores are free, 1 when this job alone keeps all of them busy."""
        return _ramp(self._demand(block) / (block.wall * self.cores), 0.6, 0.9)

    def _processor_time(self, block: Block) -> dict[str, float]:
        """Seconds of processor time by cause: the trainer's by its phases, the workers' own."""
        main = self.main_causes(block)
        busy = sum(main.values())
        fetched = {c: s * block.steps for c, s in self.fetch.cpu.items()} if self.fetch else {}
        own = block.process_cpu - (0.0 if self.workers else sum(fetched.values()))
        used = {c: max(0.0, own) * s / busy for c, s in main.items()} if busy else {}
        for cause, s in fetched.items():
            used[cause] = used.get(cause, 0.0) + s
        return used

    def _wait(self, block: Block, own: float) -> dict[str, float]:
        """The time waiting for batches, divided as the making of a batch divides."""
        wait = block.phases.get("data_wait", 0.0)
        if wait <= 0:
            return {}
        parts: dict[str, float] = {}
        if self.fetch is None:
            return _wait_without_loader(block, wait)
        if self.workers:
            receive = min(wait, block.wait_cpu)
            parts["cpu_preprocessing.handover"] = receive
            wait -= receive
        else:
            inside = sum(self.fetch.wall.values()) + self.fetch.run_delay
            rest = max(0.0, wait - inside * block.steps)
            parts["cpu_preprocessing.handover"] = rest
            wait -= rest
        foreign = (1 - own) * self.fetch.run_delay
        making = {**self.fetch.wall, "cpu_preprocessing.core_starvation": foreign}
        # Our own share of the delay belongs to whoever holds the cores: the work itself.
        total = sum(making.values())
        for cause, part in making.items():
            parts[cause] = parts.get(cause, 0.0) + wait * part / total if total else 0.0
        return parts

    def stages(self, block: Block) -> Stages:
        """The stages of the pipeline, calibrated to the block's own step time."""
        n = block.steps
        own = self.own_delay_share(block)
        # Delay that we cause ourselves goes as far as the cores are full: then D / C holds it.
        vanishing = own * self.fullness(block)
        main = {cause: s / n for cause, s in self.main_causes(block).items()}
        delay = max(0.0, block.run_delay - block.wait_run_delay) / n
        _move(main, "cpu_preprocessing.core_starvation", (1 - own) * delay)
        _shrink(main, vanishing * delay)
        fetch: dict[str, float] = {}
        cpu_fetch: dict[str, float] = {}
        if self.fetch is not None:
            fetch, cpu_fetch = dict(self.fetch.wall), dict(self.fetch.cpu)
            starved = (1 - own) * self.fetch.run_delay
            fetch["cpu_preprocessing.core_starvation"] = starved
            kept = (own - vanishing) * self.fetch.run_delay
            fetch = _grown(fetch, kept)
        elif block.phases.get("data_wait", 0.0) > 0:
            fetch = {
                c: s / n for c, s in _wait_without_loader(block, block.phases["data_wait"]).items()
            }
        pauses = self._pauses(main, sum(fetch.values()))
        process_cpu = block.process_cpu / n
        if self.workers == 0:
            process_cpu = max(0.0, process_cpu - sum(cpu_fetch.values()))
        both = {c: s + pauses.get(c, 0.0) for c, s in main.items()}
        busy = sum(both.values())
        cpu_main = {c: process_cpu * s / busy for c, s in both.items()} if busy else {}
        stages = Stages(
            workers=self.workers,
            cores=self._free_cores(block),
            main=main,
            pauses=pauses,
            fetch=fetch,
            receive=block.wait_cpu / n if self.workers else 0.0,
            cpu_main=cpu_main,
            cpu_fetch=cpu_fetch,
            threads=self.profile.configuration.intra_op_threads,
        )
        return replace(stages, factor=block.wall / n / max(1e-12, stages.seconds()))

    def _pauses(self, main: dict[str, float], service: float) -> dict[str, float]:
        """Move from `main` what the prefetch queue cannot hide of rare long stops.

        While the training thread stops for d seconds, workers fill the queue of Q batches and
        then stand still too: at most Q s / W seconds are hidden, per stop.
        """
        if not self.workers or self.loader is None:
            return {}
        queue = self.workers * (self.loader.prefetch_factor or 2)
        hidden_per_stop = queue * service / self.workers
        pauses = {}
        for cause, counter in _STOPS.items():
            seconds = main.get(cause, 0.0)
            per_step = self._stops_per_step(counter)
            hidden = min(seconds, per_step * hidden_per_stop) if counter else 0.0
            if seconds > hidden:
                main[cause], pauses[cause] = hidden, seconds - hidden
        return pauses

    def _stops_per_step(self, counter: str) -> float:
        steady = self.profile.steady
        return sum(steady.calls.get(counter, [])) / max(1, steady.total)


def foreign_cores(profile: Profile) -> float | None:
    """Cores' worth of time that other programs used meanwhile; None if not sampled."""
    columns = profile.samples.columns
    busy, job = columns.get("system_busy_cores", []), columns.get("job_busy_cores", [])
    steal = columns.get("steal_cores", [None] * len(busy))
    known = [
        max(0.0, b - j) + (s or 0.0)
        for b, j, s in zip(busy, job, steal, strict=False)
        if b is not None and j is not None
    ]
    return sum(known) / len(known) if known else None


def _compute_parts(split: ComputeSplit) -> tuple[float, float, float]:
    return split.arithmetic, split.bandwidth, split.launch


def _wait_without_loader(block: Block, wait: float) -> dict[str, float]:
    """An iterator we cannot look into: its processor time prepares, the rest waits for others."""
    cpu = min(wait, block.wait_cpu)
    starved = min(wait - cpu, block.wait_run_delay)
    return {
        "cpu_preprocessing.transform": cpu,
        "cpu_preprocessing.core_starvation": starved,
        "data_loading.network": wait - cpu - starved,
    }


def _move(seconds: dict[str, float], to: str, amount: float) -> None:
    """Take `amount` from all causes in proportion and give it to one."""
    amount = min(amount, 0.95 * sum(seconds.values()))
    _shrink(seconds, amount)
    if amount > 0:
        seconds[to] = seconds.get(to, 0.0) + amount


def _shrink(seconds: dict[str, float], amount: float) -> None:
    total = sum(seconds.values())
    if total > 0 and amount > 0:
        k = max(0.05, 1 - amount / total)
        for cause in seconds:
            seconds[cause] *= k


def _grown(seconds: dict[str, float], amount: float) -> dict[str, float]:
    total = sum(seconds.values())
    k = 1 + max(0.0, amount) / total if total > 0 else 1.0
    return {cause: value * k for cause, value in seconds.items()}


def _ramp(value: float, low: float, high: float) -> float:
    return min(1.0, max(0.0, (value - low) / (high - low)))


def _shares(seconds: dict[str, float]) -> dict[str, float]:
    total = sum(seconds.values())
    return {
        cause: seconds[cause] / total for cause in CAUSES if total and seconds.get(cause, 0.0) > 0
    }


def _bounds(values: list[float], middle: float) -> tuple[float, float]:
    """5th and 95th percentile, never leaving the middle outside."""
    ordered = sorted(values)
    low, high = ordered[int(0.05 * len(ordered))], ordered[int(0.95 * (len(ordered) - 1) + 0.5)]
    return min(low, middle), max(high, middle)
