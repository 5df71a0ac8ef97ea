"""A fourth set of loops, held back by the model, its loss, its update or the other rank."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.func import functional_call, grad, vmap
from torch.utils.data import DataLoader

from ground_truth.loop import planted
from ground_truth.parts import (
    CLASSES,
    WIDTH,
    Pair,
    Vectors,
    arithmetic_threads,
    chosen,
    forever,
    sgd,
)


@planted("compute.arithmetic")
def gan_upsampler(severity: float) -> Iterator[None]:
    """An adversarial pair whose generator has a wide transposed convolution in its middle."""
    torch.manual_seed(220)
    middle = 2 + round(158 * severity)
    generator = nn.Sequential(
        nn.Linear(32, 16 * 36),
        nn.Unflatten(1, (16, 6, 6)),
        nn.ConvTranspose2d(16, middle, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(middle, 8, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(8, 3, 3, padding=1),
        nn.Tanh(),
    )
    judge = nn.Sequential(
        nn.Conv2d(3, 8, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(8, 16, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(16 * 36, 1),
    )
    makes = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.99), foreach=True)
    judges = torch.optim.Adam(judge.parameters(), lr=2e-4, betas=(0.5, 0.99), foreach=True)
    pictures = torch.rand(256, 3, 24, 24) * 2 - 1
    true, false, loss = torch.ones(16, 1), torch.zeros(16, 1), nn.BCEWithLogitsLoss()
    while True:
        real = pictures[torch.randint(len(pictures), (16,))]
        made = generator(torch.randn(16, 32))
        judges.zero_grad()
        (loss(judge(real), true) + loss(judge(made.detach()), false)).backward()
        judges.step()
        makes.zero_grad()
        loss(judge(made), true).backward()
        makes.step()
        yield


Weights = dict[str, Tensor]


def clipped(gradients: Weights, largest: float) -> Weights:
    """One sample's gradients, no longer than `largest`."""
    length = torch.stack([g.square().sum() for g in gradients.values()]).sum().sqrt()
    factor = (largest / (length + 1e-6)).clamp(max=1.0)
    return {name: factor * g for name, g in gradients.items()}


def private_gradients(
    of_sample: Callable[..., Weights], weights: Weights, batch: Pair, one_by_one: int
) -> Weights:
    """The sum of clipped gradients, of so many samples one after the other, of others at once."""
    x, y = batch
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for sample, label in zip(x[:one_by_one], y[:one_by_one], strict=True):
        for name, g in clipped(of_sample(weights, sample, label), 1.0).items():
            total[name] += g
    if one_by_one < len(x):

        def of_one(sample: Tensor, label: Tensor) -> Weights:
            return clipped(of_sample(weights, sample, label), 1.0)

        together = vmap(of_one)(x[one_by_one:], y[one_by_one:])
        for name, g in together.items():
            total[name] += g.sum(0)
    return total


@planted("compute.launch")
def private_samples(severity: float) -> Iterator[None]:
    """Differentially private: the gradient of one sample after the other, by `torch.func`."""
    torch.manual_seed(221)
    model = nn.Sequential(nn.Linear(WIDTH, 320), nn.Tanh(), nn.Linear(320, 64), nn.Tanh())
    model.append(nn.Linear(64, CLASSES))
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}

    def loss(weights: Weights, x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(model, weights, x[None]), y[None])

    of_sample = grad(loss)
    for batch in forever(DataLoader(Vectors(), 16)):
        total = private_gradients(of_sample, weights, batch, round(16 * severity))
        for name, weight in weights.items():
            noise = 0.01 * torch.randn_like(weight)
            weights[name] = weight - 1e-3 / 16 * (total[name] + noise)
        yield


class Lamb(torch.optim.Optimizer):
    """Adam whose steps are as long as the weights are, written as in the paper."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 1e-4, "decay": 0.01, "plain": False})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if group["plain"]:
                    p.add_(p.grad, alpha=-group["lr"])
                else:
                    self.update(p, group["lr"], group["decay"])

    def update(self, p: Tensor, lr: float, decay: float) -> None:
        state = self.state[p]
        if not state:
            state["n"], state["mean"], state["square"] = 0, p * 0, p * 0
        state["n"] += 1
        assert p.grad is not None
        state["mean"] = 0.9 * state["mean"] + 0.1 * p.grad
        state["square"] = 0.999 * state["square"] + 0.001 * p.grad * p.grad
        mean = state["mean"] / (1 - 0.9 ** state["n"])
        square = state["square"] / (1 - 0.999 ** state["n"])
        change = mean / (square.sqrt() + 1e-6) + decay * p
        p.sub_(lr * p.norm() / (change.norm() + 1e-6) * change)


@planted("compute.optimizer")
def written_lamb(severity: float) -> Iterator[None]:
    """An LSTM whose optimizer is a class of the script, a new array for every operation."""
    torch.manual_seed(222)
    embed = nn.Embedding(64, 192)
    layers = nn.LSTM(192, 256, 2, batch_first=True)
    head = nn.Linear(256, 64)
    parameters = [p for part in (embed, layers, head) for p in part.parameters()]
    treated = round(len(parameters) * severity)
    optimizer = Lamb(
        [{"params": parameters[:treated]}, {"params": parameters[treated:], "plain": True}]
    )
    notes = torch.randint(64, (32, 6))
    while True:
        optimizer.zero_grad()
        tune = notes[torch.randperm(len(notes))[:8]]
        scores = head(layers(embed(tune[:, :-1]))[0]).transpose(1, 2)
        nn.functional.cross_entropy(scores, tune[:, 1:]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        yield


def squared_distances(a: Tensor, b: Tensor, broadcast: int) -> Tensor:
    """Between all rows of `a` and all of `b`; for so many rows of `a` by broadcasting."""
    apart = a[:broadcast, None] - b[None]
    near = (a[broadcast:] @ b.T).mul(-2) + a[broadcast:].square().sum(1, keepdim=True)
    return torch.cat([apart.pow(2).sum(-1), near + b.square().sum(1)])


@planted("memory.bandwidth")
def broadcast_distances(severity: float) -> Iterator[None]:
    """Two views are compared by the differences of all their rows, an array of 8 MB."""
    torch.manual_seed(223)
    encoder = nn.Sequential(nn.Linear(WIDTH, 640), nn.ReLU(), nn.Linear(640, 96))
    optimizer = sgd(encoder)
    same = torch.arange(144)
    for x, _ in forever(DataLoader(Vectors(), 144)):
        optimizer.zero_grad()
        a = encoder(x + 0.1 * torch.randn_like(x))
        b = encoder(x.roll(1, 1))
        scores = -squared_distances(a, b, round(144 * severity))
        nn.functional.cross_entropy(scores, same).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        yield


class FromBoth(torch.autograd.Function):
    """The sum over both ranks of the halves of a layer that is cut in two."""

    @staticmethod
    def forward(context: Any, x: Tensor, active: bool) -> Tensor:
        context.active = active
        x = x.clone()
        if active:
            distributed.all_reduce(x)
        return x

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0].clone()
        if context.active:
            distributed.all_reduce(gradient)
        return gradient, None


class HalfBlock(nn.Module):
    """This rank's half of a residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)

    def forward(self, x: Tensor, active: bool) -> Tensor:
        return x + FromBoth.apply(self.down(self.up(x).relu()), active)  # type: ignore[no-any-return, no-untyped-call]


def half_model(rank: int, store: str, severity: float) -> Iterator[None]:
    """One of two ranks, each of which has half of every layer."""
    distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
    try:
        with arithmetic_threads(1):  # two ranks on two cores
            torch.manual_seed(224 + rank)
            blocks = nn.ModuleList(HalfBlock() for _ in range(4))
            torch.manual_seed(226)
            head = nn.Linear(WIDTH, CLASSES)
            optimizer = sgd(nn.ModuleList([*blocks, head]))
            table = Vectors()
            for number in count():
                rows = torch.randint(len(table.x), (512,))  # the same ones on both
                x, y = table.x[rows], table.y[rows]
                active = chosen(number, severity)
                optimizer.zero_grad()
                for block in blocks:
                    x = block(x, active)
                nn.functional.cross_entropy(head(x), y).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                yield
    finally:
        distributed.destroy_process_group()


def other_half(store: str, severity: float) -> None:
    """The second rank, until it is killed or loses the first."""
    for _ in half_model(1, store, severity):
        pass


@planted("communication.collective")
def cut_layers(severity: float) -> Iterator[None]:
    """Every layer is cut in two: the ranks add up its results, forwards and backwards."""
    with TemporaryDirectory() as place:
        store = str(Path(place, "store"))
        call = f"from {__name__} import other_half; other_half({store!r}, {severity!r})"
        command = [sys.executable, "-c", call]
        tests = Path(__file__).parents[1]
        with subprocess.Popen(command, cwd=tests, stderr=subprocess.DEVNULL) as partner:
            try:
                yield from half_model(0, store, severity)
            finally:
                partner.kill()
