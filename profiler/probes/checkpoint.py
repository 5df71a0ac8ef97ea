"""Time in `torch.save` and safetensors: the loop stands still while a checkpoint is written."""

from __future__ import annotations

import sys

import torch

from stepscope.profiler.observed import Observed
from stepscope.profiler.patches import Patches
from stepscope.profiler.recorder import Recorder
from stepscope.profiler.timing import timed


def install(recorder: Recorder, patches: Patches, observed: Observed) -> None:
    """Time writers of checkpoints under every name they are usually called by."""
    wrap = timed(recorder, "checkpoint", counter="checkpoints", mark=True)
    for owner in (torch, torch.serialization):
        patches.replace(owner, "save", wrap)
    safetensors = sys.modules.get("safetensors.torch")
    for name in ("save_file", "save_model"):
        if hasattr(safetensors, name):
            patches.replace(safetensors, name, wrap)
