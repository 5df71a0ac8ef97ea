"""One recording, from entering the context to leaving it: what is watched, and the file of it."""

from __future__ import annotations

import datetime
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch

from stepscope.profiler import machine, storage
from stepscope.profiler.anchors import Anchor
from stepscope.profiler.between import BetweenBatches
from stepscope.profiler.collectives import collectives
from stepscope.profiler.companions import Companions
from stepscope.profiler.device.recorder import DeviceRecorder
from stepscope.profiler.file_access import note_file_access
from stepscope.profiler.flight import flight_recorder
from stepscope.profiler.format import (
    SCHEMA,
    Calibration,
    Device,
    FlightRecorder,
    Overhead,
    Profile,
    Run,
)
from stepscope.profiler.gathering import Gathering
from stepscope.profiler.loaders import RingFolder
from stepscope.profiler.metrics import Metrics
from stepscope.profiler.observed import Observed
from stepscope.profiler.patches import Patches
from stepscope.profiler.probes import install_all
from stepscope.profiler.probing import Probing
from stepscope.profiler.ranks import RankedFile
from stepscope.profiler.recorder import Recorder
from stepscope.profiler.sampler import Sampler
from stepscope.profiler.sites import merged
from stepscope.profiler.stacks import StackSampler
from stepscope.profiler.version import version
from stepscope.profiler.window import OperatorWindow

Batch = TypeVar("Batch")
_STEPS_BEFORE_WINDOW = 10
_FIRST_COPY_SECONDS, _COPY_SECONDS = 2.0, 10.0
_NO_STEP = (
    "no step was recorded: iterate over `prof.steps(loader)` or call `prof.step()`; no two "
    "optimizer steps, backward passes or DataLoader batches were seen on this thread"
)


class Recording:
    """Everything that watches one loop; to be made in the training thread.

    Args:
        file: what to write.
        warmup_steps: leading steps to keep apart.
        operator_steps: steps to record with torch.profiler.
        rest: called where the recording may be ended: outside of all hooks.
    """

    def __init__(
        self, file: RankedFile, warmup_steps: int, operator_steps: int, rest: Callable[[], None]
    ) -> None:
        began = time.perf_counter_ns()
        self.process = os.getpid()
        file.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = file
        self._written: Path | None = None
        self._started_at = datetime.datetime.now(datetime.timezone.utc)
        self._rings = RingFolder()
        self.recorder = self._recorder(warmup_steps)
        self.observed = Observed(self._rings.path, self.recorder.started_ns)
        self.metrics = Metrics(self.recorder.started_ns)
        self.anchor = Anchor(self.recorder, self._guarded, rest)
        self._patches = Patches()
        self._calibration: Calibration | None = None
        self._ddp = collectives([])
        self._flight: FlightRecorder | None = None
        self._next_copy_ns = began + int(_FIRST_COPY_SECONDS * 1e9)
        self._drain_lock = threading.Lock()
        self._probing: Probing | None = None
        self.gathering = Gathering(file)
        try:
            install_all(self.recorder, self._patches, self.observed)
            self.anchor.install(self._patches)
            self._window = OperatorWindow(
                self.recorder, _STEPS_BEFORE_WINDOW, operator_steps, self.observed.problem
            )
            self._sampler = Sampler(self.recorder.started_ns, self._tick, self.observed.problem)
            self._environment = machine.environment(self._sampler.gpus())
            if no_sensors := self._sampler.missing_sensors():
                self.observed.problem(no_sensors)
            self._sampler.start()
            self._companions = Companions(self.recorder.thread)
            self._stacks = StackSampler(
                self.recorder.steady_phase,
                self.recorder.thread,
                threading.get_native_id(),
                each_tick=self._companions.look,
                step=lambda: self.recorder.step_index,
            )
            self._stacks.start()
        except BaseException:
            self.gathering.abandon()
            self.recorder.close()
            self._patches.close()
            self._rings.remove()
            raise
        self.gathering.watch(self.recorder)
        self._setup_ns = time.perf_counter_ns() - began
        self.recorder.restart_step()

    def _recorder(self, warmup_steps: int) -> Recorder:
        if torch.cuda.is_available():
            return DeviceRecorder(warmup_steps, self._note)
        return Recorder(warmup_steps)

    def _note(self, problem: str) -> None:
        self.observed.problem(problem)

    def add_probe(self, after: int) -> None:
        """Try each half of the loop alone after so many steady steps."""
        self._probing = Probing(self.recorder, self.observed, after, self._drain)
        self.anchor.between = BetweenBatches(self._probing)

    def watch(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """`batches` as the loop is to get them."""
        self.anchor.between = None  # the loop says itself where a step ends
        return self._probing.watch(batches) if self._probing is not None else batches

    def see(self, batch: object) -> None:
        """Note what a batch looks like."""
        with suppress(Exception):
            self.observed.batch(batch)

    def end_step(self) -> None:
        """Close a step."""
        self._guarded(self.recorder.end_step)

    def _guarded(self, action: Callable[[], None]) -> None:
        """An error in our own bookkeeping ends the recording, not the loop."""
        recorder = self.recorder
        if recorder.active:
            try:
                action()
            except Exception as error:
                recorder.close()
                self.observed.problem(f"recording stopped at {recorder.step_index}: {error!r}")

    def _tick(self) -> None:
        self._drain()
        if self.recorder.steady:
            with suppress(Exception):
                self.observed.connections.begin(self.recorder.step_index)
        if self.recorder.step_index and time.perf_counter_ns() >= self._next_copy_ns:
            with suppress(Exception):
                self.observed.connections.look(self.recorder.step_index)
            self._save("running")
            self._next_copy_ns = time.perf_counter_ns() + int(_COPY_SECONDS * 1e9)

    def _drain(self) -> None:
        with self._drain_lock:
            self._rings.drain(self.observed.loaders)

    def _save(self, ended: Any, exception: str | None = None) -> None:
        path = self._file.path
        storage.save(self._profile(ended, exception), path)
        if self._written is not None and self._written != path:  # the rank became known meanwhile
            self._written.unlink(missing_ok=True)
        self._written = path

    def stop(self) -> None:
        """Restore everything and read what is left."""
        if self._probing is not None:
            self._probing.close()
        with suppress(Exception):
            self._ddp = collectives(list(self.observed.distributed))
        with suppress(Exception):
            self.observed.connections.look(self.recorder.step_index)
        with suppress(Exception):
            self._flight = flight_recorder(int(self._started_at.timestamp() * 1e9))
        self.recorder.close()
        self._window.close()
        self._patches.close()
        if self.anchor.between is not None:
            self.anchor.between.close()
        self._stacks.stop()
        self._sampler.stop()
        self._drain()
        self._rings.remove()

    def discard(self) -> None:
        """Stop without a file."""
        self.gathering.abandon()
        self.stop()

    def finish(self, exception: str | None) -> None:
        """Stop, write the file, and see to it that rank 0 has those of all ranks."""
        self.stop()
        self.gathering.join()
        if self.recorder.step_index == 0:
            self.observed.problem(_NO_STEP)
            say(_NO_STEP)
        with suppress(Exception):
            self._calibration = machine.calibrate()
        self._save("exception" if exception else "completed", exception)
        self.gathering.finish()

    def _device(self) -> Device | None:
        if not isinstance(self.recorder, DeviceRecorder):
            return None
        return self.recorder.device(self.observed.copies.as_list())

    def _profile(self, ended: Any, exception: str | None = None) -> Profile:
        rank, world = self._file.rank
        environment = self._environment
        environment.calibration = self._calibration
        seen = self._stacks.sites() + self._companions.sites()
        with suppress(Exception):
            note_file_access(seen)
        return Profile(
            schema=SCHEMA,
            tool_version=version(),
            run=Run(
                started_at=self._started_at.isoformat(timespec="seconds"),
                wall_ns=time.perf_counter_ns() - self.recorder.started_ns,
                ended=ended,
                exception=exception,
                argv=machine.command_line(),
                rank=rank,
                world_size=world,
                job=self.gathering.job,
                steps_by=self.anchor.kind or "steps",
            ),
            environment=environment,
            configuration=machine.configuration(self.observed),
            warmup=self.recorder.steps("warmup"),
            steady=self.recorder.steps("steady"),
            step_time=self.recorder.step_time(),
            loaders=[log.result() for log in self.observed.loaders],
            samples=self._sampler.samples(),
            window=self._window.result,
            device=self._device(),
            sites=merged(seen, self.recorder.sites.as_list(list(self.recorder.phases))),
            stack_samples=self._stacks.samples,
            collectives=self._ddp,
            collective_calls=self.observed.messages.as_list(self.recorder.steady_steps),
            meetings=self.observed.meetings.result(machine.identity()),
            connections=self.observed.connections.as_list(),
            flight_recorder=self._flight,
            ceilings=self._probing.result if self._probing is not None else None,
            compilation=self.observed.compiled.result() if self.observed.compiled else None,
            marks=list(self.recorder.marks),
            metrics=self.metrics.result(final=ended != "running"),
            overhead=Overhead(
                setup_ns=self._setup_ns,
                window_ns=self._window.own_ns,
                background_cpu_ns=self._sampler.cpu_ns + self._stacks.cpu_ns,
            ),
            problems=list(self.observed.problems),
        )


def say(message: str) -> None:
    """Tell the user on standard error."""
    with suppress(Exception):  # a daemon may have closed it, or have none
        sys.stderr.write(f"stepscope: {message}\n")
