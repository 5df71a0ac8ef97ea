"""What a profile says of the pipeline: its stages, and who wants the cores."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from stepscope.advisor.blocks import Block
from stepscope.advisor.ceilings import model_step_seconds, own_delay_share, serial_fraction
from stepscope.advisor.contention import Contention, divide
from stepscope.advisor.device_path import on_device
from stepscope.advisor.fetch import (
    NETWORK,
    TRANSFORM,
    Fetch,
    fetch_composition,
    fetch_totals,
    training_loader,
)
from stepscope.advisor.model_trial import batch_growth
from stepscope.advisor.samples import mean_of, others_cores
from stepscope.advisor.shapes import fetch_shape, main_shapes
from stepscope.advisor.stages import HANDOVER, RESUMING, STARTUP, Crowd, Slowdowns, Stages
from stepscope.advisor.threads import thread_cores
from stepscope.advisor.trainer import (
    COMPUTE,
    PYTHON,
    Trainer,
    children_cores,
    handing_cores,
    makers,
)
from stepscope.profiler.format import Profile, Site, Steps

SIBLINGS = 0.75
"""Part of the other threads' waiting for a core that the training thread has to sit out: they
compute in step with it, but it waits for some of the time itself."""
_CLOSE = 0.05
"""Part of a step that is not worth an explanation."""
_MIN_LOOKS = 3
_MOST_STRETCHED = 4.0
_AWAITING = ("awaiting", "child", "pipe")
_WRITING = ("host.checkpoint", "host.logging")
_CREDIBLE = 3.0
"""Times the modelled contention that a measured one may be."""
_MOST_LOST = 0.8
"""At most this part of processor work is called lost to contention."""


class Work(NamedTuple):
    """The training thread's work of a block, waiting for data left out; seconds."""

    causes: dict[str, float]
    blocked: dict[str, float]
    """The part of `causes` in which it used no processor and wanted none."""
    lost: float
    """The part of the rest in which cores were missing, to itself or to threads it waits for."""

    @property
    def running(self) -> float:
        """Time that goes by faster with more cores: all but what is blocked."""
        return max(1e-12, sum(self.causes.values()) - sum(self.blocked.values()))


class Sources:
    """What does not change between resamples: how fetches and compute divide, who wants cores."""

    def __init__(self, profile: Profile, whole: Block) -> None:
        self.profile = profile
        self.whole = whole
        self.trainer = Trainer(profile)
        self.loader = training_loader(profile)
        self.workers = self.loader.num_workers if self.loader else 0
        self.cores = max(0.01, profile.environment.usable_cores)
        self.threads = profile.configuration.intra_op_threads or 1
        self.foreign = foreign_cores(profile)
        self.thread_delay = mean_of(profile.samples.columns.get("thread_delay_cores", []))
        self.locking_threads, self.unlocked_threads = thread_cores(profile) or (0.0, 0.0)
        """Cores used by the program's Python threads beside the training thread: those that need
        the interpreter's lock, and those that do not."""
        self.handing_threads = handing_cores(profile)
        self.model_step = model_step_seconds(profile)
        self.job_cores = mean_of(profile.samples.columns.get("job_busy_cores", []))
        self.starting_cores = 0.0
        """Cores that workers use to come up: theirs is no fetch, and not the trainer's time."""
        self.fetch = self._fetch_per_step()
        self.child_cores, self.awaited = self._child_cores()
        """Cores used by other processes that the program has started for itself, and by cause those
        used by processes that the loop waits for."""
        self.starving = self._starving_part()
        self.credible_loss = _MOST_LOST
        self.credible_loss = self._credible_loss()
        self.main_contention, self.fetch_contention = self._contention()

    def _fetch_per_step(self) -> Fetch | None:
        """One batch's composition, times the batches that a step takes (accumulation: several)."""
        if self.loader is None:
            return _fetch_of_iterator(
                self.profile, self.whole, self.locking_threads + self.unlocked_threads
            )
        steps = self.profile.warmup.total + self.profile.steady.total
        several = max(1, int(fetch_totals(self.loader).batches / max(1, steps) + 0.25))
        calibration = self.profile.environment.calibration
        fetch = fetch_composition(self.loader, calibration)
        if fetch is None or not self.workers:
            return fetch.times(several) if fetch else None
        whole = self.whole
        fetched = several * (sum(fetch.cpu.values()) + fetch.helpers)
        known = whole.process_cpu / whole.steps + fetched
        other = (self.job_cores or 0.0) - known * whole.steps / whole.wall
        if other > _CLOSE and whole.phases.get("worker_startup", 0.0) > _CLOSE * whole.wall:
            self.starting_cores = other
        elif other > _CLOSE:
            children = other * whole.wall / whole.steps / several
            fetch = fetch_composition(self.loader, calibration, children) or fetch
        return fetch.times(several)

    def _child_cores(self) -> tuple[float, dict[str, float]]:
        """Without workers, what the job uses beside the training process.

        With workers it is taken for what they start. So it is here if the loop waits for children.
        """
        looks = [site for site in self.profile.sites if site.state in _AWAITING]
        used = children_cores(self.profile)
        if used <= _CLOSE:
            return 0.0, {}
        if sum(site.samples for site in looks) < _MIN_LOOKS:
            return used, {}
        return 0.0, {cause: part * used for cause, part in makers(self.profile).items()}

    @property
    def crowding(self) -> dict[str, float]:
        """Parts of the contention with others that are some cause's doing."""
        cores = {
            STARTUP: self.starting_cores,
            PYTHON: self.locking_threads,
            HANDOVER: self.handing_threads,
        }
        for cause, used in self.awaited.items():
            cores[cause] = cores.get(cause, 0.0) + used
        others = self.unlocked_threads + self.child_cores + (self.foreign or 0.0)
        total = max(1e-9, sum(cores.values()) + others)
        return {cause: used / total for cause, used in cores.items() if used > 0}

    def _modelled(self) -> tuple[Slowdowns, Slowdowns]:
        """Slowdowns to expect of the job's own threads, and of all programs' together."""
        alone = self._uncalibrated(self.whole)
        fetch, whole = self.fetch, self.whole
        crowd = Crowd(self.work(whole).running / whole.steps, 0.0, 0.0)
        if fetch is not None and self.workers:
            cpu = sum(fetch.cpu.values())
            crowd = crowd._replace(fetching=cpu + fetch.run_delay, helping=fetch.helpers)
        crowd = crowd.per(whole.wall / whole.steps)
        foreign = (self.foreign or 0.0) + self.child_cores
        foreign += self.starting_cores + self.handing_threads + sum(self.awaited.values())
        foreign += self.locking_threads + self.unlocked_threads
        return alone.own_slowdowns(crowd), alone.own_slowdowns(crowd, foreign)

    def _credible_loss(self) -> float:
        """The largest part of processor work that contention for cores can have taken.

        A thread that waits for a disk to be written is often counted as waiting for a core, while
        the kernel's own threads run there. What is far more than the number of runnable threads
        explains is such a wait, where the program writes anything.
        """
        _, both = self._modelled()
        slowdown = 1 + _CREDIBLE * (both.main - 1) + 2 * _CLOSE
        return min(_MOST_LOST, 1 - 1 / slowdown)

    def _contention(self) -> tuple[Contention, Contention]:
        """How the measured waiting for cores divides into the job's own doing and others'."""
        alone = self._uncalibrated(self.whole)
        work, fetch = self.work(self.whole), self.fetch
        own, both = self._modelled()
        main = work.lost / max(1e-12, work.running - work.lost)
        worker = fetch.run_delay / max(1e-12, sum(fetch.wall.values())) if fetch else 0.0
        tried = own_delay_share(self.profile)
        # Slowdowns multiply, so their logarithms divide as the trial says.
        together = own.fetch ** (1 / max(tried, 0.02)) if tried is not None else both.fetch
        parts = divide(1 + main, own.main, both.main), divide(1 + worker, own.fetch, together)
        for _ in range(3):  # the model's own occupancy differs from the measured one
            slow = replace(alone, contention_main=parts[0], contention_fetch=parts[1]).slowdowns
            parts = parts[0].matched(slow.main, 1 + main), parts[1].matched(slow.fetch, 1 + worker)
        return parts

    # The training thread ------------------------------------------------------------------------

    def work(self, block: Block) -> Work:
        """The training thread's time by cause, and what of it ran, was blocked or was lost."""
        causes = self.trainer.causes(block.phases, block.steps)
        busy = sum(causes.values())
        delay = max(0.0, block.run_delay - block.wait_run_delay)
        running = max(0.0, min(busy, block.cpu - block.wait_cpu + delay))
        writing = sum(causes.get(cause, 0.0) for cause in _WRITING)
        written = min(writing, max(0.0, delay - self.credible_loss * running))
        delay, running = delay - written, running - written
        waits = _blocked_causes(causes, busy - running)
        self._taken_by_threads(causes, waits, block)
        if self.model_step is not None:  # tried without the workers: no need to estimate
            lost = max(0.0, busy - self.model_step * block.steps)
        else:
            lost = delay + self._lost_to_siblings(waits, block)
        return Work(causes, waits, min(lost, _MOST_LOST * (busy - sum(waits.values()))))

    def _taken_by_threads(
        self, causes: dict[str, float], waits: dict[str, float], block: Block
    ) -> None:
        """Give to their causes what other threads took by holding the interpreter's lock.

        A thread that waits for the lock sleeps: in computing, which seldom sleeps otherwise.
        """
        for owner, cores in ((PYTHON, self.locking_threads), (HANDOVER, self.handing_threads)):
            left = cores * block.wall
            for cause in COMPUTE:
                part = min(left, waits.get(cause, 0.0))
                if part > 0:
                    left -= part
                    for seconds in (causes, waits):
                        seconds[cause] -= part
                        seconds[owner] = seconds.get(owner, 0.0) + part

    def _lost_to_siblings(self, waits: dict[str, float], block: Block) -> float:
        """What the training thread lost because threads that compute with it had no core.

        It meets them at the end of every operator. Once it sleeps there, it has waited too long:
        that is taken out of `waits`, as far as those that it waited for were waiting themselves.
        """
        siblings = max(0.0, (self.thread_delay or 0.0) * block.wall - block.run_delay)
        if siblings <= 0:
            return 0.0
        starving = siblings / (siblings + max(0.0, block.process_cpu - block.cpu))
        lost = SIBLINGS * siblings / max(1, self.threads - 1)
        for cause in COMPUTE:
            slept = starving * waits.get(cause, 0.0)
            if slept > 0:
                waits[cause] -= slept
                lost += slept
        return lost

    def starved(self, block: Block) -> float:
        """The time in which the training thread waited for a batch to be finished."""
        wait = block.phases.get("data_wait", 0.0)
        return self.starving * max(0.0, wait - block.wait_cpu - block.wait_run_delay)

    def _receive(self, block: Block) -> float:
        """The time that taking finished batches takes with a core to itself."""
        wait = block.phases.get("data_wait", 0.0)
        return max(0.0, min(wait, wait - block.wait_run_delay - self.starved(block)))

    def _starving_part(self) -> float:
        """Part of the sleeping in `next()` that waits for a batch to be finished.

        The rest is the taking of one: its worker is asked through a socket for the memory, and
        answers from another thread - unless its interpreter is busy making the next batch.
        """
        sleeps = [s for s in self.profile.sites if s.phase == "data_wait" and s.state != "running"]
        looks = sum(site.samples for site in sleeps)
        if looks < _MIN_LOOKS or self.fetch is None or not self.workers:
            return 1.0
        taking = sum(site.samples for site in sleeps if site.state == "socket") / looks
        there = self.whole.wall - self.whole.phases.get("worker_startup", 0.0)
        busy = self.fetch.elapsed * self.whole.steps / max(1e-12, self.workers * there)
        return 1.0 - taking * (1.0 - min(1.0, busy))

    # Stages -------------------------------------------------------------------------------------

    def stages(self, block: Block) -> Stages:
        """The stages of the pipeline, without the course of steps, calibrated to the block."""
        return _calibrated(self._contended(block), block.wall / block.steps)

    def shaped(self, steps: Steps) -> Stages:
        """The stages of the whole, with the course of steps and batches."""
        stages = replace(
            self._contended(self.whole),
            main_shapes=main_shapes(steps, self.trainer),
            fetch_shape=fetch_shape(self.loader) if self.loader else (1.0,),
        )
        step = self.whole.wall / self.whole.steps
        if self.starved(self.whole) > _CLOSE * self.whole.wall:
            stages = _stretched(stages, step)
        return _calibrated(stages, step)

    def _width(self, block: Block) -> float:
        """Threads that run while the training thread does; more of them only spin."""
        threads = float(max(1, self.threads))
        return min(max(1.0, block.process_cpu / max(1e-12, block.cpu)), threads)

    def _contended(self, block: Block) -> Stages:
        return replace(
            self._uncalibrated(block),
            contention_main=self.main_contention,
            contention_fetch=self.fetch_contention,
        )

    def _uncalibrated(self, block: Block) -> Stages:
        n = block.steps
        work = self.work(block)
        kept = 1 - work.lost / work.running
        main = {
            cause: (work.blocked.get(cause, 0.0) + kept * (s - work.blocked.get(cause, 0.0))) / n
            for cause, s in work.causes.items()
        }
        fetch = self.fetch or Fetch({}, {}, 0.0, 0.0)
        loader = self.loader
        return Stages(
            resuming=0.0 if on_device(self.profile) else RESUMING,
            workers=self.workers,
            cores=self.cores,
            main=main,
            main_blocked={cause: s / n for cause, s in work.blocked.items()},
            fetch_cpu=fetch.cpu,
            fetch_blocked=fetch.blocked,
            helpers=fetch.helpers,
            awake=sum(fetch.cpu.values()) / max(1e-12, sum(fetch.wall.values())),
            packing=fetch.packing,
            crowding=self.crowding,
            receive=self._receive(block) / n if self.workers else 0.0,
            width=self._width(block),
            prefetch=(loader.prefetch_factor if loader else None) or 2,
            in_order=loader is None or loader.in_order is not False,
            serial_share=_serial_share(self.profile, self.workers),
            threads=self.threads,
            batch_growth=batch_growth(self.profile),
        )


def foreign_cores(profile: Profile) -> float | None:
    """Cores' worth of time that other programs used meanwhile; None if not sampled."""
    others = others_cores(profile.samples)
    steal = profile.samples.columns.get("steal_cores", [None] * len(others))
    return mean_of(
        None if cores is None else cores + (stolen or 0.0)
        for cores, stolen in zip(others, steal, strict=False)
    )


def _serial_share(profile: Profile, workers: int) -> float:
    """The serial part of a fetch over its time together with the others, of which it is longer."""
    serial = serial_fraction(profile) or 0.0
    return serial / (1 + max(0, workers - 1) * serial)


def _stretched(stages: Stages, measured: float) -> Stages:
    """`stages` with slower fetches, as far as the trainer waited longer than the model says.

    The training thread's own work is measured as it is; so batches came more slowly than their
    making explains.
    """
    missing = measured - stages.seconds()
    if not stages.workers or stages.service <= 0 or missing < _CLOSE * measured:
        return stages
    if stages.main.get(STARTUP, 0.0) > _CLOSE * measured:
        # New workers begin with an empty queue: until it is full again they are waited for.
        return replace(stages, main={**stages.main, STARTUP: stages.main[STARTUP] + missing})
    low, high = 1.0, _MOST_STRETCHED
    for _ in range(12):
        middle = (low + high) / 2
        slower = stages.slower_fetch(middle).seconds() < measured
        low, high = (middle, high) if slower else (low, middle)
    return stages.slower_fetch(low)


def _calibrated(stages: Stages, measured: float) -> Stages:
    return replace(stages, factor=measured / max(1e-12, stages.seconds()))


def _fetch_of_iterator(profile: Profile, block: Block, other_threads: float) -> Fetch | None:
    """An iterator we cannot look into: its processor time prepares, the rest waits for others.

    If those others are threads or processes of this program, they prepare too.
    """
    wait = block.phases.get("data_wait", 0.0) / block.steps
    if wait <= 0:
        return None
    cpu = min(wait, block.wait_cpu / block.steps)
    starved = min(wait - cpu, block.wait_run_delay / block.steps)
    blocked = wait - cpu - starved
    looks = [site for site in profile.sites if site.phase == "data_wait"]
    seen = {state: _samples(looks, state) for state in ("awaiting", "receiving", "running")}
    receiving = seen["receiving"] / max(1, seen["receiving"] + seen["running"])
    working = {HANDOVER: receiving * cpu, TRANSFORM: (1 - receiving) * cpu}
    if seen["awaiting"] >= _MIN_LOOKS:
        waits = {cause: part * blocked for cause, part in makers(profile).items()}
    else:
        threads = min(blocked, other_threads * block.wall / block.steps)
        waits = {TRANSFORM: threads, NETWORK: blocked - threads}
    return Fetch(working, waits, starved, 0.0)


def _samples(sites: list[Site], state: str) -> int:
    return sum(site.samples for site in sites if site.state == state)


def _blocked_causes(causes: dict[str, float], blocked: float) -> dict[str, float]:
    """Who waited for something else than a core: the host's work first, computing last."""
    waits: dict[str, float] = {}
    first = {cause: s for cause, s in causes.items() if cause not in COMPUTE}
    for group in (first, {cause: causes.get(cause, 0.0) for cause in COMPUTE}):
        total = sum(group.values())
        part = min(1.0, blocked / total) if total > 0 else 0.0
        waits |= {cause: part * s for cause, s in group.items() if part * s > 0}
        blocked -= part * total
    return waits
