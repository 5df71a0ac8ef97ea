"""Copies to the device, and calls that make the host wait for it.

Only where there is a CUDA device: on a CPU run these calls copy nothing and wait for nobody.
"""

from __future__ import annotations

from typing import Any

import torch

from stepscope.profiler.observed import Observed
from stepscope.profiler.patches import Patches
from stepscope.profiler.recorder import Recorder
from stepscope.profiler.timing import timed

_SYNCHRONISING = ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__")


def install(recorder: Recorder, patches: Patches, observed: Observed) -> None:
    """Time `.to`/`.cuda` of host tensors and `.item()` and its like of device tensors."""
    if not torch.cuda.is_available():
        return
    transfer = timed(recorder, "transfer", counter="transfers", when=copies_to_device)
    patches.replace(torch.Tensor, "to", transfer)
    transfer = timed(
        recorder, "transfer", counter="transfers", when=lambda tensor, *_, **__: not tensor.is_cuda
    )
    patches.replace(torch.Tensor, "cuda", transfer)
    sync = timed(recorder, "sync", counter="syncs", when=lambda tensor, *_, **__: tensor.is_cuda)
    for name in _SYNCHRONISING:
        patches.replace(torch.Tensor, name, sync)
    always = timed(recorder, "sync", counter="syncs")
    patches.replace(torch.cuda, "synchronize", always)


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
