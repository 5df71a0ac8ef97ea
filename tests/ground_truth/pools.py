"""Loops that are fed by processes of their own, without a loader."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import count
from typing import Any

import numpy as np
import torch

from ground_truth.loop import planted
from ground_truth.parts import BATCH, CLASSES, WIDTH, mlp, processes, sgd, train_step, work

Array = np.ndarray[Any, Any]
AHEAD = 4
"""Batches that are asked for before they are needed."""


def blurred(index: int, rounds: int) -> Array:
    """A batch of pictures, each blurred for a while."""
    chance = np.random.default_rng(index)
    pictures = chance.random((BATCH, WIDTH), dtype=np.float32)
    return work(pictures, rounds).astype(np.float32)


@planted("cpu_preprocessing.transform")
def awaited_pool(severity: float) -> Iterator[None]:
    """The processes of a `multiprocessing.Pool` blur the pictures of each batch."""
    model, y = mlp(), torch.arange(BATCH) % CLASSES
    optimizer = sgd(model)
    with processes(2) as pool:
        arguments = ((index, round(480 * severity)) for index in count())
        pending = deque(pool.apply_async(blurred, next(arguments)) for _ in range(AHEAD))
        while True:
            pending.append(pool.apply_async(blurred, next(arguments)))
            train_step(model, optimizer, (torch.from_numpy(pending.popleft().get()), y))
            yield


def views(index: int, number: int) -> list[Array]:
    """A picture in so many more shades."""
    picture = np.full((BATCH, WIDTH), index % 7, np.float32)
    return [picture + view for view in range(1 + number)]


@planted("cpu_preprocessing.handover")
def executor_views(severity: float) -> Iterator[None]:
    """A `ProcessPoolExecutor` hands over a hundred times as much as a step looks at."""
    model, y = mlp(256, 1), torch.arange(BATCH) % CLASSES
    optimizer, number = sgd(model), round(150 * severity)
    executor = ProcessPoolExecutor(2, multiprocessing.get_context("fork"))
    try:
        pending = deque(executor.submit(views, index, number) for index in range(AHEAD))
        for index in count(AHEAD):
            pending.append(executor.submit(views, index, number))
            train_step(model, optimizer, (torch.from_numpy(pending.popleft().result()[0]), y))
            yield
    finally:
        executor.shutdown(cancel_futures=True)


def put_words(queue: Any, number: int) -> None:
    """Ready-made batches with their words, for ever."""
    words = [f"word {n} of the text" for n in range(number)]
    while True:
        queue.put((np.zeros((BATCH, WIDTH), np.float32), words))


@planted("cpu_preprocessing.handover")
def queued_words(severity: float) -> Iterator[None]:
    """A process of the script's own sends a hundred thousand strings a batch through a queue."""
    model, y = mlp(256, 1), torch.arange(BATCH) % CLASSES
    optimizer, context = sgd(model), multiprocessing.get_context("fork")
    queue: Any = context.Queue(AHEAD)
    process = context.Process(
        target=put_words, args=(queue, round(100_000 * severity)), daemon=True
    )
    process.start()
    try:
        while True:
            x, _ = queue.get()
            train_step(model, optimizer, (torch.from_numpy(x), y))
            yield
    finally:
        process.kill()
        process.join()
        queue.close()
