"""Datasets, models and loops that the tests record; importable by spawned workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from stepscope.profiler import profile
from stepscope.profiler.format import Loader, Profile, Steps
from stepscope.profiler.storage import load

MS = 1_000_000
Pair = tuple[torch.Tensor, torch.Tensor]


class Points(Dataset[Pair]):
    """Deterministic samples of a linear function."""

    def __init__(self, length: int = 16) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Pair:
        x = torch.arange(4, dtype=torch.float32) + index
        return x / self.length, x.sum().reshape(1) / self.length


class SleepyPoints(Points):
    """Each sample waits for something that is no processor."""

    def __init__(self, length: int, seconds: float) -> None:
        super().__init__(length)
        self.seconds = seconds

    def __getitem__(self, index: int) -> Pair:
        time.sleep(self.seconds)
        return super().__getitem__(index)


class SpinningPoints(SleepyPoints):
    """Each sample keeps a processor busy for so many seconds of processor time."""

    def __getitem__(self, index: int) -> Pair:
        spin(self.seconds)
        return Points.__getitem__(self, index)


class BrokenPoints(Points):
    """One sample cannot be read."""

    def __getitem__(self, index: int) -> Pair:
        if index == 5:
            raise LookupError(f"sample {index} is broken")
        return super().__getitem__(index)


class FilePoints(Points):
    """Each sample is read from the same file."""

    def __init__(self, length: int, path: Path) -> None:
        super().__init__(length)
        self.path = path

    def __getitem__(self, index: int) -> Pair:
        self.path.read_bytes()
        return super().__getitem__(index)


class PointStream(IterableDataset[Pair]):
    """The same samples as a stream; each worker takes its share."""

    def __init__(self, length: int = 16) -> None:
        self.points = Points(length)

    def __iter__(self) -> Iterator[Pair]:
        info = get_worker_info()
        first, stride = (info.id, info.num_workers) if info else (0, 1)
        for index in range(first, len(self.points), stride):
            yield self.points[index]


class Net(nn.Module):
    """Two layers and dropout, so that random numbers matter."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 8)
        self.dropout = nn.Dropout(0.3)
        self.outer = nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.dropout(torch.relu(self.inner(x)))
        result: torch.Tensor = self.outer(hidden)
        return result


def spin(seconds: float) -> None:
    """Use so much processor time on the calling thread."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(100))


def sleepy_collate(samples: list[Pair]) -> Pair:
    time.sleep(0.02)
    xs, ys = zip(*samples, strict=True)
    return torch.stack(xs), torch.stack(ys)


def record(path: Path, body: Callable[[profile], Any], **options: Any) -> Profile:
    """Run `body` inside a profile and read what it has written."""
    options = {"operator_steps": 0, "warmup_steps": 0} | options
    with profile(path, **options) as prof:
        body(prof)
    return load(path)


def epochs(loader: Any, count: int = 1) -> Callable[[profile], None]:
    """A loop that goes through `loader` so many times and does nothing else."""

    def body(prof: profile) -> None:
        for _ in range(count):
            for _ in prof.steps(loader):
                pass

    return body


def only_loader(recorded: Profile) -> Loader:
    """The one loader that was iterated."""
    (loader,) = recorded.loaders
    return loader


def totals(loader: Loader, name: str) -> int:
    """A figure of the loader's fetches, summed over its workers."""
    return sum(getattr(worker.totals, name) or 0 for worker in loader.workers)


def run_steps(prof: profile, step: Callable[[], Any], count: int = 3) -> None:
    """Call `step` so many times, each a training step."""
    for _ in range(count):
        step()
        prof.step()


def all_steps(recorded: Profile) -> list[Steps]:
    return [recorded.warmup, recorded.steady]


def spent(recorded: Profile, phase: str) -> int:
    """Nanoseconds of `phase` in all steps."""
    return sum(sum(steps.phases.get(phase, [])) for steps in all_steps(recorded))


def calls(recorded: Profile, name: str) -> int:
    """How often `name` was counted in all steps."""
    return sum(sum(steps.calls.get(name, [])) for steps in all_steps(recorded))


def assert_exclusive(recorded: Profile) -> None:
    """The phases of every row sum to its wall time."""
    for steps in all_steps(recorded):
        for row, wall in enumerate(steps.wall_ns):
            assert sum(column[row] for column in steps.phases.values()) == wall
