"""A third set of loops that are held back by what the script does beside the training."""

from __future__ import annotations

import json
import math
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ground_truth.loop import planted
from ground_truth.parts import CLASSES, WIDTH, Vectors, chosen, forever, mlp, sgd, train_step

FRAMES, LETTERS = 24, 8


def best_prefixes(frames: list[list[float]], width: int = 5) -> list[tuple[int, ...]]:
    """Prefix beam search over the frames' log-probabilities; letter 0 is the blank."""
    beams: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, -math.inf)}
    for frame in frames:
        new: dict[tuple[int, ...], tuple[float, float]] = defaultdict(
            lambda: (-math.inf, -math.inf)
        )
        for prefix, (blank, letter) in beams.items():
            both = max(blank, letter)
            for symbol, score in enumerate(frame):
                if symbol == 0:
                    old = new[prefix]
                    new[prefix] = (max(old[0], both + score), old[1])
                elif prefix and prefix[-1] == symbol:
                    old = new[prefix]
                    new[prefix] = (old[0], max(old[1], letter + score))
                else:
                    longer = (*prefix, symbol)
                    old = new[longer]
                    new[longer] = (old[0], max(old[1], both + score))
        ranked = sorted(new.items(), key=lambda item: max(item[1]), reverse=True)
        beams = dict(ranked[:width])
    return list(beams)


@planted("host.python")
def beam_search(severity: float) -> Iterator[None]:
    """After every step some of the batch is decoded by a beam search, to show a word error."""
    torch.manual_seed(80)
    model = nn.GRU(32, 96, batch_first=True)
    head = nn.Linear(96, LETTERS)
    optimizer = torch.optim.SGD([*model.parameters(), *head.parameters()], lr=1e-3)
    chance = torch.Generator().manual_seed(81)
    x = torch.randn(32, FRAMES, 32, generator=chance)
    y = torch.randint(1, LETTERS, (32, 8), generator=chance)
    lengths = torch.full((32,), FRAMES), torch.full((32,), 8)
    while True:
        optimizer.zero_grad()
        logs = head(model(x)[0]).log_softmax(2)
        nn.functional.ctc_loss(logs.transpose(0, 1), y, *lengths).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        shown = logs[: round(9 * severity)].detach().tolist()
        for frames, wanted in zip(shown, y.tolist(), strict=False):
            len(set(best_prefixes(frames)[0]) ^ set(wanted))
        yield


@planted("host.logging")
def json_lines(severity: float) -> Iterator[None]:
    """A line of JSON for every sample's scores, flushed at once so that one can follow it."""
    model = mlp(hidden=320)
    optimizer = sgd(model)
    with TemporaryDirectory() as place, Path(place, "samples.jsonl").open("w") as file:
        for number, (x, y) in enumerate(forever(DataLoader(Vectors(), 192))):
            optimizer.zero_grad()
            scores = model(x)
            losses = nn.functional.cross_entropy(scores, y, reduction="none")
            losses.mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            rows = torch.cat([losses[:, None], scores.softmax(1)], 1).detach().tolist()
            for sample, row in enumerate(rows[: round(192 * severity)]):
                record = {"step": number, "sample": sample, "loss": row[0], "scores": row[1:]}
                print(json.dumps(record), file=file, flush=True)
            yield


@planted("host.sync")
def class_report(severity: float) -> Iterator[None]:
    """Per-class sums of per-pixel losses, asked for pixel by pixel."""
    torch.manual_seed(82)
    model = nn.Sequential(
        nn.Conv2d(3, 48, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(48, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, CLASSES, 1),
    )
    optimizer = sgd(model)
    chance = torch.Generator().manual_seed(83)
    x = torch.randn(8, 3, 16, 16, generator=chance)
    y = torch.randint(CLASSES, (8, 16, 16), generator=chance)
    while True:
        optimizer.zero_grad()
        losses = nn.functional.cross_entropy(model(x), y, reduction="none")
        losses.mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        report = [0.0] * CLASSES
        asked = round(losses.numel() * severity)
        flat, labels = losses.detach().flatten(), y.flatten()
        for loss, label in zip(flat[:asked], labels[:asked], strict=True):
            report[int(label)] += float(loss)
        rest = torch.zeros(CLASSES).index_add(0, labels[asked:], flat[asked:])
        report = [a + b for a, b in zip(report, rest.tolist(), strict=True)]
        yield


def write_weights(model: nn.Module, path: Path) -> None:
    """A header that says what lies where, and then the weights' bytes."""
    header, blobs, place = {}, [], 0
    for name, weight in model.state_dict().items():
        blob = weight.numpy().tobytes()
        header[name] = {"shape": list(weight.shape), "place": [place, place + len(blob)]}
        blobs.append(blob)
        place += len(blob)
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for blob in blobs:
            file.write(blob)


@planted("host.checkpoint", period=4)
def raw_weights(severity: float) -> Iterator[None]:
    """Every fourth step writes the weights, a frozen table and all, and copies the file."""
    torch.manual_seed(84)
    table = nn.EmbeddingBag(14_000, WIDTH).requires_grad_(False)
    model = nn.Sequential(table, mlp(hidden=512))
    optimizer = sgd(model)
    y = torch.arange(64) % CLASSES
    with TemporaryDirectory() as place:
        last, best = Path(place, "last.bin"), Path(place, "best.bin")
        number = 0
        while True:
            number += 1
            words = (torch.arange(64 * 20).reshape(64, 20) * 7 + number) % 14_000
            train_step(model, optimizer, (words, y))
            if number % 4 == 0 and chosen(number // 4, severity):
                write_weights(model, last)
                shutil.copyfile(last, best)
            yield


@torch.no_grad()
def held_back_loss(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Mean loss on data that is not trained with."""
    model.eval()
    loss = nn.functional.cross_entropy(model(x), y)
    model.train()
    return loss.item()


@planted("host.validation")
def every_step_evaluated(severity: float) -> Iterator[None]:
    """A smooth validation curve: after every step the loss on a large batch held back."""
    model = mlp(hidden=512, depth=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, foreach=True)
    size = round(480 * severity)
    x = torch.randn(size, WIDTH, generator=torch.Generator().manual_seed(85))
    curve: list[float] = []
    for batch in forever(DataLoader(Vectors(), 96)):
        train_step(model, optimizer, batch)
        if size:
            curve.append(held_back_loss(model, x, torch.arange(size) % CLASSES))
        del curve[:-100]
        yield


@planted("host.compilation", period=48)
def width_sweep(severity: float) -> Iterator[None]:
    """A search over widths: every trial of twelve steps compiles a model of its own."""
    torch._dynamo.reset()
    trial, kept = 0, compiled_of(512)
    try:
        while True:
            model = compiled_of(512 + 8 * (trial % 4)) if chosen(trial, severity) else kept
            optimizer = sgd(model)
            batches = iter(DataLoader(Vectors(12 * 80), 80))
            for batch in batches:
                train_step(model, optimizer, batch)
                yield
            trial += 1
    finally:
        torch._dynamo.reset()


def compiled_of(width: int) -> nn.Module:
    """A compiled perceptron that has nothing to do with those compiled before."""
    torch._dynamo.reset()
    compiled: nn.Module = torch.compile(mlp(hidden=width), backend="eager")  # type: ignore[assignment]
    return compiled
