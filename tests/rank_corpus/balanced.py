"""Ranks with nothing wrong: neither a straggler nor a link is to be blamed.

At 0.0 they exchange nothing, or all links are fast, to show that nothing is to gain.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat

import torch
from ground_truth.parts import CLASSES, WIDTH, Pair

from rank_corpus.case import Rank, balanced
from rank_corpus.network import both_ways
from rank_corpus.parts import perceptron, replicated, trained


def same(size: int) -> Iterator[Pair]:
    """One batch again and again, for data that costs nothing."""
    return repeat((torch.randn(size, WIDTH), torch.randint(CLASSES, (size,))))


@balanced(2)
def even_ranks(rank: Rank) -> Iterator[None]:
    """Two ranks alike: large batches and a small model, whose gradients travel quickly."""
    yield from trained(same(4096), perceptron(64), exchange=rank.severity > 0)


@balanced(2)
def even_replicas(rank: Rank) -> Iterator[None]:
    """The same behind DistributedDataParallel."""
    model = perceptron(96)
    together = replicated(model) if rank.severity else model
    yield from trained(same(4096), together, exchange=False)


@balanced(2, slow={1: both_ways(200e6)})
def slow_link_hardly_used(rank: Rank) -> Iterator[None]:
    """One rank is behind 200 Mbit/s, and sends 27 KB a step."""
    yield from trained(same(8192), perceptron(24))
