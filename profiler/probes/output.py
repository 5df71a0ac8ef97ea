"""Time spent telling people what happens: `print`, `logging`, trackers, progress bars."""

from __future__ import annotations

import builtins
import logging

from stepscope.profiler.late import LateModules
from stepscope.profiler.observed import Observed
from stepscope.profiler.patches import Patches
from stepscope.profiler.recorder import Recorder
from stepscope.profiler.timing import timed

_WRITERS = tuple(
    f"SummaryWriter.{method}"
    for method in (
        "add_scalar",
        "add_scalars",
        "add_histogram",
        "add_image",
        "add_images",
        "add_figure",
        "add_text",
        "flush",
    )
)
_LATE = {
    "torch.utils.tensorboard.writer": _WRITERS,
    "tensorboardX.writer": _WRITERS,
    "wandb": ("log",),
    "wandb.sdk.wandb_run": ("Run.log",),
    "mlflow": ("log_metric", "log_metrics", "log_artifact", "log_image"),
    "tqdm.std": ("tqdm.refresh", "tqdm.display"),
}


def install(recorder: Recorder, patches: Patches, observed: Observed) -> None:
    """Time the usual ways of writing a line or a scalar."""
    wrap = timed(recorder, "logging", counter="log_calls", site=True)
    patches.replace(builtins, "print", wrap)
    # Here a record goes to its handlers: calls below the level cost nothing and are not counted.
    patches.replace(logging.Logger, "callHandlers", wrap)
    late = LateModules(recorder, patches)
    for module, names in _LATE.items():
        late.replace(module, names, wrap)
    late.look()
