"""Copies to the device; only where there is a CUDA device, on a CPU run `.to` copies nothing."""

from __future__ import annotations

from typing import Any

import torch

from stepscope.profiler.observed import Observed
from stepscope.profiler.patches import Patches
from stepscope.profiler.recorder import Recorder
from stepscope.profiler.timing import timed


def install(recorder: Recorder, patches: Patches, observed: Observed) -> None:
    """Time `.to` and `.cuda` of host tensors."""
    if not torch.cuda.is_available():
        return
    for name, when in (
        ("to", copies_to_device),
        ("cuda", lambda tensor, *_, **__: not tensor.is_cuda),
    ):
        wrap = timed(recorder, "transfer", counter="transfers", site=True, when=when)
        patches.replace(torch.Tensor, name, wrap)


def copies_to_device(tensor: Any, *args: Any, **kwargs: Any) -> bool:
    """Whether `tensor.to(*args, **kwargs)` names a place other than the host."""
    if tensor.is_cuda:
        return False
    target = kwargs.get("device", args[0] if args else kwargs.get("other"))
    if isinstance(target, torch.Tensor):
        return bool(target.is_cuda)
    if isinstance(target, (str, torch.device)):
        return torch.device(target).type != "cpu"
    return isinstance(target, int)
