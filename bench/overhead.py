"""What recording costs: the same loop with and without, a few steps of each in turn.

Main thread: two loops of about 2 ms and 20 ms a step inside one open recording, which passes
through for every other few steps. Workers: fetches of a cheap data set, timed and not. Turns are
short because this kind of machine changes its pace by far more than what is looked for within a
second. Quoted is the median, over rounds, of what a step of a turn takes more than one of the turn
beside it, with its 90 % interval; of the thread's processor time and of wall time. Background
threads run all the time, on both sides: what they cost is told by `background_cpu_ns` of a profile.

    python bench/overhead.py [--rounds 150]
"""

from __future__ import annotations

import argparse
import itertools
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
from stepscope.profiler.ring import RingReader, RingWriter


class Loop:
    """A training loop of a chosen size, over one batch in memory.

    A small model makes every call that a recording watches. The rest of the time goes to products
    of matrices that stay where they are: by where the memory of a large model happens to lie its
    steps come out 20 % faster or slower, which is ten times what is looked for.
    """

    def __init__(self, products: int) -> None:
        torch.manual_seed(0)
        layers: list[torch.nn.Module] = []
        for _ in range(4):
            layers += [torch.nn.Linear(16, 16), torch.nn.ReLU()]
        self.model = torch.nn.Sequential(*layers)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-4)
        self.batch = torch.randn(8, 16)
        self.factors = torch.randn(2, 256, 256)
        self.product = torch.empty(256, 256)
        self.products = products

    def step(self) -> None:
        self.optimizer.zero_grad()
        for _ in range(self.products):
            torch.mm(self.factors[0], self.factors[1], out=self.product)
        self.model(self.batch).square().mean().backward()
        self.optimizer.step()


_TURN = 5
"""Steps in a row; one before them is not counted."""

Microseconds = tuple[float, float]


def timed(run: Callable[[], object]) -> Microseconds:
    """CPU and wall time of a call, in the calling thread."""
    wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
    run()
    return (time.thread_time_ns() - cpu) / 1e3, (time.perf_counter_ns() - wall) / 1e3


def in_turn(rounds: int, bare: Callable[[], object], watched: Callable[[], object]) -> str:
    """What `watched` takes more than `bare`, in words."""
    sides = bare, watched
    taken: list[list[Microseconds]] = [[], []]
    for i in range(rounds):
        for side in (0, 1) if i % 2 else (1, 0):
            sides[side]()
            turn = zip(*(timed(sides[side]) for _ in range(_TURN)), strict=True)
            cpu, wall = map(statistics.mean, turn)
            taken[side].append((cpu, wall))
    words = []
    for number, kind in enumerate(("cpu", "wall")):
        one, other = ([turn[number] for turn in side] for side in taken)
        added, low, high = median_of(
            [after - before for before, after in zip(one, other, strict=True)]
        )
        words.append(
            f"{kind}: bare {statistics.median(one):7.0f} us, added {added:6.1f} us"
            f" ({low:.0f} to {high:.0f})"
        )
    return "   ".join(words)


def median_of(values: list[float]) -> tuple[float, float, float]:
    """The median and its 90 % interval: order statistics, by the normal limit of the binomial."""
    ordered, half = sorted(values), 1.645 * len(values) ** 0.5 / 2
    low, high = round(len(values) / 2 - half), round(len(values) / 2 + half)
    return statistics.median(ordered), ordered[max(0, low)], ordered[min(len(ordered) - 1, high)]


def main_thread(rounds: int, products: int) -> str:
    """Cost per step on the training thread."""
    loop = Loop(products)
    with (
        tempfile.TemporaryDirectory() as folder,
        profile(Path(folder, "profile.json"), operator_steps=0) as prof,
    ):
        recording = prof._recording
        assert recording is not None
        recorder = recording.recorder
        thread = recorder.thread
        steps = iter(prof.steps(itertools.count()))

        def step() -> None:
            next(steps)
            loop.step()

        def watched() -> None:
            if recorder.thread < 0:
                recorder.thread = thread
                recorder.restart_step()
            step()

        def bare() -> None:
            recorder.thread = -1
            step()

        for _ in range(300):  # the first steps are kept one by one
            watched()
        words = in_turn(rounds, bare, watched)
        recorder.thread = thread
        return words


def worker(rounds: int) -> str:
    """Cost per batch in a worker: the fetcher as PyTorch makes it, with and without a timer."""
    dataset = TensorDataset(torch.randn(4096, 16), torch.zeros(4096))
    indices = list(range(64))

    def fetcher() -> Any:
        return _DatasetKind.create_fetcher(_DatasetKind.Map, dataset, True, default_collate, False)

    with tempfile.TemporaryDirectory() as folder:
        bare, watched = fetcher(), fetcher()
        path = Path(folder, "0.ring")
        FetchTimer(RingWriter(path, 0).append).attach(watched)
        words = in_turn(rounds, lambda: bare.fetch(indices), lambda: watched.fetch(indices))
        assert RingReader(path).drain()
        return words


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=150)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print("step of ~2 ms  ", main_thread(rounds, 2))
    print("step of ~20 ms ", main_thread(rounds, 38))
    print("worker batch   ", worker(10 * rounds))


if __name__ == "__main__":
    main()
