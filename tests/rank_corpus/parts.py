"""What the programs share: a small model, data, the exchange of gradients."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from ground_truth.parts import CLASSES, WIDTH, Pair, Vectors, batches_of, sgd
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

BATCH = 8


class Slept(Vectors):
    """Vectors that come from far away: each takes some seconds to arrive."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def prepare(self, index: int) -> None:
        """Wait for the sample."""
        time.sleep(self.seconds)


def perceptron(hidden: int, depth: int = 1) -> nn.Sequential:
    """Gradients of about 4 (256 h + d h**2 + 10 h) bytes, for h hidden units and depth d."""
    torch.manual_seed(7)
    layers: list[nn.Module] = [nn.Linear(WIDTH, hidden), nn.ReLU()]
    for _ in range(depth):
        layers += [nn.Linear(hidden, hidden), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden, CLASSES))


def loaded(dataset: Vectors, batch_size: int = BATCH) -> Iterator[Pair]:
    """Batches from a loader without workers."""
    return batches_of(dataset, workers=0, batch_size=batch_size)


def averaged(model: nn.Module) -> None:
    """Exchange all gradients in one message."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    together = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(together)
    together /= distributed.get_world_size()
    parts = torch.split(together, [gradient.numel() for gradient in gradients])
    for gradient, mean in zip(gradients, parts, strict=True):
        gradient.copy_(mean.view_as(gradient))


def replicated(model: nn.Module, **options: Any) -> DistributedDataParallel:
    """The model with an exchange that hides behind backward."""
    return DistributedDataParallel(model, **options)


def trained(
    batches: Iterator[Pair], model: nn.Module, *, exchange: bool | None = None
) -> Iterator[None]:
    """The usual loop.

    Args:
        batches: what to learn from.
        model: what learns.
        exchange: whether to average the gradients here; None: unless the model does so.
    """
    optimizer = sgd(model)
    if exchange is None:
        exchange = not isinstance(model, DistributedDataParallel)
    for x, y in batches:
        optimizer.zero_grad()
        loss: Tensor = nn.functional.cross_entropy(model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        if exchange:
            averaged(model)
        optimizer.step()
        yield
