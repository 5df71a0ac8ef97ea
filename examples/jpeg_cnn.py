"""A small convolutional network fed from a folder of JPEG files.

Two worker processes decode pictures of 640 x 480 pixels and augment them for a network that looks
at 64 x 64 and is done first, so it waits. Decoding and shrinking every picture once, before the
loop, leaves the workers a random crop and a flip:

    python -m stepscope.examples.jpeg_cnn
    python -m stepscope.examples.jpeg_cnn --predecoded

`--data` takes any folder DIR/LABEL/NAME.jpg; one that is not there is filled with synthetic images.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, RandomSampler

from stepscope.profiler import profile

SIDE, SHRUNK = 64, (96, 72)
WIDTH, HEIGHT = 640, 480
PATTERNS = list(product(("rows", "columns"), (60, 200), ("warm", "cold")))


def synthesise(folder: Path, count: int) -> None:
    """Write `count` grainy stripe patterns as JPEG files, one sub-folder per kind of pattern."""
    grain = np.random.default_rng(0).normal(0, 20, (2 * HEIGHT, 2 * WIDTH, 3)).astype(np.float32)

    def write(number: int) -> None:
        rng = np.random.default_rng(number)
        direction, period, tint = PATTERNS[number % len(PATTERNS)]
        place = np.arange(HEIGHT)[:, None] if direction == "rows" else np.arange(WIDTH)[None, :]
        phase = 2 * np.pi * (place / (period * rng.uniform(0.8, 1.2)) + rng.uniform())
        top, left = rng.integers(HEIGHT), rng.integers(WIDTH)
        pixels = grain[top : top + HEIGHT, left : left + WIDTH] + 40 * np.sin(phase)[:, :, None]
        pixels += (130, 120, 110) if tint == "warm" else (110, 120, 130)
        path = partial / f"{direction}-{period}-{tint}" / f"{number:05}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)

    folder.parent.mkdir(parents=True, exist_ok=True)
    # Written beside its place and renamed, so that an interrupted run leaves no half-filled folder.
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    with ThreadPoolExecutor() as pool:  # NumPy and Pillow release the interpreter lock
        list(pool.map(write, range(count)))
    partial.rename(folder)


def to_tensor(image: Image.Image) -> Tensor:
    """Turn a picture into channels, rows, columns of bytes."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def random_box(size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Choose a part of the picture, at least half as wide and half as high."""
    width, height = size
    across, down = (round(length * random.uniform(0.5, 1.0)) for length in size)
    left, top = random.randint(0, width - across), random.randint(0, height - down)
    return left, top, left + across, top + down


class JpegFolder(Dataset[tuple[Tensor, int]]):
    """Decodes and augments one file for each item asked for."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.glob("*/*.jpg"))
        self.classes = sorted({path.parent.name for path in self.paths})
        self.labels = [self.classes.index(path.parent.name) for path in self.paths]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.open(self.paths[index]).convert("RGB")
        image = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, random_box(image.size))
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = enhance(image).enhance(random.uniform(0.7, 1.3))
        return to_tensor(image), self.labels[index]


class PredecodedFolder(JpegFolder):
    """Decodes and shrinks all files when made; an item is a random crop, perhaps flipped."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        images = (Image.open(path).convert("RGB").resize(SHRUNK) for path in self.paths)
        self.images = torch.stack([to_tensor(image) for image in images])

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        left, top = (random.randint(0, length - SIDE) for length in SHRUNK)
        image = self.images[index, :, top : top + SIDE, left : left + SIDE]
        return image.flip(-1) if random.random() < 0.5 else image, self.labels[index]


def make_network(classes: int) -> nn.Module:
    """Stack three strided convolutions under a linear classifier."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise((3, 16, 32, 64)):
        convolution = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--predecoded", action="store_true", help="decode once, before the loop")
    parser.add_argument("--data", type=Path, help="folder of images (default: a temporary one)")
    parser.add_argument("--images", type=int, default=512, help="how many to make if none exist")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile", type=Path, default=Path("jpeg_cnn.profile.json"))
    parser.add_argument("--no-profile", action="store_true", help="run the bare loop")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Train and print one closing line."""
    args = parse(argv)
    random.seed(args.seed)
    torch.manual_seed(args.seed)
    # The workers need cores of their own: arithmetic threads that lose theirs stall each other.
    torch.set_num_threads(max(1, torch.get_num_threads() - args.workers))

    folder = args.data or Path(tempfile.gettempdir(), f"stepscope-jpeg-{args.images}")
    if not any(folder.glob("*/*.jpg")):
        synthesise(folder, args.images)
    dataset = PredecodedFolder(folder) if args.predecoded else JpegFolder(folder)
    sampler = RandomSampler(dataset, num_samples=args.steps * args.batch_size)
    loader = DataLoader(dataset, args.batch_size, sampler=sampler, num_workers=args.workers)
    model = make_network(len(dataset.classes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    step, ticks = 0, [time.perf_counter()]
    with profile(args.profile, enabled=not args.no_profile) as prof:
        for images, labels in prof.steps(loader):
            loss = F.cross_entropy(model(images / 127.5 - 1), labels)
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
