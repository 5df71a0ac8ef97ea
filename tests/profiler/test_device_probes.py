"""Copies to and from a device, and what waits for it, on a fake class of tensors."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from stepscope.profiler.observed import Observed
from stepscope.profiler.patches import Patches
from stepscope.profiler.probes import device, sync
from stepscope.profiler.recorder import Recorder

MS = 1_000_000


class FakeTensor:
    """Looks like a tensor as far as the probes ask; reading it takes 2 ms."""

    def __init__(self, is_cuda: bool, pinned: bool = False) -> None:
        self.is_cuda = is_cuda
        self._pinned = pinned

    def to(self, *args: Any, **kwargs: Any) -> FakeTensor:
        return FakeTensor(is_cuda=True)

    cuda = to

    def numel(self) -> int:
        return 1000

    def element_size(self) -> int:
        return 4

    def is_pinned(self) -> bool:
        return self._pinned

    def item(self) -> float:
        time.sleep(0.002)
        return 1.5

    tolist = cpu = numpy = nonzero = masked_select = unique = item
    __bool__ = __float__ = __int__ = item


class Watched:
    """The probes, installed."""

    def __init__(self, path: Path, patches: Patches, warmup_steps: int = 0) -> None:
        self.recorder, self.observed = Recorder(warmup_steps), Observed(path, 0)
        for probe in (device, sync):
            probe.install(self.recorder, patches, self.observed)

    @property
    def counted(self) -> tuple[int, int]:
        """Transfers and synchronisations of the running step."""
        counted, number = self.recorder.counted, self.recorder.counter
        return counted[number("transfers")], counted[number("syncs")]

    @property
    def copies(self) -> list[tuple[str, str, int, int | None, int | None]]:
        return [
            (c.direction, c.memory, c.calls, c.bytes, c.non_blocking)
            for c in self.observed.copies.as_list()
        ]


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Watched]:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "Tensor", FakeTensor)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    for waits in (torch.cuda.Event, torch.cuda.Stream):
        monkeypatch.setattr(waits, "synchronize", lambda *_: None)
    with Patches() as patches:
        made = Watched(tmp_path, patches)
        yield made
        made.recorder.close()


def test_copies_to_the_device_are_counted(watched: Watched) -> None:
    host, there = FakeTensor(False), FakeTensor(True)
    host.to("cuda")
    host.to(torch.device("cuda", 0), non_blocking=True)
    host.to(device="cuda:1")
    host.to(there)
    host.to(0)
    host.cuda()
    FakeTensor(False, pinned=True).cuda(non_blocking=True)
    assert watched.counted == (7, 0)
    assert watched.copies == [
        ("HtoD", "pageable", 6, 24_000, 1),
        ("HtoD", "pinned", 1, 4_000, 1),
    ]

    for _ in range(2):
        there.to("cuda")
        there.cuda()
        there.to(torch.float16)
        host.to("cpu")
        host.to(torch.float16)
        host.to(dtype=torch.float16)
        host.to(memory_format=torch.channels_last)
        host.to(host)
    assert watched.counted == (7, 0)


def test_copies_to_the_host_wait_unless_told_not_to(watched: Watched) -> None:
    there = FakeTensor(True)
    there.to("cpu")
    there.to(FakeTensor(False))
    there.to("cpu", non_blocking=True)
    assert watched.counted == (0, 2)
    assert watched.copies == [("DtoH", "pageable", 3, 12_000, 1)]


def test_waiting_for_the_device_is_counted(watched: Watched) -> None:
    there, host = FakeTensor(True), FakeTensor(False)
    there.item()
    there.tolist()
    float(there)
    torch.cuda.synchronize()
    torch.cuda.Event.synchronize(None)  # type: ignore[arg-type]
    torch.cuda.Stream.synchronize(None)  # type: ignore[arg-type]
    there.nonzero()
    there.masked_select()
    assert watched.counted == (0, 8)
    host.cpu()
    host.nonzero()
    assert watched.counted == (0, 8)
    sites = watched.recorder.sites.as_list(list(watched.recorder.phases))
    assert {site.file for site in sites} == {__file__}
    assert sum(site.calls for site in sites) == 8

    watched.recorder.end_step()
    steps = watched.recorder.steps("steady")
    assert steps.phases["sync"][0] >= 5 * 2 * MS
    phases = ("sync", "python", "transfer")
    assert sum(steps.phases[name][0] for name in phases) == sum(steps.wall_ns)


def test_only_steady_steps_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "Tensor", FakeTensor)
    with Patches() as patches:
        watched = Watched(tmp_path, patches, warmup_steps=1)
        for number in range(4):
            watched.recorder.in_window = number == 2
            FakeTensor(False).to("cuda")
            watched.recorder.end_step()
        assert watched.copies == [("HtoD", "pageable", 2, 8_000, 0)]
        watched.recorder.close()


def test_a_tensor_that_tells_nothing_is_still_copied(watched: Watched) -> None:
    class Silent(FakeTensor):
        def numel(self) -> int:
            raise NotImplementedError

    assert isinstance(Silent(False).to("cuda"), FakeTensor)
    assert watched.copies == []
    assert watched.observed.problems == [
        "a copy of a Silent is not counted: NotImplementedError()",
    ]
