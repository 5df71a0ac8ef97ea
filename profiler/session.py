"""The public face: `with profile("profile.json") as prof:` around a training loop."""

from __future__ import annotations

import datetime
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

try:
    import torch
except ImportError as missing:
    raise ImportError(
        "stepscope needs PyTorch to record a profile: pip install 'stepscope[torch]'"
    ) from missing

from stepscope.profiler import machine, storage
from stepscope.profiler.collectives import collectives
from stepscope.profiler.format import SCHEMA, Calibration, Overhead, Profile, Run
from stepscope.profiler.loaders import RingFolder
from stepscope.profiler.metrics import Metrics
from stepscope.profiler.observed import Observed
from stepscope.profiler.patches import Patches
from stepscope.profiler.probes import install_all
from stepscope.profiler.recorder import Recorder
from stepscope.profiler.sampler import Sampler
from stepscope.profiler.version import version
from stepscope.profiler.window import OperatorWindow

Batch = TypeVar("Batch")
_STEPS_BEFORE_WINDOW = 10
_FIRST_COPY_SECONDS, _COPY_SECONDS = 2.0, 10.0
_MAX_PHASES = 64
_open_profile: list[profile] = []


class profile:  # used like a function: `with profile(...)`
    """Record what a training loop spends its time on, and write it to `path`.

    Use it as a context manager around the loop, and pass the loader through `steps`::

        with profile("profile.json") as prof:
            for images, labels in prof.steps(loader):
                ...

    Nothing that goes wrong in here reaches the loop: it is said on standard error, and the loop
    runs on unprofiled.

    Args:
        path: the file to write; under `torchrun`, the rank is put before the suffix.
        enabled: False makes the whole context do nothing.
        warmup_steps: leading steps kept apart from the steady state; with loader workers at
            least as many as batches are prefetched, for those were made before anyone waited.
        operator_steps: steps to record with torch.profiler for the operator table; 0 for none.

    Raises:
        ImportError: PyTorch is not installed (on import of this class).
        TypeError: `path` is no path, as in a forgotten `profile(...)` call.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] = "profile.json",
        *,
        enabled: bool = True,
        warmup_steps: int = 10,
        operator_steps: int = 4,
    ) -> None:
        self.path = _path_for_rank(Path(path))
        self._enabled = enabled
        self._warmup_steps = warmup_steps
        self._operator_steps = operator_steps
        self._recording: _Recording | None = None

    def __enter__(self) -> profile:
        """Begin to record; one recording at a time, an inner one does nothing."""
        if self._enabled and _open_profile:
            _say(f"{_open_profile[0].path} is being recorded; {self.path} inside it is not")
        elif self._enabled:
            try:
                self._recording = _Recording(self.path, self._warmup_steps, self._operator_steps)
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
        if self._recording is not None:
            self._recording.end_step()

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
        if self._recording is not None:
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
        iterator = iter(self._batches)
        ended = False
        while True:
            if recorder.absorbing[recorder.current]:
                recorder.leave(recorder.python)  # the next training batch ends a validation
            previous = recorder.enter_wait(at_boundary=ended)
            try:
                batch = [next(iterator)]
            except StopIteration:
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


class _Recording:
    """One recording from entering the context to leaving it."""

    def __init__(self, path: Path, warmup_steps: int, operator_steps: int) -> None:
        began = time.perf_counter_ns()
        self.process = os.getpid()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._started_at = datetime.datetime.now(datetime.timezone.utc)
        self._rings = RingFolder()
        self.recorder = Recorder(warmup_steps)
        self.observed = Observed(self._rings.path, self.recorder.started_ns)
        self.metrics = Metrics(self.recorder.started_ns)
        self._patches = Patches()
        self._calibration: Calibration | None = None
        self._ddp = collectives([])
        self._next_copy_ns = began + int(_FIRST_COPY_SECONDS * 1e9)
        self._drain_lock = threading.Lock()
        try:
            install_all(self.recorder, self._patches, self.observed)
            self._window = OperatorWindow(
                self.recorder, _STEPS_BEFORE_WINDOW, operator_steps, self.observed.problem
            )
            self._sampler = Sampler(
                self.recorder.started_ns, self._rings.worker_pids, self._tick, self.observed.problem
            )
            self._environment = machine.environment(self._sampler.gpus())
            self._sampler.start()
        except BaseException:
            self.recorder.close()
            self._patches.close()
            self._rings.remove()
            raise
        self._setup_ns = time.perf_counter_ns() - began
        self.recorder.restart_step()

    def see(self, batch: object) -> None:
        """Note what a batch looks like."""
        with suppress(Exception):
            self.observed.batch(batch)

    def end_step(self) -> None:
        """Close a step; an error in our own bookkeeping ends the recording, not the loop."""
        recorder = self.recorder
        if recorder.active:
            try:
                recorder.end_step()
            except Exception as error:
                recorder.close()
                self.observed.problem(f"recording stopped at {recorder.step_index}: {error!r}")

    def _tick(self) -> None:
        with self._drain_lock:
            self._rings.drain(self.observed.loaders)
        if time.perf_counter_ns() >= self._next_copy_ns:
            storage.save(self._profile("running"), self._path)
            self._next_copy_ns = time.perf_counter_ns() + int(_COPY_SECONDS * 1e9)

    def finish(self, exception: str | None) -> None:
        """Restore everything, read what is left, write the file."""
        with suppress(Exception):
            self._ddp = collectives(list(self.observed.distributed))
        self.recorder.close()
        self._window.close()
        self._patches.close()
        self._sampler.stop()
        with self._drain_lock:
            self._rings.drain(self.observed.loaders)
        self._rings.remove()
        if self.recorder.step_index == 0:
            self.observed.problem("no step was recorded: iterate over `prof.steps(loader)`")
            _say("no step was recorded: iterate over `prof.steps(loader)` or call `prof.step()`")
        with suppress(Exception):
            self._calibration = machine.calibrate()
        storage.save(
            self._profile("exception" if exception else "completed", exception), self._path
        )

    def _profile(self, ended: Any, exception: str | None = None) -> Profile:
        rank, world = _rank()
        environment = self._environment
        environment.calibration = self._calibration
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
            ),
            environment=environment,
            configuration=machine.configuration(self.observed),
            warmup=self.recorder.steps("warmup"),
            steady=self.recorder.steps("steady"),
            step_time=self.recorder.step_time(),
            loaders=[log.result() for log in self.observed.loaders],
            samples=self._sampler.samples(),
            window=self._window.result,
            collectives=self._ddp,
            marks=list(self.recorder.marks),
            metrics=self.metrics.result(final=ended != "running"),
            overhead=Overhead(
                setup_ns=self._setup_ns,
                window_ns=self._window.own_ns,
                background_cpu_ns=self._sampler.cpu_ns,
            ),
            problems=list(self.observed.problems),
        )


def _rank() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return _environment_int("RANK", 0), _environment_int("WORLD_SIZE", 1)


def _environment_int(name: str, default: int) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdigit() else default


def _path_for_rank(path: Path) -> Path:
    rank, world = _rank()
    return path if world == 1 else path.with_suffix(f".rank{rank}{path.suffix}")


def _say(message: str) -> None:
    with suppress(Exception):  # a daemon may have closed it, or have none
        sys.stderr.write(f"stepscope: {message}\n")
