"""What recording costs: the same loop bare and profiled, interleaved in one process.

Main thread: two loops of about 2 ms and 20 ms a step over batches that are already there, in
alternating blocks of steps. Workers: fetches of a cheap data set, timed and not, in alternating
blocks. Quoted is the processor time of the thread, which other tenants of the machine disturb
less than wall time; the wall time stands beside it.

    python bench/overhead.py [--blocks 30]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from torch.utils.data import TensorDataset, _DatasetKind, default_collate

from stepscope.profiler import profile
from stepscope.profiler.fetching import FetchTimer
from stepscope.profiler.ring import RingReader, RingWriter


class Loop:
    """A training loop of a chosen size over one batch in memory."""

    def __init__(self, width: int, depth: int) -> None:
        torch.manual_seed(0)
        layers: list[torch.nn.Module] = []
        for _ in range(depth):
            layers += [torch.nn.Linear(width, width), torch.nn.ReLU()]
        self.model = torch.nn.Sequential(*layers)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-4)
        self.batch = torch.randn(64, width)

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.model(self.batch).square().mean().backward()
        self.optimizer.step()


def block(loop: Loop, steps: int, context: profile | None) -> tuple[float, float]:
    """CPU and wall seconds per step of the loop's thread, the profiler's set-up left out."""
    batches = range(steps)
    with context or nullcontext() as prof:
        iterator = iter(prof.steps(batches) if prof else batches)
        for _ in range(steps // 10):  # past the warm-up of either kind
            next(iterator)
            loop.step()
        cpu, wall = time.thread_time(), time.perf_counter()
        done = 0
        for _ in iterator:
            loop.step()
            done += 1
        return (time.thread_time() - cpu) / done, (time.perf_counter() - wall) / done


def interleaved(blocks: int, one: Callable[[], tuple[float, float]], other: Callable[[], tuple[float, float]]) -> dict[str, float]:
    """Medians of paired differences and ratios, other minus one."""
    pairs = [(one(), other()) if i % 2 else tuple(reversed((other(), one()))) for i in range(blocks)]
    result = {}
    for number, kind in enumerate(("cpu", "wall")):
        bare = [a[number] for a, _ in pairs]
        with_ = [b[number] for _, b in pairs]
        result[f"{kind}_bare_us"] = statistics.median(bare) * 1e6
        result[f"{kind}_added_us"] = statistics.median(b - a for a, b in zip(bare, with_, strict=True)) * 1e6
        result[f"{kind}_ratio"] = statistics.median(b / a for a, b in zip(bare, with_, strict=True))
        result[f"{kind}_best_added_us"] = (min(with_) - min(bare)) * 1e6
    return result


def main_thread(blocks: int, width: int, depth: int, steps: int) -> dict[str, float]:
    loop = Loop(width, depth)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "profile.json")
        block(loop, steps, None)
        return interleaved(
            blocks,
            lambda: block(loop, steps, None),
            lambda: block(loop, steps, profile(path, operator_steps=0)),
        )


def worker(blocks: int, batches: int = 300) -> dict[str, float]:
    """Cost per batch in a worker: the fetcher as PyTorch makes it, with and without a timer."""
    dataset = TensorDataset(torch.randn(4096, 16), torch.zeros(4096))
    indices = list(range(64))

    def fetcher() -> object:
        return _DatasetKind.create_fetcher(_DatasetKind.Map, dataset, True, default_collate, False)

    def run(fetch: Callable[[list[int]], object]) -> tuple[float, float]:
        cpu, wall = time.thread_time(), time.perf_counter()
        for _ in range(batches):
            fetch(indices)
        return (time.thread_time() - cpu) / batches, (time.perf_counter() - wall) / batches

    with tempfile.TemporaryDirectory() as folder:
        bare, timed = fetcher(), fetcher()
        path = Path(folder, "0.ring")
        FetchTimer(RingWriter(path, 0).append).attach(timed)
        result = interleaved(blocks, lambda: run(bare.fetch), lambda: run(timed.fetch))  # type: ignore[attr-defined]
        assert RingReader(path).drain()
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=20)
    blocks = parser.parse_args().blocks
    torch.set_num_threads(1)
    for name, figures in (
        ("step of ~2 ms", main_thread(blocks, 256, 4, 200)),
        ("step of ~20 ms", main_thread(blocks, 512, 24, 30)),
        ("worker batch", worker(blocks)),
    ):
        print(f"{name:15}", "  ".join(f"{key} {value:9.3f}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
