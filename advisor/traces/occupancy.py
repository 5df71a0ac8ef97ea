"""How kernels fill a device: blocks for its multiprocessors, warps for each of those.

Kineto writes both beside each kernel, from its launch and the device's properties (CUDA only). They
are averaged as torch-tb-profiler 0.4.3 does (`gpu_metrics_parser.py`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stepscope.advisor.traces.columns import Int64, Records
from stepscope.advisor.traces.sums import Tally, Weights

_ALL = slice(None)


class Occupancy:
    """Sums over kernels.

    Args:
        names: how many names there are.
    """

    def __init__(self, names: int) -> None:
        self.warps = _Mean(names)
        """Active warps over what a multiprocessor can hold, estimated."""
        self.blocks = _Mean(names)
        """Blocks of a launch over the device's multiprocessors."""
        self.filled = _Mean(names)
        """Part of the multiprocessors that get a block of a launch."""
        self.occupied_ns = 0.0
        """Time, weighted with the part of the multiprocessors that had a block."""

    def add(self, kernels: Records, begin: int, end: int) -> None:
        """Count kernels that run in [begin, end), each where it starts."""
        self.occupied_ns += _occupied(kernels, begin, end)
        kernels = kernels[kernels["start"] >= begin]
        time = kernels["end"] - kernels["start"]
        known = kernels["occupancy"] >= 0
        self.warps.add(kernels["name"][known], time[known], kernels["occupancy"][known] / 100)
        sized = kernels["blocks_per_sm"] > 0
        blocks = kernels["blocks_per_sm"][sized]
        self.blocks.add(kernels["name"][sized], time[sized], blocks)
        self.filled.add(kernels["name"][sized], time[sized], np.minimum(1, blocks))


class _Mean:
    """Of values by name, each weighted with a time."""

    def __init__(self, names: int) -> None:
        self._tally = Tally(names, "time", "weighted")

    def add(self, names: Int64, time: Int64, values: Weights) -> None:
        self._tally.add(names, time=time, weighted=time * values)

    def of(self, names: int | npt.NDArray[np.bool_] | slice = _ALL) -> float | None:
        """The mean of some names together; None where no value was known."""
        time = self._tally.sums["time"][names].sum()
        return float(self._tally.sums["weighted"][names].sum() / time) if time else None


def _occupied(kernels: Records, begin: int, end: int) -> float:
    """Integral over time of the part of the multiprocessors in use: all have a block at most."""
    sized = kernels[kernels["blocks_per_sm"] > 0]
    times = np.clip(np.concatenate([sized["start"], sized["end"]]), begin, end)
    change = np.concatenate([sized["blocks_per_sm"], -sized["blocks_per_sm"]]).astype(np.float64)
    order = np.argsort(times, kind="stable")
    level = np.minimum(1.0, np.cumsum(change[order])[:-1])
    return float((level * np.diff(times[order])).sum())
