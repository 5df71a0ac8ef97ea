"""Gradients that travel over links of a rate that we have set."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from ground_truth.parts import Vectors
from torch import distributed

from rank_corpus.case import Rank, many_messages, slow_links
from rank_corpus.network import Link, both_ways
from rank_corpus.parts import Slept, loaded, perceptron, replicated, trained


@slow_links(4, {2: both_ways(50e6)})
def one_slow_link(rank: Rank) -> Iterator[None]:
    """One of four ranks is behind 50 Mbit/s; 350 KB of gradients in one message."""
    yield from trained(loaded(Slept(0.001)), perceptron(192))


@slow_links(3, {1: both_ways(50e6)})
def one_slow_link_hidden(rank: Rank) -> Iterator[None]:
    """One of three ranks is behind 50 Mbit/s; DistributedDataParallel hides what it can."""
    model = replicated(perceptron(256, 2), bucket_cap_mb=0.2)
    yield from trained(loaded(Slept(0.001), 32), model)


@slow_links(2, {0: both_ways(100e6), 1: both_ways(100e6)})
def all_links_slow(rank: Rank) -> Iterator[None]:
    """Two ranks, 100 Mbit/s each; 530 KB of gradients in one message."""
    yield from trained(loaded(Slept(0.001)), perceptron(256))


@slow_links(2, {0: both_ways(100e6), 1: both_ways(100e6)})
def all_links_slow_hidden(rank: Rank) -> Iterator[None]:
    """The same behind DistributedDataParallel, with much to compute."""
    model = replicated(perceptron(384, 2), bucket_cap_mb=0.3)
    yield from trained(loaded(Vectors(), 128), model)


@slow_links(4, {0: Link(20e6, 1e9)})
def slow_uplink(rank: Rank) -> Iterator[None]:
    """The first of four ranks receives quickly and sends with 20 Mbit/s."""
    yield from trained(loaded(Slept(0.001)), perceptron(96))


@slow_links(3, {0: both_ways(100e6)})
def large_gradients(rank: Rank) -> Iterator[None]:
    """2.3 MB of gradients, and 100 Mbit/s to one of three ranks."""
    yield from trained(loaded(Slept(0.001)), replicated(perceptron(640)))


@many_messages(2)
def message_a_metric(rank: Rank) -> Iterator[None]:
    """Twenty metrics, a message for each; at 0.0 all in one."""
    metrics = torch.rand(20, 8)
    alone = round(20 * rank.severity)
    for _ in trained(loaded(Slept(0.0002)), perceptron(64)):
        for metric in metrics[:alone]:
            distributed.all_reduce(metric)
        if alone < len(metrics):
            distributed.all_reduce(metrics[alone:].contiguous())
        yield
