"""The public face: `with profile("profile.json") as prof:` around a training loop."""

from __future__ import annotations

import datetime
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

try:
    import torch  # before the imports below, whose message would be another
except ImportError as missing:
    raise ImportError(
        "stepscope needs PyTorch to record a profile: pip install 'stepscope[torch]'"
    ) from missing

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
from stepscope.profiler.loaders import RingFolder
from stepscope.profiler.metrics import Metrics
from stepscope.profiler.observed import Observed
from stepscope.profiler.patches import Patches
from stepscope.profiler.probes import install_all
from stepscope.profiler.probing import AFTER_STEPS, Probing
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
_MAX_PHASES = 64
_NO_STEP = (
    "no step was recorded: iterate over `prof.steps(loader)` or call `prof.step()`; no two "
    "optimizer steps, backward passes or DataLoader batches were seen on this thread"
)
_open_profile: list[profile] = []


class profile:  # used like a function: `with profile(...)`
    """Record what a training loop spends its time on, and write it to `path`.

    Use it as a context manager around the loop, and pass the loader through `steps`::

        with profile("profile.json") as prof:
            for images, labels in prof.steps(loader):
                ...

    Without `steps` or `step`, steps are found by themselves: a step ends where the optimizer's
    `step` returns, or without optimizer a backward pass, or where the next batch is waited for.

    Nothing that goes wrong in here reaches the loop: it is said on standard error, and the loop
    runs on unprofiled.

    Args:
        path: the file to write; under `torchrun`, the rank is put before the suffix.
        enabled: False makes the whole context do nothing.
        warmup_steps: leading steps kept apart from the steady state; with loader workers at
            least as many as batches are prefetched, for those were made before anyone waited.
        operator_steps: steps to record with torch.profiler for the operator table; 0 for none.
        max_steps: write the file after so many steps beyond warm-up and let the loop go on
            unprofiled; None records to the end of the context.
        probe: after about 40 steady steps, try each half of the loop alone, once: the body runs
            ten more times on a copy of one batch, then the loader runs ahead of it. Needs a
            DataLoader; without `steps` only where the loop is done with a batch when it asks for
            the next one. Models,
            optimizers, schedulers, gradient scalers and random states are put back bit for bit;
            what else the body does in these iterations remains: it counts them, logs them, writes
            checkpoints of them, updates averages that are no module's. `trying` tells them apart.
            Takes as much memory again as parameters, gradients and optimizer state.

    Raises:
        ImportError: PyTorch is not installed (on import of this class).
        TypeError: `path` is no path, as in a forgotten `profile(...)` call.
    """

    give_way: Callable[[profile], None] | None = None
    """Set on a recording that the program did not ask for: called when it opens one itself."""

    def __init__(
        self,
        path: str | os.PathLike[str] = "profile.json",
        *,
        enabled: bool = True,
        warmup_steps: int = 10,
        operator_steps: int = 4,
        max_steps: int | None = None,
        probe: bool = False,
    ) -> None:
        self._file = RankedFile(Path(path))
        self._enabled = enabled
        self._warmup_steps = warmup_steps
        self._operator_steps = operator_steps
        self._max_steps = max_steps
        self._probe = probe
        self._recording: _Recording | None = None

    @property
    def path(self) -> Path:
        """The file to write, with the rank before the suffix as soon as there are several."""
        return self._file.path

    def __enter__(self) -> profile:
        """Begin to record; one recording at a time, an inner one does nothing."""
        if self._enabled and _open_profile and _open_profile[0].give_way is not None:
            _open_profile[0].give_way(self)
        if self._enabled and _open_profile:
            _say(f"{_open_profile[0].path} is being recorded; {self.path} inside it is not")
        elif self._enabled:
            try:
                self._recording = _Recording(
                    self._file, self._warmup_steps, self._operator_steps, self._end_if_full
                )
                if self._probe:  # before the recording is full
                    last = AFTER_STEPS if self._max_steps is None else self._max_steps - 1
                    self._recording.add_probe(min(AFTER_STEPS, last))
                _open_profile.append(self)
            except Exception as error:  # a guest never stops the host's program
                _say(f"cannot record {self.path}: {error!r}; training goes on without")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop recording, restore everything and write the file; the exception goes on."""
        recording, self._recording = self._recording, None
        if recording is None or recording.process != os.getpid():  # a forked child is a guest too
            return
        _open_profile.remove(self)
        try:
            recording.finish(kind.__name__ if kind else None)
        except Exception as failure:
            _say(f"could not write {self.path}: {failure!r}")

    def steps(self, batches: Iterable[Batch]) -> Steps[Batch]:
        """Iterate over `batches`, one training step per item; has `len()` where they have."""
        return Steps(batches, self)

    def step(self) -> None:
        """End a training step; for loops that do not go through `steps`."""
        self._end_if_full()
        recording = self._recording
        if recording is not None and recording.recorder.active:
            recording.anchor.user("step")
            recording.end_step()

    @property
    def recording(self) -> bool:
        """Whether a recording is going on."""
        return self._recording is not None

    @property
    def step_count(self) -> int:
        """Training steps recorded so far, warm-up included; 0 before and after the recording."""
        return self._recording.recorder.step_index if self._recording else 0

    @property
    def trying(self) -> bool:
        """Whether this iteration is one of those that `probe` adds, and will be taken back."""
        return self._recording is not None and self._recording.recorder.trial

    def discard(self) -> None:
        """Stop recording, restore everything and write no file."""
        recording, self._recording = self._recording, None
        if recording is not None and recording.process == os.getpid():
            _open_profile.remove(self)
            with suppress(Exception):
                recording.stop()

    def _end_if_full(self) -> None:
        recording = self._recording
        if (
            self._max_steps is not None
            and recording is not None
            and recording.recorder.active
            and not recording.recorder.trial
            and recording.recorder.steady_steps >= self._max_steps
        ):
            self.__exit__(None, None, None)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Name what the enclosed code does, e.g. `validation`; it is part of its step."""
        recording = self._recording
        if recording is None or not recording.recorder.active:
            yield
            return
        recorder = recording.recorder
        name = str(name)[:80]
        if name not in recorder.phases and len(recorder.phases) >= _MAX_PHASES:
            recording.observed.problem(f"only the first {_MAX_PHASES} phases are told apart")
            yield
            return
        number = recorder.phase(name)
        begin, previous = time.perf_counter_ns(), recorder.enter(number)
        if name == "validation" and previous != number:
            recorder.counted[recorder.counter("validations")] += 1
        try:
            yield
        finally:
            recorder.leave(previous)
            recorder.mark(name, time.perf_counter_ns() - begin)

    def log(self, **metrics: Any) -> None:
        """Keep quality metrics with their step; tensors are read later, never waited for."""
        if self._recording is not None and not self.trying:
            with suppress(Exception):
                self._recording.metrics.add(self._recording.recorder.step_index, metrics)


class Steps(Generic[Batch]):
    """The batches of a loop; each iteration is one training step."""

    def __init__(self, batches: Iterable[Batch], owner: profile) -> None:
        self._batches = batches
        self._owner = owner
        self._unseen = True

    def __len__(self) -> int:
        """Number of batches, where the loader knows it."""
        return len(self._batches)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches, timing the wait for each and the step it is used in."""
        recording = self._owner._recording
        if recording is None or not recording.recorder.active:
            yield from self._batches
            return
        recorder = recording.recorder
        recording.anchor.user("steps")
        iterator = recording.watch(iter(self._batches))
        ended = False
        while True:
            if recorder.absorbing[recorder.current]:
                recorder.leave(recorder.python)  # the next training batch ends a validation
            previous = recorder.enter_wait(at_boundary=ended)
            try:
                batch = [next(iterator)]
            except StopIteration:
                recording.anchor.loop_ended()
                return
            finally:
                recorder.leave_wait(previous)
            if self._unseen:
                self._unseen = False
                recording.see(batch[0])
            # Popped, so that no reference of ours keeps a batch alive while the next is made.
            yield batch.pop()
            recording.end_step()
            ended = True
            self._owner._end_if_full()
            if not recorder.active:
                yield from iterator
                return


class _Recording:
    """One recording from entering the context to leaving it."""

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
            self.recorder.close()
            self._patches.close()
            self._rings.remove()
            raise
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
        if self.recorder.step_index and time.perf_counter_ns() >= self._next_copy_ns:
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

    def finish(self, exception: str | None) -> None:
        """Stop, and write the file."""
        self.stop()
        if self.recorder.step_index == 0:
            self.observed.problem(_NO_STEP)
            _say(_NO_STEP)
        with suppress(Exception):
            self._calibration = machine.calibrate()
        self._save("exception" if exception else "completed", exception)

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
            collective_calls=self.observed.messages.as_list(),
            flight_recorder=self._flight,
            ceilings=self._probing.result if self._probing is not None else None,
            marks=list(self.recorder.marks),
            metrics=self.metrics.result(final=ended != "running"),
            overhead=Overhead(
                setup_ns=self._setup_ns,
                window_ns=self._window.own_ns,
                background_cpu_ns=self._sampler.cpu_ns + self._stacks.cpu_ns,
            ),
            problems=list(self.observed.problems),
        )


def _say(message: str) -> None:
    with suppress(Exception):  # a daemon may have closed it, or have none
        sys.stderr.write(f"stepscope: {message}\n")
