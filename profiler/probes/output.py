"""Time spent telling people what happens: `print`, `logging`, TensorBoard writers."""

from __future__ import annotations

import builtins
import logging
import sys

from stepscope.profiler.observed import Observed
from stepscope.profiler.patches import Patches
from stepscope.profiler.recorder import Recorder
from stepscope.profiler.timing import timed


def install(recorder: Recorder, patches: Patches, observed: Observed) -> None:
    """Time the usual ways of writing a line or a scalar."""
    wrap = timed(recorder, "logging", counter="log_calls")
    patches.replace(builtins, "print", wrap)
    # Here a record goes to its handlers: calls below the level cost nothing and are not counted.
    patches.replace(logging.Logger, "callHandlers", wrap)
    writer = getattr(sys.modules.get("torch.utils.tensorboard"), "SummaryWriter", None)
    for name in ("add_scalar", "add_scalars", "add_histogram", "add_image", "flush"):
        if hasattr(writer, name):
            patches.replace(writer, name, wrap)
