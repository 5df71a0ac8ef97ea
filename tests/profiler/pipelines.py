"""Look-alikes of transform pipelines, each with one step that takes all the time."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from loops import Points, spin
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

SPIN_S = 0.03


class Quick:
    """A step that takes no time."""

    def __call__(self, image: Any) -> Any:
        return image


class Slow(Quick):
    """A step that takes all the time."""

    def __call__(self, image: Any) -> Any:
        spin(SPIN_S)  # the slow line
        return image


class SlowModule(nn.Module):
    def forward(self, image: Any) -> Any:
        spin(SPIN_S)
        return image


def slow_function(image: Any) -> Any:
    spin(SPIN_S)
    return image


class Compose:
    """As in torchvision.transforms."""

    def __init__(self, transforms: list[Any]) -> None:
        self.transforms = transforms

    def __call__(self, img: Any) -> Any:
        for t in self.transforms:
            img = t(img)
        return img


class ModuleCompose(nn.Module):
    """As in torchvision.transforms.v2."""

    def __init__(self, transforms: list[Any]) -> None:
        super().__init__()
        self.transforms = transforms

    def forward(self, *inputs: Any) -> Any:
        for transform in self.transforms:
            outputs = transform(*inputs)
            inputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return inputs[0]


class KeywordCompose(Compose):
    """As in albumentations: keywords, and a method of its own on the way."""

    def __call__(self, *args: Any, **data: Any) -> Any:
        return self.run_transforms(data)

    def run_transforms(self, data: Any) -> Any:
        for t in self.transforms:
            data = t(**data)
        return data


class OneOf(KeywordCompose):
    """As in albumentations: one of several."""

    def __call__(self, *args: Any, **data: Any) -> Any:
        t = random.Random(0).choice(self.transforms)
        return t(**data)


class QuickKeyword:
    def __call__(self, force_apply: bool = False, **kwargs: Any) -> Any:
        return kwargs


class SlowKeyword(QuickKeyword):
    def __call__(self, force_apply: bool = False, **kwargs: Any) -> Any:
        spin(SPIN_S)
        return kwargs


class Images(Dataset[Any]):
    """Applies `transform` as torchvision's datasets do."""

    def __init__(self, transform: Callable[..., Any], keyword: bool = False) -> None:
        self.transform = transform
        self.keyword = keyword

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        image = float(index)
        return self.transform(image=image)["image"] if self.keyword else self.transform(image)


class Dozing(Images):
    """Has a transform that is not written in Python, `time.sleep`."""

    def __getitem__(self, index: int) -> Any:
        self.transform(SPIN_S)
        return 0.0


class Methods(Images):
    """Does the work in a method of its own."""

    def __getitem__(self, index: int) -> Any:
        return self.decode(index)

    def decode(self, index: int) -> float:
        spin(SPIN_S)
        return float(index)


class AllInOne(Images):
    """Does the work where it is asked for."""

    def __getitem__(self, index: int) -> Any:
        end = time.thread_time() + SPIN_S
        while time.thread_time() < end:
            pass
        return float(index)


class AtOnce(AllInOne):
    """Is asked for whole batches."""

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [slow_function(float(index)) for index in indices]


class Stream(IterableDataset[Any]):
    """A generator that calls a function per sample."""

    def __iter__(self) -> Iterator[Any]:
        for index in range(8):
            yield slow_function(float(index))


class MappedStream(IterableDataset[Any]):
    """A chain of `map`, which leaves no frame of its own."""

    def __iter__(self) -> Iterator[Any]:
        return map(slow_function, range(8))


class Nested(Dataset[Any]):
    """Each sample goes through a loader of its own."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        return sum(float(batch.sum()) for batch in DataLoader(AllInOne(Quick()), batch_size=4))


class NestedWorkers(Nested):
    """The same, with workers."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        loader = DataLoader(Points(8), batch_size=4, num_workers=1)
        return sum(float(x.sum()) for x, _ in loader)


class SuicidalPoints(Points):
    """One sample kills the worker, as the kernel does when memory runs out."""

    def __init__(self, length: int, at: int) -> None:
        super().__init__(length)
        self.at = at

    def __getitem__(self, index: int) -> Any:
        if index == self.at:
            time.sleep(0.2)  # what was made before is on its way
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


class ThreadNames(Images):
    """Each sample takes a while and tells what threads its process has."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> str:
        spin(SPIN_S)
        return " ".join(thread.name for thread in threading.enumerate())
