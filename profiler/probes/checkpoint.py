"""Writing checkpoints, during which the loop stands still, and what belongs to it.

That is collecting the state before, and, in a step in which one was written, making the file last
(`os.fsync`), renaming it and copying it.
"""

from __future__ import annotations

import os
import shutil

import torch

from stepscope.profiler.late import LateModules
from stepscope.profiler.observed import Observed
from stepscope.profiler.patches import Patches
from stepscope.profiler.recorder import Recorder
from stepscope.profiler.timing import timed

_LATE = {
    "safetensors.torch": ("save_file", "save_model"),
    "torch.distributed.checkpoint": ("save", "async_save"),
}


def install(recorder: Recorder, patches: Patches, observed: Observed) -> None:
    """Time writers of checkpoints under every name they are usually called by."""
    written = recorder.counter("checkpoints")
    wrap = timed(recorder, "checkpoint", counter="checkpoints", mark=True, site=True)
    for owner in (torch, torch.serialization):
        patches.replace(owner, "save", wrap)
    late = LateModules(recorder, patches)
    for module, names in _LATE.items():
        late.replace(module, names, wrap)
    late.look()

    # Where nothing else has claimed the time; inside `logging`, say, fsync stays what it is.
    wrap = timed(recorder, "checkpoint", site=True, when=lambda *_, **__: recorder.idle)
    patches.replace(torch.nn.Module, "state_dict", wrap)
    patches.replace(torch.optim.Optimizer, "state_dict", wrap)

    def finishing(*_: object, **__: object) -> bool:
        return recorder.idle and recorder.counted[written] > 0

    wrap = timed(recorder, "checkpoint", site=True, when=finishing)
    for owner, name in ((os, "fsync"), (os, "replace"), (os, "rename"), (shutil, "copyfile")):
        patches.replace(owner, name, wrap)

    def elsewhere(*_: object, **__: object) -> bool:
        return recorder.idle and not recorder.counted[written]

    # A file that is made to last line by line is a log.
    wrap = timed(recorder, "logging", site=True, when=elsewhere)
    patches.replace(os, "fsync", wrap)
