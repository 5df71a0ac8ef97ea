"""One real recorded run for all tests that only read it."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
import torch
from loops import Net, Points, record
from torch.utils.data import DataLoader

from stepscope.profiler import profile
from stepscope.profiler.format import Profile
from stepscope.profiler.storage import load


@pytest.fixture(autouse=True)
def nothing_compiled() -> None:
    """What tests before have compiled in this process is no matter of the next."""
    utils = sys.modules.get("torch._dynamo.utils")
    if utils is not None:
        utils.counters.clear()


@pytest.fixture(scope="session")
def recorded_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The profile of a small loop with workers, an operator window, metrics and a checkpoint."""
    folder = tmp_path_factory.mktemp("recorded")
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters())
    loader = DataLoader(Points(120), batch_size=4, num_workers=2)

    def body(prof: profile) -> None:
        for number, (x, y) in enumerate(prof.steps(loader)):
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(model(x), y)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            prof.log(loss=loss)
            logging.getLogger("loop").warning("step %d", number)
            if number == 5:
                torch.save(model.state_dict(), folder / "model.pt")
            if number == 7:
                with prof.phase("validation"):
                    model(x)

    record(folder / "profile.json", body, warmup_steps=5, operator_steps=3)
    return folder / "profile.json"


@pytest.fixture(scope="session")
def recorded(recorded_file: Path) -> Profile:
    """What is in `recorded_file`; not to be changed."""
    return load(recorded_file)
