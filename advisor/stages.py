"""The pipeline as a set of stages, each with its service time: measured once, changed at will.

Times are what each part needs while it has a core to itself; the slowdown by others who want the
same cores is modelled apart (:mod:`stepscope.advisor.contention`), since it changes with
every change of the pipeline. With B the training thread's own work per step, s one worker's time
for the batches of a step, r the cost of taking them, D the processor time of all and C the cores:

    W = 0:  T = P + B + s      W > 0:  T = max(P + replay(B, s, W, prefetch, r), s_serial, D / C)

where the replay (:mod:`stepscope.advisor.replay`) is max(B + r, s / W) as long as all steps and
batches are alike, s_serial is the part that only one worker at a time can have from storage, and
P the starting of workers, during which no queue fills.
Removing a cause takes its time out of its own stage; all other terms stay.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from math import isfinite
from typing import NamedTuple

from stepscope.advisor.contention import Contention, Threads, slowdown
from stepscope.advisor.replay import Queue, step_seconds

RECEIVE_SECONDS = 0.5e-3
"""Cost of taking a batch from a worker where no worker was there to measure it: unpickling and
mapping took 0.5 to 0.8 ms of the main thread on the machine the model was fitted on."""
STARVATION = "cpu_preprocessing.core_starvation"
HANDOVER = "cpu_preprocessing.handover"
STARTUP = "data_loading.worker_startup"
_COMPUTING = ("compute.", "memory.bandwidth")
_AS_MODELLED = Contention()
WAKING = 0.75
"""Part of a waiting worker's need for cores that goes when its waits go: every wait ends with a
thread that wants a core at once, and takes it from one that computes in step with others."""
RESUMING, _RESUMING_PART = 0.2, 0.5
"""After a stretch of host code the first operators are slow: caches are cold, the other threads
asleep. Fitted: this part of the computing goes with the host's work, and so much per second of it
at most."""
_ROUNDS = 6
"""Slowdowns and step time depend on each other; so often they are made to agree."""

Seconds = dict[str, float]


class Slowdowns(NamedTuple):
    """Factors by which processor work takes longer than alone."""

    main: float
    fetch: float


class Crowd(NamedTuple):
    """Runnable threads of the job, on average; or, before `per`, the time they take in a step."""

    training: float
    fetching: float
    helping: float
    """Of those that work for a fetcher."""

    def per(self, step: float) -> Crowd:
        """Threads from times in a step that takes so long."""
        return Crowd(self.training / step, self.fetching / step, self.helping / step)


@dataclass(frozen=True)
class Stages:
    """Seconds per training step, by cause, of every stage."""

    workers: int
    cores: float
    main: Seconds
    """Wall time of the training thread with its cores to itself, without waiting for data."""
    fetch_cpu: Seconds
    """Processor time of the thread that makes the batches of a step."""
    fetch_blocked: Seconds
    """Time for which that thread waits for anything but a core."""
    receive: float = 0.0
    main_blocked: Seconds = field(default_factory=dict)
    """The part of `main` in which the training thread uses no processor."""
    width: float = 1.0
    """Threads of the training process that run while the training thread runs."""
    helpers: float = 0.0
    """Processor time of a fetcher's other threads and children."""
    awake: float = 1.0
    """Part of the fetches' time that needs a core, where that was measured."""
    packing: float = 0.0
    """Time in which another thread of a worker packs the batches of a step."""
    crowding: Seconds = field(default_factory=dict)
    """Parts of the contention with others that go with a cause (workers that are starting, other
    threads of the program); the rest is foreign programs'."""
    prefetch: int = 2
    in_order: bool = True
    serial_share: float = 0.0
    """Part of `fetch_blocked` that only one worker at a time can have, where that was tried."""
    contention_main: Contention = _AS_MODELLED
    contention_fetch: Contention = _AS_MODELLED
    main_shapes: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """How a cause's time spreads over consecutive steps, mean 1; the others are the same in all."""
    fetch_shape: tuple[float, ...] = (1.0,)
    """How the time of batches varies, mean 1."""
    threads: int = 1
    """Threads one operator may use."""
    stretch: float = 1.0
    """How much longer batches took than their making explains; `fetch_blocked` has it."""
    resuming: float = RESUMING
    """Part of the computing that goes with the host's work; none of what a device computes."""
    batch_growth: float | None = None
    """Time that as many samples again add to the model, over its present time, where tried."""
    factor: float = 1.0
    """Measured over modelled step time, so that the model is exact where it was measured."""

    @property
    def busy(self) -> float:
        """B: the training thread's own work per step."""
        return sum(self.main.values())

    @property
    def service(self) -> float:
        """s: one worker's time per step."""
        return sum(self.fetch_cpu.values()) + sum(self.fetch_blocked.values())

    @property
    def demand(self) -> float:
        """D: processor time of the whole job per step."""
        return self.width * self._main_cpu + sum(self.fetch_cpu.values()) + self.helpers

    def cause_seconds(self) -> Seconds:
        """Time per step by cause, of all stages together."""
        total: Seconds = {}
        for stage in (self.main, self.fetch_cpu, self.fetch_blocked):
            for cause, seconds in stage.items():
                total[cause] = total.get(cause, 0.0) + seconds
        total[HANDOVER] = total.get(HANDOVER, 0.0) + self.receive + self.packing
        starved = (self.slowdowns.main - 1) * self._main_cpu
        total[STARVATION] = total.get(STARVATION, 0.0) + starved
        return {cause: seconds for cause, seconds in total.items() if seconds > 0}

    def seconds(self) -> float:
        """Predicted wall time of a step."""
        return self._seconds

    @cached_property
    def _seconds(self) -> float:
        slow = self.slowdowns
        busy = self._busy_steps(slow.main)
        cpu, blocked = sum(self.fetch_cpu.values()), sum(self.fetch_blocked.values())
        # A thread that was asleep has to get a core first: waiting is stretched like working.
        service = max(self.service, self.packing) * slow.fetch
        startup = self.main.get(STARTUP, 0.0)
        if self.workers == 0:
            return self.factor * (startup + sum(busy) / len(busy) + service)
        queue = Queue(self.workers, self.prefetch, self.in_order, self.receive * slow.main)
        pipeline = step_seconds(busy, [service * k for k in self.fetch_shape], queue)
        # The trainer's further threads may be spinning: only what surely has to run bounds.
        least = (self._main_cpu + cpu + self.helpers) / self.cores
        return self.factor * max(startup + pipeline, self.serial_share * blocked, least)

    @cached_property
    def slowdowns(self) -> Slowdowns:
        """How much longer processor work takes for want of cores."""
        cpu = sum(self.fetch_cpu.values())
        main_cpu, main = self._main_cpu, self.busy
        slow = Slowdowns(1.0 + self.contention_main.fixed, 1.0 + self.contention_fetch.fixed)
        if self.workers == 0 or cpu + self.helpers <= 0:
            return slow
        for _ in range(_ROUNDS):
            busy = main + (slow.main - 1) * main_cpu
            service = self.service * slow.fetch
            step = max(busy + self.receive * slow.main, service / self.workers, 1e-12)
            running = (main_cpu + self.receive) * slow.main
            fetching = (1 - WAKING) * cpu + WAKING * self.awake * self.service
            crowd = Crowd(running, fetching * slow.fetch, self.helpers * slow.fetch).per(step)
            own = self.own_slowdowns(crowd)
            new = Slowdowns(
                self.contention_main.slowdown(own.main), self.contention_fetch.slowdown(own.fetch)
            )
            slow = Slowdowns((slow.main + new.main) / 2, (slow.fetch + new.fetch) / 2)
        return slow

    def own_slowdowns(self, crowd: Crowd, foreign: float = 0.0) -> Slowdowns:
        """Slowdowns by the job's own threads and `foreign` others, as modelled.

        Args:
            crowd: how many of the job's threads are runnable on average.
            foreign: how many of others.
        """
        workers = max(1, self.workers)
        fetching, helping = crowd.fetching / workers, crowd.helping / workers
        # Without workers the trainer fetches itself: neither is company for the other.
        trainer = Threads(min(1, self.workers), crowd.training, self.width)
        helpers = Threads(self.workers, min(1.0, helping), max(1.0, helping))
        others = Threads(max(0, self.workers - 1), fetching)
        return Slowdowns(
            slowdown(self.width, [Threads(self.workers, fetching), helpers], self.cores, foreign),
            slowdown(1.0, [trainer, others, helpers], self.cores, foreign),
        )

    @property
    def _main_cpu(self) -> float:
        return max(0.0, self.busy - sum(self.main_blocked.values()))

    def _busy_steps(self, slow: float) -> list[float]:
        """The training thread's work in consecutive steps, starting workers left out."""
        even = 0.0
        steps = [0.0]
        for cause, seconds in self.main.items():
            if cause == STARTUP:
                continue
            blocked = self.main_blocked.get(cause, 0.0)
            spent = blocked + (seconds - blocked) * slow
            shape = self.main_shapes.get(cause)
            if shape is None:
                even += spent
            elif len(steps) == 1:
                steps = [spent * k for k in shape]
            else:
                steps = [s + spent * k for s, k in zip(steps, shape, strict=True)]
        return [even + s for s in steps]

    # Changes ----------------------------------------------------------------------------------

    def scaled(self, cause: str, k: float) -> Stages:
        """These stages with the time of `cause` multiplied by `k`, wherever it occurs."""
        if cause == STARVATION:  # what goes with another cause stays with it
            return self._crowded_by_others(1 - (1 - k) * (1 - sum(self.crowding.values())))
        own = self.fetch_cpu.get(cause, 0.0) + self.fetch_blocked.get(cause, 0.0)
        own += self.packing if cause == HANDOVER else 0.0
        whole = self.service + self.packing
        kept = 1 - (1 - k) * self.crowding.get(cause, 0.0)
        return replace(
            self._crowded_by_others(kept),
            main=_scaled(self._resumed(cause, k), cause, k),
            main_blocked=_scaled(self.main_blocked, cause, k),
            fetch_cpu=_scaled(self.fetch_cpu, cause, k),
            fetch_blocked=_scaled(self.fetch_blocked, cause, k),
            # Helper threads work for what the fetch is about.
            helpers=self.helpers * (1 - (1 - k) * own / whole) if own else self.helpers,
            receive=self.receive * (k if cause == HANDOVER else 1.0),
            packing=self.packing * (k if cause == HANDOVER else 1.0),
        )

    def _resumed(self, cause: str, k: float) -> Seconds:
        """The training thread's work, with less of it to pick up again after the host's."""
        compute = {c: s for c, s in self.main.items() if c.startswith(_COMPUTING)}
        total = sum(compute.values())
        if total <= 0 or not cause.startswith("host."):
            return self.main
        saved = min(self.resuming * total, _RESUMING_PART * self.main.get(cause, 0.0)) * (1 - k)
        return _added(self.main, {c: -saved * s / total for c, s in compute.items()})

    def _crowded_by_others(self, k: float) -> Stages:
        return replace(
            self,
            contention_main=self.contention_main.eased(k),
            contention_fetch=self.contention_fetch.eased(k),
        )

    def undisturbed(self) -> Stages:
        """These stages without anybody beside the job's own trainer and workers."""
        return self._crowded_by_others(0.0)

    def without(self, *causes: str) -> Stages:
        """These stages with `causes` gone.

        Where handing over a batch costs more than making it, it is also gone without workers.
        """
        stages = self
        for cause in causes:
            stages = stages.scaled(cause, 0.0)
        handing = self.receive + self.packing
        if HANDOVER in causes and self.workers and handing > self.service / self.stretch:
            alone = stages.with_workers(0)  # which would be no fair comparison without start-up
            alone = replace(alone, main={**alone.main, STARTUP: stages.main.get(STARTUP, 0.0)})
            stages = min(stages, alone, key=Stages.seconds)
        return stages

    def slower_fetch(self, k: float) -> Stages:
        """These stages with everything in the making of a batch `k` times as long.

        Processor time is measured as it is used: what comes on top is waiting.
        """
        fetch = _added(self.fetch_cpu, self.fetch_blocked)
        more = {cause: (k - 1) * seconds for cause, seconds in fetch.items()}
        return replace(
            self, fetch_blocked=_added(self.fetch_blocked, more), stretch=k * self.stretch
        )

    def with_workers(self, workers: int) -> Stages:
        """These stages with another number of workers."""
        if workers > 0 and self.workers == 0:
            # Handing over costs both sides; without workers nobody has measured it.
            return replace(
                self,
                workers=workers,
                receive=max(self.receive, RECEIVE_SECONDS),
                fetch_cpu=_added(self.fetch_cpu, {HANDOVER: RECEIVE_SECONDS}),
            )
        if workers == 0 and self.workers > 0:
            # Nothing is handed over, and what came late on the way does so no more.
            without = self.scaled(HANDOVER, 0.0).scaled(STARTUP, 0.0)
            making = _added(without.fetch_cpu, without.fetch_blocked)
            late = {cause: (1 / self.stretch - 1) * s for cause, s in making.items()}
            return replace(
                without,
                workers=0,
                receive=0.0,
                fetch_blocked=_added(without.fetch_blocked, late),
                stretch=1.0,
            )
        return replace(self, workers=workers)

    def with_prefetch(self, batches: int) -> Stages:
        """These stages with so many batches outstanding per worker."""
        return replace(self, prefetch=batches)

    def with_any_order(self) -> Stages:
        """These stages with batches taken as they are finished."""
        return replace(self, in_order=False)

    def with_batch(self, k: float) -> Stages:
        """These stages with `k` times as many samples per step.

        Making and computing grow with the samples; dispatching operators, the optimizer and the
        host's own work are per step, whatever its size. Where a larger batch was tried, all of the
        model, its dispatching too, grows as it did then.
        """
        grown = 1 + (k - 1) * (1.0 if self.batch_growth is None else self.batch_growth)
        model = ["compute.arithmetic", "memory.bandwidth"]
        if self.batch_growth is not None:
            model.append("compute.launch")
        stages = self
        for cause in {*self.main, *self.fetch_cpu, *self.fetch_blocked}:
            if cause in model:
                stages = stages.scaled(cause, max(0.0, grown))
            elif cause.startswith(("data_loading.", "cpu_preprocessing.")) and cause != STARTUP:
                stages = stages.scaled(cause, k)
        return replace(stages, receive=self.receive * k)

    def best_workers(self) -> int:
        """The smallest number of workers within 3 % of the best that the model predicts.

        Up to four per usable core are considered: workers that wait for storage need no core.
        """
        return self._best_workers

    @cached_property
    def _best_workers(self) -> int:
        most = max(8, int(4 * self.cores) if isfinite(self.cores) else 0)
        candidates: list[int] = sorted({*range(min(_EACH, most) + 1), *_sparse(most)})
        seconds = {workers: self.with_workers(workers).seconds() for workers in candidates}
        best = min(seconds.values())
        return next(w for w in candidates if seconds[w] <= 1.03 * best)


_EACH, _SPARSE = 16, 1.1
"""So many workers are tried one by one; of more, each number a tenth larger than the last."""


def _sparse(most: int) -> set[int]:
    numbers, number = {most}, float(_EACH)
    while number < most:
        numbers.add(int(number))
        number *= _SPARSE
    return numbers


def _scaled(stage: Seconds, cause: str, k: float) -> Seconds:
    if cause not in stage:
        return stage
    return {name: value * k if name == cause else value for name, value in stage.items()}


def _added(stage: Seconds, more: Seconds) -> Seconds:
    return {name: stage.get(name, 0.0) + more.get(name, 0.0) for name in {**stage, **more}}
