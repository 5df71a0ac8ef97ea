"""The pipeline as a set of stages, each with its service time: measured once, changed at will.

The model (capacity of a pipeline of workers W on C cores, per step):

    W = 0:  T = max(P + B + s, D / C)      W > 0:  T = max(P + max(B + r, s / W), D / C)

B is what the training thread does besides waiting for data, s what one worker needs for the
batches of a step, r what receiving them costs the training thread, D the processor time that the
whole job needs, and P the pauses: rare long stops (starting workers, a validation pass) that
outlast what the prefetch queue can hide. Removing a cause takes its time out of its own stage;
all other terms stay.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

RECEIVE_SECONDS = 0.5e-3
"""Cost of taking a batch from a worker where no worker was there to measure it: unpickling and
mapping took 0.5 to 0.8 ms of the main thread on the machine the model was fitted on."""


@dataclass(frozen=True)
class Stages:
    """Seconds per training step, by cause, of every stage."""

    workers: int
    cores: float
    main: dict[str, float]
    """Wall time of the training thread, waiting for data and stolen cores left out."""
    pauses: dict[str, float]
    """Wall time of the training thread in rare long stops, beyond what prefetching can hide."""
    fetch: dict[str, float]
    """Wall time that one worker (or, without workers, the main thread) needs for the batches."""
    receive: float
    cpu_main: dict[str, float]
    """Processor time of all threads of the training process."""
    cpu_fetch: dict[str, float]
    """Processor time of fetching."""
    threads: int = 1
    """Threads one operator may use."""
    factor: float = field(default=1.0)
    """Measured over modelled step time, so that the model is exact where it was measured."""

    @property
    def busy(self) -> float:
        """B: the training thread's own work per step."""
        return sum(self.main.values())

    @property
    def service(self) -> float:
        """s: one worker's time per step."""
        return sum(self.fetch.values())

    @property
    def demand(self) -> float:
        """D: processor time of the whole job per step."""
        return sum(self.cpu_main.values()) + sum(self.cpu_fetch.values())

    def seconds(self) -> float:
        """Predicted wall time of a step."""
        if self.workers == 0:
            pipeline = self.busy + self.service
        else:
            pipeline = max(self.busy + self.receive, self.service / self.workers)
        paused = sum(self.pauses.values())
        return self.factor * max(paused + pipeline, self.demand / self.cores)

    def scaled(self, cause: str, k: float) -> Stages:
        """These stages with the time of `cause` multiplied by `k`, wherever it occurs."""
        return replace(
            self,
            main=_scaled(self.main, cause, k),
            pauses=_scaled(self.pauses, cause, k),
            fetch=_scaled(self.fetch, cause, k),
            cpu_main=_scaled(self.cpu_main, cause, k),
            cpu_fetch=_scaled(self.cpu_fetch, cause, k),
            receive=self.receive * (k if cause == "cpu_preprocessing.handover" else 1.0),
        )

    def without(self, *causes: str) -> Stages:
        """These stages with `causes` gone."""
        stages = self
        for cause in causes:
            stages = stages.scaled(cause, 0.0)
        return stages

    def with_workers(self, workers: int) -> Stages:
        """These stages with another number of workers."""
        if workers > 0 and self.workers == 0:
            # Handing over costs both sides; without workers nobody has measured it.
            handover = {"cpu_preprocessing.handover": RECEIVE_SECONDS}
            return replace(
                self,
                workers=workers,
                receive=max(self.receive, RECEIVE_SECONDS),
                cpu_fetch=_added(self.cpu_fetch, handover),
                fetch=_added(self.fetch, handover),
            )
        receive = self.receive if workers > 0 else 0.0
        return replace(self, workers=workers, receive=receive)

    def best_workers(self) -> int:
        """The smallest number of workers within 3 % of the best that the model predicts.

        Up to four per usable core are considered: workers that wait for storage need no core.
        """
        candidates = range(max(8, int(4 * self.cores)) + 1)
        seconds = {workers: self.with_workers(workers).seconds() for workers in candidates}
        best = min(seconds.values())
        return next(w for w in candidates if seconds[w] <= 1.03 * best)


def _scaled(stage: dict[str, float], cause: str, k: float) -> dict[str, float]:
    return {name: value * k if name == cause else value for name, value in stage.items()}


def _added(stage: dict[str, float], more: dict[str, float]) -> dict[str, float]:
    return {name: stage.get(name, 0.0) + more.get(name, 0.0) for name in {**stage, **more}}
