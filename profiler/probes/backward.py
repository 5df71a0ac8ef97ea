"""Time in autograd: `loss.backward()` and `torch.autograd.grad`."""

from __future__ import annotations

import torch

from stepscope.profiler.observed import Observed
from stepscope.profiler.patches import Patches
from stepscope.profiler.recorder import Recorder
from stepscope.profiler.timing import timed


def install(recorder: Recorder, patches: Patches, observed: Observed) -> None:
    """Time the two entries of autograd; `Tensor.backward` goes through the first."""
    for name in ("backward", "grad"):
        patches.replace(torch.autograd, name, timed(recorder, "backward"))
