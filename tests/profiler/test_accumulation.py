from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from loops import Net, calls, record, run_steps
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from stepscope.profiler import profile


@pytest.fixture
def _alone() -> Iterator[None]:
    """A process group of one."""
    distributed.init_process_group(
        "gloo",
        store=distributed.HashStore(),  # type: ignore[attr-defined]
        rank=0,
        world_size=1,
    )
    yield
    distributed.destroy_process_group()


@pytest.mark.skipif(not distributed.is_available(), reason="needs torch.distributed")
@pytest.mark.usefixtures("_alone")
@pytest.mark.filterwarnings("ignore:find_unused_parameters")
@pytest.mark.parametrize("searching", [False, True])
def test_backward_passes_without_exchange_and_searches_are_noted(
    tmp_path: Path, searching: bool
) -> None:
    model = DistributedDataParallel(nn.Linear(4, 2), find_unused_parameters=searching)

    def step() -> None:
        with model.no_sync():
            model(torch.ones(2, 4)).sum().backward()
        model(torch.ones(2, 4)).sum().backward()

    result = record(tmp_path / "profile.json", lambda prof: run_steps(prof, step, 12))

    assert calls(result, "no_syncs") == 12
    [exchange] = result.collectives
    assert exchange.find_unused_parameters is searching
    assert exchange.unused_parameter_bytes == 0
    assert not hasattr(DistributedDataParallel.no_sync, "__stepscope__")


@pytest.mark.parametrize("kept", [False, True])
def test_validation_that_keeps_gradients_is_noted(tmp_path: Path, kept: bool) -> None:
    model = Net()

    def body(prof: profile) -> None:
        for _ in range(4):
            model(torch.ones(2, 4)).sum().backward()
            model.eval()
            with torch.set_grad_enabled(kept):
                model(torch.ones(2, 4))
            model.train()
            prof.step()

    result = record(tmp_path / "profile.json", body)

    assert calls(result, "validations") == 4
    assert calls(result, "validation_gradients") == (4 if kept else 0)
