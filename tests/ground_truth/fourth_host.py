"""A fourth set of loops that are held back by what the script does beside the training."""

from __future__ import annotations

import io
import math
import os
import random
from collections import deque
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ground_truth.loop import planted
from ground_truth.parts import CLASSES, WIDTH, Vectors, chosen, mlp, sgd, train_step


@planted("host.sync")
def kept_masks(severity: float) -> Iterator[None]:
    """Keeps the scores of every sixth pixel as a list of numbers, for a curve over the epoch."""
    torch.manual_seed(230)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 1, 3, padding=1), nn.Flatten(1)
    )
    optimizer = sgd(model)
    pictures = torch.randn(48, 3, 64, 64)
    masks = (pictures.mean(1).flatten(1) > 0).float()
    epoch: deque[list[float]] = deque(maxlen=16)
    while True:
        rows = torch.randperm(48)[:16]
        optimizer.zero_grad()
        scores = model(pictures[rows])
        loss = nn.functional.binary_cross_entropy_with_logits(scores, masks[rows])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        kept = round(len(rows) * severity)
        for row in range(kept):
            for line in scores[row].detach().view(64, 64):
                epoch.append([pixel.item() for pixel in line[::6]])
        yield


@planted("host.checkpoint", period=2)
def rolling_snapshots(severity: float) -> Iterator[None]:
    """Every second step keeps weights, averages and optimizer; the last three are not removed."""
    model = mlp(hidden=512, depth=2)
    averages = torch.optim.swa_utils.AveragedModel(model)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-4, foreach=True)
    with TemporaryDirectory() as place:
        kept: deque[Path] = deque()
        for number, batch in enumerate(DataLoader(Vectors(), 96), start=1):
            train_step(model, optimizer, batch)
            if number % 2 == 0 and chosen(number // 2, severity):
                buffer = io.BytesIO()
                state = {"model": model.state_dict(), "averages": averages.state_dict()}
                torch.save({"step": number, "optimizer": optimizer.state_dict(), **state}, buffer)
                path = Path(place, f"step-{number:08}.pt")
                with path.open("wb") as file:
                    file.write(buffer.getbuffer())
                    os.fsync(file.fileno())
                kept.append(path)
                if len(kept) > 3:
                    kept.popleft().unlink()
            yield


@planted("host.validation", period=6)
def nearest_neighbours(severity: float) -> Iterator[None]:
    """Every sixth step looks up, without a loader, the neighbours of all that is held back."""
    torch.manual_seed(231)
    encoder = nn.Sequential(nn.Linear(WIDTH, 320), nn.Mish(), nn.Linear(320, 64))
    centres = nn.Parameter(torch.randn(CLASSES, 64))
    optimizer = torch.optim.SGD([*encoder.parameters(), centres], lr=1e-3, foreach=True)
    known, asked = torch.randn(2048, WIDTH), torch.randn(round(1800 * severity), WIDTH)
    labels, truth = torch.arange(2048) % CLASSES, torch.arange(len(asked)) % CLASSES
    best = torch.zeros(())
    for number, (x, y) in enumerate(DataLoader(Vectors(), 160), start=1):
        optimizer.zero_grad()
        scores = nn.functional.normalize(encoder(x)) @ nn.functional.normalize(centres).T
        nn.functional.cross_entropy(scores / 0.1, y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if number % 6 == 0 and len(asked):
            encoder.eval()
            with torch.no_grad():
                bank = nn.functional.normalize(encoder(known))
                near = (nn.functional.normalize(encoder(asked)) @ bank.T).topk(20).indices
                best = torch.maximum(best, (labels[near].mode().values == truth).float().mean())
            encoder.train()
        yield


State = tuple[float, float, float, float]


def swing(state: State, push: float) -> State:
    """A twentieth of a second of a pole on a cart, in 24 steps."""
    x, speed, angle, turning = state
    for _ in range(24):
        sine, cosine = math.sin(angle), math.cos(angle)
        force = (push + 0.05 * turning * turning * sine) / 1.1
        bend = (9.8 * sine - cosine * force) / (0.5 * (4 / 3 - 0.1 * cosine * cosine / 1.1))
        pull = force - 0.05 * bend * cosine / 1.1
        x, speed = x + 0.002 * speed, speed + 0.002 * pull
        angle, turning = angle + 0.002 * turning, turning + 0.002 * bend
    return (x, speed, angle, turning) if abs(angle) < 0.4 else (0.0, 0.0, 0.01, 0.0)


class Carts:
    """Carts, of which so many are simulated by Python and the others by a table."""

    def __init__(self, carts: int, simulated: int) -> None:
        chance = random.Random(232)
        self.simulated = simulated
        self.states = [(0.0, 0.0, chance.uniform(-0.1, 0.1), 0.0) for _ in range(carts)]
        self.table = np.random.default_rng(233).standard_normal((carts, 4)).astype(np.float32)

    def move(self, pushes: list[int]) -> Tensor:
        """The states after all have been pushed, (carts, 4)."""
        for cart in range(self.simulated):
            self.states[cart] = swing(self.states[cart], 20.0 * pushes[cart] - 10.0)
        self.table = np.roll(self.table, 1, 0)
        seen = self.table.copy()
        if self.simulated:
            seen[: self.simulated] = self.states[: self.simulated]
        return torch.from_numpy(seen)


@planted("host.python")
def pole_rollouts(severity: float) -> Iterator[None]:
    """Reinforcement learning: carts simulated in Python, then four updates of the policy."""
    torch.manual_seed(234)
    policy = nn.Sequential(nn.Linear(4, 96), nn.Tanh(), nn.Linear(96, 96), nn.Tanh())
    policy.append(nn.Linear(96, 2))
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-4, foreach=True)
    carts = Carts(96, round(96 * severity))
    states = carts.move([0] * 96)
    for _ in count():
        seen, done, gained = [], [], []
        with torch.no_grad():
            for _ in range(6):
                pushes = policy(states).softmax(1).multinomial(1)[:, 0]
                seen.append(states)
                done.append(pushes)
                states = carts.move(pushes.tolist())
                gained.append(1 - states[:, 2].abs())
        advantage = torch.cat(gained) - torch.cat(gained).mean()
        for part in torch.randperm(6 * 96).chunk(4):
            optimizer.zero_grad()
            scores = policy(torch.cat(seen)[part])
            taken = nn.functional.cross_entropy(scores, torch.cat(done)[part], reduction="none")
            loss = (taken * advantage[part]).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        yield
