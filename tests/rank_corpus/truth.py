"""What removing a planted cause gains in fact."""

from __future__ import annotations

import random
from pathlib import Path
from statistics import median
from typing import NamedTuple

import msgspec

FILE = "truth.json"
_RESAMPLES = 1000


class Gain(NamedTuple):
    """A speedup with its 90 % interval."""

    value: float
    low: float
    high: float


class Truth(msgspec.Struct):
    """Seconds per step of segments with the cause, and without it."""

    case: str
    planted: list[float]
    removed: list[float]

    def gain(self) -> Gain:
        """Measured speedup, its interval from resampled segments."""
        chance = random.Random(0)

        def resampled() -> float:
            with_cause = chance.choices(self.planted, k=len(self.planted))
            without = chance.choices(self.removed, k=len(self.removed))
            return median(with_cause) / median(without)

        ratios = sorted(resampled() for _ in range(_RESAMPLES))
        low, high = ratios[round(0.05 * _RESAMPLES)], ratios[round(0.95 * _RESAMPLES) - 1]
        return Gain(median(self.planted) / median(self.removed), low, high)


def read(folder: Path) -> Truth:
    """What a job has left in `folder`."""
    return msgspec.json.decode((folder / FILE).read_bytes(), type=Truth)
