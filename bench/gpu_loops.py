"""Six training loops for a device, each with one planted cause, or without it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

DATA = {"data_loading.storage", "data_loading.network", "cpu_preprocessing.transform"}


class Size(NamedTuple):
    """How large the loops are: for a device, or just to see them run."""

    batch: int
    width: int
    layers: int
    large: int
    copied: int
    tiny: int


ON_DEVICE = Size(batch=1024, width=2048, layers=16, large=1 << 26, copied=1 << 25, tiny=400)
SMOKE = Size(batch=8, width=16, layers=2, large=1 << 10, copied=1 << 10, tiny=5)


class Batches(Dataset[torch.Tensor]):
    """Whole batches that are late."""

    def __init__(self, seconds: float, size: Size) -> None:
        self._seconds = seconds
        self._batch = torch.ones(size.batch, size.width)

    def __len__(self) -> int:
        return 100_000

    def __getitem__(self, index: int) -> torch.Tensor:
        time.sleep(self._seconds)
        return self._batch


class Net(nn.Module):
    """A few layers, and what is planted among them."""

    def __init__(self, size: Size, layers: int, *, elementwise: int = 0, tiny: int = 0) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(size.width, size.width) for _ in range(layers)))
        self.large = nn.Parameter(torch.ones(size.large if elementwise else 1))
        self.small = nn.Parameter(torch.ones(16))
        self._elementwise, self._tiny = elementwise, tiny

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A scalar."""
        y: torch.Tensor = self.layers(x).square().mean()
        large, small = self.large, self.small
        for _ in range(self._elementwise):
            large = large * 1.0001
        for _ in range(self._tiny):
            small = small * 1.0001
        return y + large.sum() * 1e-12 + small.sum() * 1e-12


class Loop:
    """A training loop with one planted cause, or without it.

    Args:
        name: which.
        planted: whether the cause is there.
        device: where.
        size: how large.
    """

    def __init__(self, name: str, planted: bool, device: str, size: Size) -> None:
        many = size.layers if planted or name == "sync" else 0
        self.model = Net(
            size,
            2 + (many if name in ("gemm", "sync") else 0),
            elementwise=12 if name == "bandwidth" and planted else 0,
            tiny=size.tiny if name == "launch" and planted else 0,
        ).to(device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-6)
        self.batches: Iterable[Any] = same(torch.ones(size.batch, size.width, device=device))
        if name == "data":
            self.batches = DataLoader(
                Batches(0.02 if planted else 0.0, size), batch_size=None, num_workers=1
            )
        self._device = device
        self._extra = torch.ones(size.copied) if name == "copy" and planted else None
        self._reads = name == "sync" and planted
        self._python_s = 0.003 if name == "sync" else 0.0

    def step(self, batch: torch.Tensor) -> None:
        """One training step."""
        if self._extra is not None:
            self._extra.to(self._device)
        loss = self.model(batch.to(self._device))
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self._reads:
            loss.item()
        if self._python_s:
            end = time.perf_counter() + self._python_s
            while time.perf_counter() < end:
                pass


LOOPS: dict[str, set[str]] = {
    "gemm": {"compute.arithmetic"},
    "bandwidth": {"memory.bandwidth"},
    "launch": {"compute.launch"},
    "copy": {"data_loading.host_to_device"},
    "sync": {"host.sync"},
    "data": DATA,
}
"""Which causes are right."""


def same(batch: torch.Tensor) -> Iterator[torch.Tensor]:
    while True:
        yield batch
