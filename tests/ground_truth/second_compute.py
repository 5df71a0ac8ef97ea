"""Loops that are held back by the step itself, and by the other rank."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from ground_truth.loop import planted
from ground_truth.parts import (
    CLASSES,
    Vectors,
    arithmetic_threads,
    batches_of,
    chosen,
    mlp,
    sgd,
    train,
    train_step,
)


class Reader(nn.Module):
    """Attention over the vector cut into tokens, and a wide layer after it."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        torch.manual_seed(30)
        self.embed = nn.Linear(8, 128)
        self.mix = nn.Linear(128, 3 * 128)
        self.wide = nn.Sequential(nn.Linear(128, hidden), nn.ReLU(), nn.Linear(hidden, 128))
        self.head = nn.Linear(128, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x.reshape(-1, 32, 8))
        q, k, v = self.mix(tokens).reshape(-1, 32, 4, 96).transpose(1, 2).chunk(3, -1)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head((tokens + self.wide(tokens + mixed)).mean(1))  # type: ignore[no-any-return]


@planted("compute.arithmetic")
def wide_layer(severity: float) -> Iterator[None]:
    """A transformer's wide layer, eight times as wide as its tokens."""
    yield from train(
        batches_of(Vectors(), workers=1, batch_size=24), Reader(round(1024 * severity) or 1)
    )


class Experts(nn.Module):
    """24 small experts in each of three layers; the first ones are called one by one."""

    def __init__(self, one_by_one: int) -> None:
        super().__init__()
        torch.manual_seed(31)
        self.one_by_one = one_by_one
        self.weights = nn.ParameterList(torch.randn(24, 16, 16) / 4 for _ in range(3))
        self.embed, self.head = nn.Linear(256, 24 * 16), nn.Linear(24 * 16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).reshape(-1, 24, 16).transpose(0, 1)
        for weight in self.weights:
            pairs = zip(tokens[: self.one_by_one], weight, strict=False)
            called = [(token @ matrix).tanh()[None] for token, matrix in pairs]
            rest = torch.bmm(tokens[self.one_by_one :], weight[self.one_by_one :]).tanh()
            tokens = torch.cat([*called, rest])
        return self.head(tokens.transpose(0, 1).flatten(1))  # type: ignore[no-any-return]


@planted("compute.launch")
def expert_loop(severity: float) -> Iterator[None]:
    """A mixture of small experts that Python calls one after the other."""
    yield from train(DataLoader(Vectors(), 32), Experts(round(24 * severity)))


@planted("memory.bandwidth")
def feature_bank(severity: float) -> Iterator[None]:
    """A bank of 12 MB and its copy are put together anew for 64 new rows a step."""
    banks = [torch.zeros(24_000, 128) for _ in range(2)]
    model = mlp(hidden=448)
    optimizer = sgd(model)
    for number, (x, y) in enumerate(DataLoader(Vectors(), 64)):
        train_step(model, optimizer, (x, y))
        place = number * 64 % 24_000
        for half, bank in enumerate(banks):
            new = x[:, half * 128 : half * 128 + 128]
            if chosen(number, severity):
                banks[half] = torch.cat([bank[64:], new])
            else:
                bank[place : place + 64] = new
        yield


class Orthogonal(torch.optim.Optimizer):
    """Descends along the gradient made orthogonal by so many Newton-Schulz rounds."""

    def __init__(self, model: nn.Module, rounds: int) -> None:
        super().__init__(model.parameters(), {"lr": 1e-3})
        self.rounds = rounds

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                update = parameter.grad
                if parameter.ndim == 2:
                    update = self.orthogonal(update)
                parameter.add_(update, alpha=-group["lr"])

    def orthogonal(self, update: Tensor) -> Tensor:
        update = update / (update.norm() + 1e-7)
        for _ in range(self.rounds):
            square = update @ update.T
            update = 3.4445 * update + (2.0315 * square @ square - 4.775 * square) @ update
        return update


@planted("compute.optimizer")
def orthogonal_updates(severity: float) -> Iterator[None]:
    """An optimizer that multiplies every weight matrix fifteen times a step."""
    model = mlp(hidden=192, depth=2)
    optimizer = Orthogonal(model, round(5 * severity))
    for batch in DataLoader(Vectors(), 224, num_workers=1):
        train_step(model, optimizer, batch)
        yield


def late_rank(rank: int, severity: float) -> Iterator[None]:
    """Data parallel training; the second rank's batches are late."""
    model = mlp(hidden=192)
    optimizer = sgd(model)
    parallel = DistributedDataParallel(model)
    for batch in DataLoader(Vectors(), 64):
        time.sleep(0.009 * severity * rank)
        train_step(parallel, optimizer, batch)
        yield


def many_messages(rank: int, severity: float) -> Iterator[None]:
    """Gradients are averaged by hand, a share of the tensors each in a message of its own."""
    torch.manual_seed(32)
    layers = [layer for _ in range(10) for layer in (nn.Linear(160, 160), nn.Tanh())]
    model = nn.Sequential(nn.Linear(256, 160), *layers, nn.Linear(160, CLASSES))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, foreach=True)
    alone = round(severity * len(list(model.parameters())))
    for x, y in DataLoader(Vectors(), 160):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        for gradient in gradients[:alone]:
            distributed.all_reduce(gradient)
        if gradients[alone:]:
            distributed.all_reduce(
                torch.cat([gradient.flatten() for gradient in gradients[alone:]])
            )
        optimizer.step()
        yield


RANKS = {"late_rank": late_rank, "many_messages": many_messages}


def rank_of_two(program: str, rank: int, store: str, severity: float) -> Iterator[None]:
    """Runs one rank with one arithmetic thread, so that both have a core."""
    distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
    try:
        with arithmetic_threads(1):
            yield from RANKS[program](rank, severity)
    finally:
        distributed.destroy_process_group()


def partner(program: str, store: str, severity: float) -> None:
    """The second rank, until it is killed or loses the first."""
    for _ in rank_of_two(program, 1, store, severity):
        pass


def two_ranks(program: str, severity: float) -> Iterator[None]:
    """The first rank here, the second one in a process of its own."""
    with TemporaryDirectory() as place:
        store = str(Path(place, "store"))
        call = f"partner({program!r}, {store!r}, {severity!r})"
        command = [sys.executable, "-c", f"from {__name__} import partner; {call}"]
        folder, quiet = Path(__file__).parents[1], subprocess.DEVNULL
        with subprocess.Popen(command, cwd=folder, stderr=quiet) as second:
            try:
                yield from rank_of_two(program, 0, store, severity)
            finally:
                second.kill()


@planted("communication.straggler")
def slow_partner(severity: float) -> Iterator[None]:
    """Two ranks, one of which gets its batches 9 ms later than the other."""
    yield from two_ranks("late_rank", severity)


@planted("communication.messages")
def a_message_a_tensor(severity: float) -> Iterator[None]:
    """Two ranks that exchange 24 small tensors one by one."""
    yield from two_ranks("many_messages", severity)
