"""Loops that the model itself, its optimizer or its partners hold back."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import default_collate

from ground_truth.data import LatencyReads
from ground_truth.loop import planted
from ground_truth.parts import (
    BATCH,
    CLASSES,
    WIDTH,
    Vectors,
    arithmetic_threads,
    batches_of,
    chosen,
    mlp,
    sgd,
    train,
    train_step,
)

WAITING = LatencyReads
"""Behind most of these loops stands a source that would be next, at about 6 ms a batch."""
SECONDS_PER_SAMPLE = 0.15e-3


@planted("compute.arithmetic")
def gemm(severity: float) -> Iterator[None]:
    """Large matrices."""
    model = mlp(hidden=1024, depth=round(4 * severity))
    yield from train(batches_of(WAITING(SECONDS_PER_SAMPLE)), model)


class Elementwise(nn.Module):
    """A classifier after a long chain of cheap operators on a large map.

    The map stays in one place: whether fresh memory for each operator costs page faults depends on
    what else lies on the heap, a profiler's own objects for instance.
    """

    def __init__(self, operators: int) -> None:
        super().__init__()
        self.operators = operators
        self.wide = torch.empty(BATCH, 256, WIDTH)
        self.classify = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        if self.operators:
            wide = self.wide.copy_(x[:, None])
            for _ in range(self.operators):
                wide.mul_(0.99).add_(0.01).clamp_(-3, 3)
            x = x + 1e-6 * wide[:, 0]
        return self.classify(x)  # type: ignore[no-any-return]


@planted("memory.bandwidth")
def elementwise(severity: float) -> Iterator[None]:
    """Operators that read and write 16 MB for a handful of additions."""
    yield from train(batches_of(WAITING(SECONDS_PER_SAMPLE)), Elementwise(round(12 * severity)))


class Recurrent(nn.Module):
    """A recurrent network written by hand: every step of it is a few tiny operators."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.encode = nn.Linear(WIDTH, 32)
        self.recur = nn.Linear(32, 32)
        self.classify = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.encode(x)
        hidden = torch.zeros_like(x)
        for _ in range(self.steps):
            gate = torch.sigmoid(x + hidden)
            hidden = gate * torch.tanh(self.recur(hidden)) + (1 - gate) * x
        return self.classify(hidden)  # type: ignore[no-any-return]


@planted("compute.launch")
def tiny_kernels(severity: float) -> Iterator[None]:
    """Many hundred operators on a few numbers each."""
    torch.manual_seed(0)
    model = Recurrent(round(50 * severity))
    yield from train(batches_of(WAITING(0.6e-3), batch_size=8), model)


class ManyParameters(nn.Module):
    """A classifier with one small vector for each of many groups."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.base = mlp()
        self.groups = nn.ParameterList(torch.randn(CLASSES) for _ in range(groups))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + torch.stack(list(self.groups)).mean(0)  # type: ignore[no-any-return]


@planted("compute.optimizer")
def optimizer_many(severity: float) -> Iterator[None]:
    """Adam, parameter by parameter."""
    model = ManyParameters(300)
    trained = list(model.groups)[: round(300 * severity)]
    optimizer = torch.optim.Adam([*model.base[-1].parameters(), *trained], foreach=False)
    for batch in batches_of(Vectors()):
        train_step(model, optimizer, batch)
        yield


@planted("compute.optimizer")
def hand_written_update(severity: float) -> Iterator[None]:
    """No torch.optim: the update stands in the loop, as in many papers' code."""
    model = ManyParameters(300)
    parameters = list(model.groups)
    momenta = [torch.zeros_like(p) for p in parameters]
    updated = round(len(parameters) * severity)
    for x, y in batches_of(Vectors()):
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for p, m in zip(parameters[:updated], momenta, strict=False):
                assert p.grad is not None
                m.mul_(0.9).add_(p.grad + 1e-4 * p)
                p.sub_(1e-3 * (m / (1 + m.norm())))
            model.zero_grad()
        yield


class Repeated(nn.Module):
    """One layer, applied again and again: much to compute, few parameters to update."""

    def __init__(self, times: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.times = times
        self.widen = nn.Linear(WIDTH, 768)
        self.layer = nn.Linear(768, 768)
        self.head = nn.Linear(768, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.widen(x)
        for _ in range(self.times):
            x = torch.relu(self.layer(x))
        return self.head(x)  # type: ignore[no-any-return]


@planted("compute.arithmetic")
def lbfgs(severity: float) -> Iterator[None]:
    """A closure that the optimizer calls several times a step."""
    model = Repeated(round(5 * severity))
    optimizer = torch.optim.LBFGS(model.parameters(), lr=1e-3, max_iter=3, history_size=2)
    for x, y in batches_of(WAITING(SECONDS_PER_SAMPLE)):

        def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        yield


@planted("compute.arithmetic")
def accumulation(severity: float) -> Iterator[None]:
    """Four micro-batches a step, each through the whole model."""
    model = mlp(hidden=768, depth=round(2 * severity))
    optimizer = sgd(model)
    batches = batches_of(WAITING(SECONDS_PER_SAMPLE), batch_size=16)
    while True:
        optimizer.zero_grad()
        for _ in range(4):
            x, y = next(batches)
            (nn.functional.cross_entropy(model(x), y) / 4).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        yield


class Embedded(nn.Module):
    """A classifier with a large table, whose gradient is dense."""

    def __init__(self) -> None:
        super().__init__()
        self.base = mlp(hidden=512, depth=1)
        self.table = nn.Embedding(3500, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        numbers = torch.arange(len(x))
        return self.base(x + self.table(numbers))  # type: ignore[no-any-return]


def rank_steps(rank: int, store: str, severity: float) -> Iterator[None]:
    """One of two ranks; the gradients of a share of the steps are exchanged."""
    distributed.init_process_group(
        "gloo", f"file://{store}", timedelta(seconds=60), world_size=2, rank=rank
    )
    try:
        with arithmetic_threads(1):  # two ranks on two cores
            torch.manual_seed(0)
            model = DistributedDataParallel(Embedded())
            optimizer, source = sgd(model), Vectors()
            batch = default_collate([source[index] for index in range(BATCH)])
            for step in itertools.count():
                with nullcontext() if chosen(step, severity) else model.no_sync():
                    train_step(model, optimizer, batch)
                yield
    finally:
        distributed.destroy_process_group()


def other_rank(store: str, severity: float) -> None:
    """The second rank, until it is killed or loses its partner."""
    with suppress(RuntimeError):  # the partner is gone
        for _ in rank_steps(1, store, severity):
            pass


# Which of the two ranks is late changes from step to step.
@planted("communication.collective", accepted=("communication.straggler",))
def gloo_backward(severity: float) -> Iterator[None]:
    """Two ranks exchange 5 MB of gradients over gloo."""
    with TemporaryDirectory() as store_folder:
        store = str(Path(store_folder, "store"))
        command = [sys.executable, "-m", "ground_truth.compute", store, str(severity)]
        with subprocess.Popen(command, cwd=Path(__file__).parents[1]) as partner:
            try:
                yield from rank_steps(0, store, severity)
            finally:
                partner.kill()


if __name__ == "__main__":
    other_rank(sys.argv[1], float(sys.argv[2]))
