"""What recording costs: the same loop bare and profiled, interleaved in one process.

Main thread: two loops of about 2 ms and 20 ms a step inside one open recording, whose probes are
taken out for every other block of steps, so that both sides meet the same machine. Workers: fetches
of a cheap data set, timed and not, in alternating blocks. Quoted are medians of paired differences
and the difference of the best blocks, of the thread's processor time and of wall time.

    python bench/overhead.py [--blocks 30]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import TensorDataset, _DatasetKind, default_collate

from stepscope.profiler import profile
from stepscope.profiler.fetching import FetchTimer
from stepscope.profiler.probes import install_all
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


Seconds = tuple[float, float]


def timed(run: Callable[[], object], times: int) -> Seconds:
    """CPU and wall seconds per call of `run`, in the calling thread."""
    cpu, wall = time.thread_time(), time.perf_counter()
    for _ in range(times):
        run()
    return (time.thread_time() - cpu) / times, (time.perf_counter() - wall) / times


def interleaved(
    blocks: int, bare: Callable[[], Seconds], profiled: Callable[[], Seconds]
) -> dict[str, float]:
    """Microseconds per call: bare, added (median of pairs) and added (best of each side)."""
    pairs = []
    for i in range(blocks):
        if i % 2:
            pairs.append((bare(), profiled()))
        else:
            second = profiled()
            pairs.append((bare(), second))
    result = {}
    for number, kind in enumerate(("cpu", "wall")):
        one, other = ([pair[side][number] * 1e6 for pair in pairs] for side in (0, 1))
        result[f"{kind}_bare_us"] = statistics.median(one)
        differences = (b - a for a, b in zip(one, other, strict=True))
        result[f"{kind}_added_us"] = statistics.median(differences)
        result[f"{kind}_added_best_us"] = min(other) - min(one)
    return result


def main_thread(blocks: int, width: int, depth: int, steps: int) -> dict[str, float]:
    """Cost per step on the training thread, `steps` steps per block."""
    loop = Loop(width, depth)
    with (
        tempfile.TemporaryDirectory() as folder,
        profile(Path(folder, "profile.json"), operator_steps=0) as prof,
    ):
        recording = prof._recording
        assert recording is not None
        recorder = recording.recorder
        thread = recorder.thread

        def bare() -> Seconds:
            recording._patches.close()
            recorder.thread = -1
            batches = iter(range(10 * steps))

            def step() -> None:
                next(batches)
                loop.step()

            timed(step, steps // 5)
            return timed(step, steps)

        def profiled() -> Seconds:
            recording._patches.close()
            recorder.on_step.clear()
            recorder.thread = thread
            install_all(recorder, recording._patches, recording.observed)
            batches = iter(prof.steps(range(10 * steps)))

            def step() -> None:
                next(batches)
                loop.step()

            timed(step, steps // 5)
            return timed(step, steps)

        return interleaved(blocks, bare, profiled)


def worker(blocks: int, batches: int = 300) -> dict[str, float]:
    """Cost per batch in a worker: the fetcher as PyTorch makes it, with and without a timer."""
    dataset = TensorDataset(torch.randn(4096, 16), torch.zeros(4096))
    indices = list(range(64))

    def fetcher() -> Any:
        return _DatasetKind.create_fetcher(_DatasetKind.Map, dataset, True, default_collate, False)

    with tempfile.TemporaryDirectory() as folder:
        bare, watched = fetcher(), fetcher()
        path = Path(folder, "0.ring")
        FetchTimer(RingWriter(path, 0).append).attach(watched)
        result = interleaved(
            blocks,
            lambda: timed(lambda: bare.fetch(indices), batches),
            lambda: timed(lambda: watched.fetch(indices), batches),
        )
        assert RingReader(path).drain()
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=30)
    blocks = parser.parse_args().blocks
    torch.set_num_threads(1)
    for name, figures in (
        ("step of ~2 ms", main_thread(blocks, 256, 4, 60)),
        ("step of ~20 ms", main_thread(blocks, 512, 8, 10)),
        ("worker batch", worker(blocks)),
    ):
        print(f"{name:15}", "  ".join(f"{key} {value:9.3f}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
