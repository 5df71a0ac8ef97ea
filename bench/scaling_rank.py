"""One rank of `bench/scaling.py`: little arithmetic, pauses for computing, gradients over gloo.

    python bench/scaling_rank.py --program ddp --batch 8 [--profile FOLDER/profile.json]

Pauses need no core, so that several ranks fit on a small machine. The last line of rank 0 is the
mean time of a step of the second half, in seconds, by a clock of its own.
"""

from __future__ import annotations

import argparse
import random
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

from stepscope.profiler import profile

LAYERS, WIDTH = 6, 256
FIXED_S = 0.004
"""Of a step, whatever its batch."""


class Pause(torch.autograd.Function):
    """Computing that takes its time in backward and keeps no core busy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, seconds: float) -> Tensor:
        """The same tensor."""
        ctx.seconds = seconds
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Wait, then the same gradient."""
        time.sleep(ctx.seconds)
        return gradients[0], None


class Net(nn.Module):
    """Layers of 256 kB, each with a pause in backward that grows with the batch."""

    def __init__(self, per_sample: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS))
        self.per_sample = per_sample

    def forward(self, x: Tensor) -> Tensor:
        """Shapes `(batch, WIDTH)` in and out."""
        for layer in self.layers:
            x = Pause.apply(layer(x), self.per_sample * len(x))  # type: ignore[no-untyped-call]
        return x


def summed(model: nn.Module, *, half: bool) -> None:
    """A message for each tensor: 256 kB and 1 kB in turn, or half of that."""
    for parameter in model.parameters():
        if parameter.grad is not None:
            message = parameter.grad.half() if half else parameter.grad
            distributed.all_reduce(message)
            parameter.grad.copy_(message / distributed.get_world_size())


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", choices=("ddp", "calls"), default="ddp")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--per-sample-ms", type=float, default=2.0)
    parser.add_argument("--jitter-ms", type=float, default=0.0)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--half", action="store_true")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--profile")
    return parser.parse_args()


def trained(options: argparse.Namespace) -> list[float]:
    """Train; returns when each step has ended, in seconds."""
    torch.manual_seed(0)
    chance = random.Random(distributed.get_rank())
    net: nn.Module = Net(options.per_sample_ms / 1e3)
    wrapped = DistributedDataParallel(net, bucket_cap_mb=0.25) if options.program == "ddp" else None
    if wrapped is not None and options.half:
        wrapped.register_comm_hook(None, default_hooks.fp16_compress_hook)
    model = wrapped or net
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    data = torch.randn(options.batch, WIDTH)
    marks = []
    recording: AbstractContextManager[Any] = (
        profile(options.profile) if options.profile else nullcontext()
    )
    with recording as recorder:
        for step in recorder.steps(range(options.steps)) if recorder else range(options.steps):
            late = chance.expovariate(1e3 / options.jitter_ms) if options.jitter_ms else 0.0
            time.sleep(FIXED_S + late)
            exchanges = (step + 1) % options.accumulate == 0
            alone = wrapped is not None and not exchanges
            with wrapped.no_sync() if wrapped is not None and alone else nullcontext():
                model(data).square().mean().backward()
            if exchanges:
                if wrapped is None:
                    summed(model, half=options.half)
                optimizer.step()
                optimizer.zero_grad()
            marks.append(time.perf_counter())
    return marks


def main() -> None:
    """Train, and tell how long it took."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    marks = trained(arguments())
    half = len(marks) // 2
    if distributed.get_rank() == 0:
        print((marks[-1] - marks[half - 1]) / (len(marks) - half), flush=True)
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
