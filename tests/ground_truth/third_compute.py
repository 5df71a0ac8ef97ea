"""A third set of loops that are held back by the model, its loss, its update or the other rank."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, distributed, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.utils.data import DataLoader, Dataset

from ground_truth.loop import planted
from ground_truth.parts import (
    CLASSES,
    ENDLESS,
    Pair,
    Vectors,
    arithmetic_threads,
    chosen,
    forever,
    mlp,
    sgd,
    train,
    train_step,
)


class Clips(Dataset[Pair]):
    """Short video clips in memory."""

    def __init__(self) -> None:
        self.clips = torch.randn(16, 3, 6, 24, 24, generator=torch.Generator().manual_seed(70))

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> Pair:
        return self.clips[index % 16], torch.tensor(index % CLASSES)


@planted("compute.arithmetic")
def video_net(severity: float) -> Iterator[None]:
    """Convolutions over space and time with many channels in the middle."""
    torch.manual_seed(71)
    middle = 1 + round(37 * severity)
    model = nn.Sequential(
        nn.Conv3d(3, 16, (1, 3, 3), padding=(0, 1, 1)),
        nn.ReLU(),
        nn.Conv3d(16, middle, 3, padding=1),
        nn.ReLU(),
        nn.Conv3d(middle, 16, 3, stride=(1, 2, 2), padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    )
    yield from train(forever(DataLoader(Clips(), 4)), model)


def overlap(boxes: Tensor, box: Tensor) -> Tensor:
    """Intersection over union of many boxes (x1, y1, x2, y2) with one or as many others."""
    low, high = torch.maximum(boxes[..., :2], box[..., :2]), torch.minimum(boxes, box)[..., 2:]
    shared = (high - low).clamp(min=0).prod(-1)
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    return shared / (area + (box[..., 2:] - box[..., :2]).prod(-1) - shared)


class Detector(nn.Module):
    """Says for each of 64 anchors of a picture what stands there."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(72)
        corners = torch.rand(64, 2)
        self.register_buffer("anchors", torch.cat([corners, corners + 0.2], 1))
        self.layers = nn.Sequential(mlp(hidden=768, depth=2), nn.Linear(CLASSES, 64 * 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).reshape(-1, 64, 2).transpose(1, 2)  # type: ignore[no-any-return]

    def matched(self, boxes: Tensor, one_by_one: int) -> Tensor:
        """Which anchor has a box, for pictures of three boxes, so many of them box by box."""
        anchors = self.get_buffer("anchors")
        target = torch.zeros(len(boxes), 64, dtype=torch.int64)
        for row, picture in enumerate(boxes[:one_by_one]):
            for box in picture:
                found = overlap(anchors, box)
                target[row] |= (found > 0.3) | (found == found.max())
        found = overlap(anchors[None, :, None], boxes[one_by_one:, None])
        best = found == found.amax(1, keepdim=True)
        target[one_by_one:] = ((found > 0.3) | best).any(2).long()
        return target


@planted("compute.launch")
def anchor_matching(severity: float) -> Iterator[None]:
    """A detector whose loss compares one true box after the other with the anchors."""
    model = Detector()
    optimizer = sgd(model)
    corners = torch.rand(24, 3, 2, generator=torch.Generator().manual_seed(73)) * 0.8
    boxes = torch.cat([corners, corners + 0.2], 2)
    for x, _ in forever(DataLoader(Vectors(), 24)):
        optimizer.zero_grad()
        scores = model(x)
        target = model.matched(boxes, round(24 * severity))
        nn.functional.cross_entropy(scores, target).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        yield


class Sites(nn.Module):
    """A perceptron whose inputs come from 160 instruments, each with a scale of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.base = mlp(hidden=512, depth=2)
        self.scales = nn.ParameterList(torch.ones(64) for _ in range(160))

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.cat(list(self.scales)).reshape(-1, 256).mean(0)
        return self.base(x * scale)  # type: ignore[no-any-return]


# What stands around the step of the optimizer belongs to the update, and is many operators.
@planted("compute.optimizer", accepted=("compute.launch",))
def ema_and_decay(severity: float) -> Iterator[None]:
    """Clips, decays and averages parameter by parameter, as the script has always done."""
    model = Sites()
    parameters = list(model.scales)
    averages = [p.detach().clone() for p in parameters]
    treated = round(len(parameters) * severity)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, foreach=True)
    for x, y in forever(DataLoader(Vectors(), 48)):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for p in parameters[:treated]:
                assert p.grad is not None
                p.grad.mul_((1.0 / (p.grad.norm() + 1e-6)).clamp(max=1.0))
                p.mul_(1 - 1e-5)
        optimizer.step()
        with torch.no_grad():
            for p, average in zip(parameters[:treated], averages, strict=False):
                average.mul_(0.999).add_(p, alpha=0.001)
        yield


VOCABULARY = 16_000


def smoothed(scores: Tensor, y: Tensor, by_hand: int) -> Tensor:
    """Cross entropy with smoothed labels, of so many rows written out as in the paper."""
    loss = scores.new_zeros(())
    if by_hand:
        wanted = nn.functional.one_hot(y[:by_hand], VOCABULARY).float()
        wanted = wanted * 0.9
        wanted = wanted + 0.1 / VOCABULARY
        shifted = scores[:by_hand] - scores[:by_hand].amax(1, keepdim=True).detach()
        shifted = shifted.clamp(min=-50.0)
        logs = shifted - shifted.logsumexp(1, keepdim=True)
        loss = loss - (wanted * logs).sum()
    if by_hand < len(y):
        rest = scores[by_hand:], y[by_hand:]
        loss = loss + nn.functional.cross_entropy(*rest, label_smoothing=0.1, reduction="sum")
    return loss / len(y)


@planted("memory.bandwidth")
def smoothed_one_hot(severity: float) -> Iterator[None]:
    """Smoothed labels over 16 000 words, in a dozen arrays of the size of all scores."""
    torch.manual_seed(74)
    model = nn.Sequential(nn.Linear(256, 32), nn.Tanh(), nn.Linear(32, VOCABULARY))
    optimizer = sgd(model)
    for number, (x, y) in enumerate(forever(DataLoader(Vectors(), 96))):
        optimizer.zero_grad()
        words = (y * 997 + number) % VOCABULARY
        smoothed(model(x), words, round(96 * severity)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        yield


def averaging_rank(rank: int, store: str, severity: float) -> Iterator[None]:
    """One of two ranks: trains for itself, then takes the mean of both models' weights."""
    distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
    try:
        with arithmetic_threads(1):  # two ranks on two cores
            model = mlp(hidden=640, depth=3)
            optimizer = sgd(model)
            batches = forever(DataLoader(Vectors(), 32))
            for number in count():
                train_step(model, optimizer, next(batches))
                if chosen(number, severity):
                    weights = parameters_to_vector(model.parameters()).detach()
                    distributed.all_reduce(weights)
                    vector_to_parameters(weights / 2, model.parameters())
                yield
    finally:
        distributed.destroy_process_group()


def other_rank(store: str, severity: float) -> None:
    """The second rank, until it is killed or loses the first."""
    for _ in averaging_rank(1, store, severity):
        pass


@planted("communication.collective")
def averaged_weights(severity: float) -> Iterator[None]:
    """Two ranks that average all their weights after every single step."""
    with TemporaryDirectory() as place:
        store = str(Path(place, "store"))
        call = f"from {__name__} import other_rank; other_rank({store!r}, {severity!r})"
        folder, quiet = Path(__file__).parents[1], subprocess.DEVNULL
        command = [sys.executable, "-c", call]
        with subprocess.Popen(command, cwd=folder, stderr=quiet) as partner:
            try:
                yield from averaging_rank(0, store, severity)
            finally:
                partner.kill()
