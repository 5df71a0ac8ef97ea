"""Held-out loops that are held back by the model, its update or the memory that they go through."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ground_truth.loop import planted
from ground_truth.parts import CLASSES


class Distiller:
    """Trains a small network on what a large one says."""

    def __init__(self, teacher_channels: int, temperature: float = 4.0) -> None:
        torch.manual_seed(330)
        self.temperature = temperature
        self.teacher = self.network(teacher_channels).eval().requires_grad_(False)
        self.student = self.network(8)
        self.optimizer = torch.optim.SGD(
            self.student.parameters(), lr=1e-2, momentum=0.9, foreach=True
        )

    @staticmethod
    def network(channels: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, stride=2, padding=1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(channels, CLASSES),
        )

    def training_step(self, pictures: Tensor) -> Tensor:
        with torch.inference_mode():
            soft = (self.teacher(pictures) / self.temperature).softmax(1)
        said = (self.student(pictures) / self.temperature).log_softmax(1)
        return nn.functional.kl_div(said, soft.clone(), reduction="batchmean")

    def fit(self, pictures: Tensor) -> Iterator[None]:
        while True:
            for rows in torch.randperm(len(pictures)).view(-1, 32):
                loss = self.training_step(pictures[rows])
                self.optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                self.optimizer.step()
                yield


@planted("compute.arithmetic", held_out=True)
def asked_teacher(severity: float) -> Iterator[None]:
    """Distillation: a wide convolutional teacher looks at every picture anew."""
    yield from Distiller(2 + round(54 * severity)).fit(torch.randn(256, 3, 24, 24))


class Decaying(nn.Module):
    """A linear recurrence h = a h + u over time: moment by moment, or as a weighted sum."""

    def __init__(self, width: int, step_by_step: bool) -> None:
        super().__init__()
        self.step_by_step = step_by_step
        self.enter, self.leave = nn.Linear(width, width), nn.Linear(width, width)
        self.rate = nn.Parameter(torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        u, a = self.enter(x), 0.9 + 0.1 * self.rate.sigmoid()
        states = self.scan(u, a) if self.step_by_step else self.at_once(u, a)
        return x + self.leave(states).relu()  # type: ignore[no-any-return]

    @staticmethod
    def scan(u: Tensor, a: Tensor) -> Tensor:
        states, state = [], torch.zeros_like(u[:, 0])
        for moment in u.unbind(1):
            state = a * state + moment
            states.append(state)
        return torch.stack(states, 1)

    @staticmethod
    def at_once(u: Tensor, a: Tensor) -> Tensor:
        powers = a ** torch.arange(u.shape[1])[:, None]
        return (u / powers).cumsum(1) * powers


@planted("compute.launch", held_out=True)
def recurrence_by_hand(severity: float) -> Iterator[None]:
    """Forecasts: four layers with a recurrence that Python goes through moment by moment."""
    torch.manual_seed(331)
    layers = [Decaying(16, number < round(4 * severity)) for number in range(4)]
    model = nn.Sequential(*layers, nn.Linear(16, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, foreach=True)
    series = torch.randn(400, 16).cumsum(0) / 20
    while True:
        starts = torch.randint(400 - 81, (8, 1))
        windows = series[starts + torch.arange(81)]
        optimizer.zero_grad()
        loss = nn.functional.huber_loss(model(windows[:, :-1])[..., 0], windows[:, 1:, 0])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        yield


class ItemAutoencoder(nn.Module):
    """Guesses, from the items that somebody took, which others that person would take."""

    def __init__(self, items: int) -> None:
        super().__init__()
        torch.manual_seed(332)
        self.encode, self.spread = nn.Linear(items, 256), nn.Linear(256, 256)
        self.decode = nn.Linear(128, items)

    def forward(self, taken: Tensor) -> tuple[Tensor, Tensor]:
        mean, scale = self.spread(self.encode(nn.functional.normalize(taken)).tanh()).chunk(2, 1)
        divergence = 0.5 * (mean.square() + scale.exp() - scale - 1).sum(1)
        return self.decode(mean + torch.randn_like(mean) * (scale / 2).exp()), divergence


@planted("compute.optimizer", held_out=True)
def few_users(severity: float) -> Iterator[None]:
    """A recommender of 8 users a step and four million weights, all of which Adam updates."""
    model = ItemAutoencoder(10_000)
    by_adam = severity > 0
    optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    if by_adam:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, amsgrad=True)
    users = (torch.rand(64, 10_000) < 0.01).float()
    for rows in iter(lambda: torch.randint(64, (8,)), None):
        optimizer.zero_grad()
        scores, divergence = model(users[rows])
        likelihood = (scores.log_softmax(1) * users[rows]).sum(1)
        (0.2 * divergence - likelihood).mean().backward()
        optimizer.step()
        yield


class WrittenNorm(nn.Module):
    """Instance norm and a leaky step, written out operator by operator."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))
        self.shift = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean((2, 3), keepdim=True)
        variance = (centred * centred).mean((2, 3), keepdim=True)
        normal = centred / (variance + 1e-5).sqrt()
        y = normal * self.scale + self.shift
        return torch.where(y > 0, y, 0.1 * y)


@planted("memory.bandwidth", held_out=True)
def written_norms(severity: float) -> Iterator[None]:
    """Segmentation: four norms over maps of 4 MB, each a dozen operators."""
    torch.manual_seed(333)
    net = nn.Sequential(nn.Conv2d(1, 8, 1))
    for number in range(4):
        if number < round(4 * severity):
            net.append(WrittenNorm(8))
        else:
            net.append(nn.InstanceNorm2d(8, affine=True)).append(nn.LeakyReLU(0.1, inplace=True))
    net.append(nn.Conv2d(8, 2, 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    scans = torch.randn(24, 1, 144, 144)
    organs = (scans[:, 0] > 0.5).long()
    while True:
        rows = torch.randint(24, (6,))
        optimizer.zero_grad()
        scores = net(scans[rows])[:, :, ::4, ::4]
        loss = nn.functional.cross_entropy(scores, organs[rows, ::4, ::4])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        yield


@planted("memory.growth", accepted=("memory.bandwidth",), held_out=True, period=40)
def epoch_album(severity: float) -> Iterator[None]:
    """Keeps copies of all batches of an epoch of 40 steps, for its ten worst pictures."""
    torch.manual_seed(334)
    net = nn.Sequential(nn.Conv2d(3, 4, 8, stride=16), nn.ReLU(), nn.Flatten())
    net.append(nn.Linear(400, CLASSES))
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    pictures, labels = torch.randn(320, 3, 160, 160), torch.randint(CLASSES, (320,))
    while True:
        album, losses = [], []
        for step in range(40):
            rows = slice(step % 5 * 64, step % 5 * 64 + 64)
            optimizer.zero_grad()
            scores = net(pictures[rows])
            loss = nn.functional.cross_entropy(scores, labels[rows], reduction="none")
            loss.mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            kept = round(64 * severity)
            album.append(pictures[rows][:kept].clone())
            losses.append(loss.detach()[:kept])
            if step == 39:
                worst = torch.cat(losses).argsort(descending=True)[:10].tolist()
                shown = [album[number // kept][number % kept].mean() for number in worst]
                assert len(shown) <= 10
            yield
