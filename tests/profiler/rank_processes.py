"""Real ranks for tests: processes that are forked from one that has imported PyTorch."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import distributed

_SECONDS = 120


def run_ranks(
    train: Callable[[int], None], world: int, folder: Path, *, torchrun: bool = True
) -> tuple[list[int | None], list[str]]:
    """Let each rank call `train` with its number, in `folder`; exit codes and standard error.

    Args:
        train: what a rank does; a function of a module.
        world: number of ranks.
        folder: where they run.
        torchrun: the store belongs to the parent, as with torchrun, and not to rank 0.
    """
    store = distributed.TCPStore(  # type: ignore[attr-defined]
        "localhost", 0, is_master=True, wait_for_workers=False
    )
    variables = {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(store.port),
        "WORLD_SIZE": str(world),
        "TORCHELASTIC_USE_AGENT_STORE": str(torchrun),
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    if not torchrun:
        del store  # its port is free now
    context = get_context("forkserver")
    context.set_forkserver_preload(["torch", "torch.distributed", "stepscope.profiler.session"])
    ranks = [
        context.Process(target=_enter, args=(train, rank, folder, variables))
        for rank in range(world)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(_SECONDS)
        process.kill()
        process.join()
    told = [(folder / f"stderr{rank}").read_text("utf-8") for rank in range(world)]
    return [process.exitcode for process in ranks], told


def _enter(
    train: Callable[[int], None], rank: int, folder: Path, variables: dict[str, str]
) -> None:
    os.environ |= variables | {"RANK": str(rank)}
    os.chdir(folder)
    sys.stderr = Path(f"stderr{rank}").open("w", buffering=1, encoding="utf-8")  # noqa: SIM115
    torch.set_num_threads(1)
    train(rank)
