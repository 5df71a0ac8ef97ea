"""The public face: `with profile("profile.json") as prof:` around a training loop."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

try:
    import torch  # noqa: F401  # before the imports below, whose message would be another
except ImportError as missing:
    raise ImportError(
        "stepscope needs PyTorch to record a profile: pip install 'stepscope[torch]'"
    ) from missing

from stepscope.profiler.probing import AFTER_STEPS
from stepscope.profiler.ranks import RankedFile
from stepscope.profiler.recording import Recording, say

Batch = TypeVar("Batch")
_MAX_PHASES = 64
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
        path: the file to write, or a folder for it; under `torchrun`, the rank is put before the
            suffix, and rank 0 is sent the files of ranks that write to another place.
        enabled: False makes the whole context do nothing.
        warmup_steps: leading steps kept apart from the steady state; with loader workers at
            least as many as batches are prefetched, for those were made before anyone waited.
        operator_steps: steps to record with torch.profiler for the operator table; 0 for none.
        max_steps: write the file after so many steps beyond warm-up and let the loop go on
            unprofiled; None records to the end of the context.
        probe: after about 40 steady steps, try each half of the loop alone, once: the body runs
            ten more times on a copy of one batch, its modules are called with twice and half of
            it and other numbers of threads, then the loader runs ahead of it. Needs a DataLoader;
            without `steps` only where the loop is done with a batch when it asks for the next one.
            Models, optimizers, schedulers, gradient scalers and random states are put back bit
            for bit; what else the body does in these iterations remains: it counts them, logs
            them, writes checkpoints of them, updates averages that are no module's. `trying` tells
            them apart.
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
        self._file = RankedFile(path)
        self._enabled = enabled
        self._warmup_steps = warmup_steps
        self._operator_steps = operator_steps
        self._max_steps = max_steps
        self._probe = probe
        self._recording: Recording | None = None
        self.received: dict[int, Path] = {}
        """After the recording, on rank 0: profiles that ranks have sent which write elsewhere."""

    @property
    def path(self) -> Path:
        """The file to write, with the rank before the suffix as soon as there are several."""
        return self._file.path

    def __enter__(self) -> profile:
        """Begin to record; one recording at a time, an inner one does nothing."""
        if self._enabled and _open_profile and _open_profile[0].give_way is not None:
            _open_profile[0].give_way(self)
        if self._enabled and _open_profile:
            say(f"{_open_profile[0].path} is being recorded; {self.path} inside it is not")
        elif self._enabled:
            try:
                self._recording = Recording(
                    self._file, self._warmup_steps, self._operator_steps, self._end_if_full
                )
                if self._probe:  # before the recording is full
                    last = AFTER_STEPS if self._max_steps is None else self._max_steps - 1
                    self._recording.add_probe(min(AFTER_STEPS, last))
                _open_profile.append(self)
            except Exception as error:  # a guest never stops the host's program
                say(f"cannot record {self.path}: {error!r}; training goes on without")
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
            say(f"could not write {self.path}: {failure!r}")
            return
        self.received = recording.gathering.received
        if recording.gathering.words and self.give_way is None:  # or somebody else tells
            say(recording.gathering.words)

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
                recording.discard()

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
