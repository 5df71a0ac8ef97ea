"""Ranks with nothing wrong: neither a straggler nor a link is to be blamed.

At 0.0 they exchange nothing, or all links are fast, to show that nothing is to gain.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import repeat

import torch
from ground_truth.parts import CLASSES, WIDTH, Pair
from torch import Tensor, nn

from rank_corpus.case import Rank, balanced
from rank_corpus.network import both_ways
from rank_corpus.parts import perceptron, replicated, trained


class Device(nn.Module):
    """Takes its time without a core, so that ranks do not take them from each other."""

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.06)
        return x


def model(hidden: int) -> nn.Sequential:
    """A perceptron that computes for long."""
    return nn.Sequential(Device(), *perceptron(hidden))


def batches() -> Iterator[Pair]:
    """One batch again and again, for data that costs nothing."""
    return repeat((torch.randn(16, WIDTH), torch.randint(CLASSES, (16,))))


@balanced(3)
def even_ranks(rank: Rank) -> Iterator[None]:
    """Three ranks alike, whose gradients travel quickly."""
    yield from trained(batches(), model(64), exchange=rank.severity > 0)


@balanced(3)
def even_replicas(rank: Rank) -> Iterator[None]:
    """The same behind DistributedDataParallel."""
    together = replicated(model(64)) if rank.severity else model(64)
    yield from trained(batches(), together, exchange=False)


@balanced(3, slow={1: both_ways(200e6)})
def slow_link_hardly_used(rank: Rank) -> Iterator[None]:
    """One rank is behind 200 Mbit/s, and sends 27 KB a step."""
    yield from trained(batches(), model(24))
