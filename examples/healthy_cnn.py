"""A convolutional network on images in memory: nothing to repair.

A batch costs one indexing operation and everything else is the network's own arithmetic. Only a
smaller or different computation could be faster; a profiler that finds a fault here is wrong:

    python -m stepscope.examples.healthy_cnn
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from stepscope.profiler import profile

CLASSES = 10
SIDE = 32


def make_images(count: int) -> TensorDataset:
    """Draw `count` images: the blurred pattern of a class, moved about and buried in noise."""
    coarse = torch.randn(CLASSES, 3, SIDE // 4, SIDE // 4)
    patterns = F.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear")
    labels = torch.randint(CLASSES, (count,))
    images = 3 * torch.randn(count, 3, SIDE, SIDE)
    for number, shift in enumerate(torch.randint(SIDE, (count,)).tolist()):
        images[number] += patterns[labels[number]].roll(shift, dims=-1)
    return TensorDataset(images, labels)


def make_network() -> nn.Module:
    """Stack three stages of convolutions; few parameters and many multiplications."""

    def stage(inputs: int, outputs: int) -> list[nn.Module]:
        return [
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        ]

    features = [*stage(3, 32), *stage(32, 64), *stage(64, 128)]
    return nn.Sequential(*features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, CLASSES))


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=4096, help="size of the training set")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile", type=Path, default=Path("healthy_cnn.profile.json"))
    parser.add_argument("--no-profile", action="store_true", help="run the bare loop")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Train and print one closing line."""
    args = parse(argv)
    torch.manual_seed(args.seed)

    dataset = make_images(args.images)
    rows = RandomSampler(dataset, num_samples=args.steps * args.batch_size)
    batches = BatchSampler(rows, args.batch_size, drop_last=False)
    loader: DataLoader[tuple[Tensor, ...]] = DataLoader(dataset, sampler=batches, batch_size=None)
    model = make_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    step, ticks = 0, [time.perf_counter()]
    with profile(args.profile, enabled=not args.no_profile) as prof:
        for images, labels in prof.steps(loader):
            loss = F.cross_entropy(model(images), labels)
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
