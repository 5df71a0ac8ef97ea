"""A small network on a table whose rows are fetched and put together one by one.

Each step asks a plain Dataset for 256 rows of 32 numbers and lets the DataLoader's default
collate stack them: some hundred tiny Python operations for one small matrix. Handing the Dataset
the whole list of indices makes a batch in one indexing operation, with the same numbers in it:

    python -m stepscope.examples.tabular_mlp
    python -m stepscope.examples.tabular_mlp --batched
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

from stepscope.profiler import profile

COLUMNS = 32
Floats = npt.NDArray[np.float32]


class Table(Dataset[tuple[Floats, Floats]]):
    """Numeric columns and a yes-or-no target that depends on them in a non-linear way."""

    def __init__(self, rows: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.columns = rng.standard_normal((rows, COLUMNS), dtype=np.float32)
        weights = rng.standard_normal((COLUMNS, 8), dtype=np.float32) / COLUMNS**0.5
        score = np.sin(2 * self.columns @ weights).sum(axis=1)
        noise = rng.normal(0, 0.3, rows)
        self.target = (score + noise > 0).astype(np.float32)

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, index: int | list[int]) -> tuple[Floats, Floats]:
        # NumPy takes one index or a list of them: the very same line gives a row or a batch.
        return self.columns[index], self.target[index]


def make_loader(table: Table, steps: int, batch_size: int, *, batched: bool) -> DataLoader[Any]:
    """Make a loader of `steps` random batches, built row by row or in one piece."""
    rows = RandomSampler(table, num_samples=steps * batch_size)
    if batched:
        batches = BatchSampler(rows, batch_size, drop_last=False)
        return DataLoader(table, sampler=batches, batch_size=None)
    return DataLoader(table, sampler=rows, batch_size=batch_size)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batched", action="store_true", help="index a whole batch at once")
    parser.add_argument("--rows", type=int, default=100_000, help="size of the table")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile", type=Path, default=Path("tabular_mlp.profile.json"))
    parser.add_argument("--no-profile", action="store_true", help="run the bare loop")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Train and print one closing line."""
    args = parse(argv)
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # the matrices are too small to be worth sharing

    table = Table(args.rows, args.seed)
    loader = make_loader(table, args.steps, args.batch_size, batched=args.batched)
    model = nn.Sequential(nn.Linear(COLUMNS, 128), nn.ReLU(), nn.Linear(128, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)

    step, ticks = 0, [time.perf_counter()]
    with profile(args.profile, enabled=not args.no_profile) as prof:
        for columns, target in prof.steps(loader):
            loss = F.binary_cross_entropy_with_logits(model(columns).squeeze(1), target)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
            if step % max(1, args.steps // 10) == 0:
                print(f"step {step}/{args.steps} loss {loss.item():.6f}")
            ticks.append(time.perf_counter())

    warm_up = min(10, step // 2)
    median = statistics.median(b - a for a, b in pairwise(ticks[warm_up:]))
    print(
        f"steps={step} seconds={ticks[-1] - ticks[0]:.2f} ms_per_step={1000 * median:.2f} "
        f"loss={loss.item():.6f}"
    )


if __name__ == "__main__":
    main()
