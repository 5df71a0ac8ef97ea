"""Time spent telling people what happens: `print`, `logging`, trackers, progress bars."""

from __future__ import annotations

import builtins
import functools
import logging
import time
from collections.abc import Callable
from threading import get_ident
from typing import Any

from stepscope.profiler.late import LateModules
from stepscope.profiler.observed import Observed
from stepscope.profiler.patches import Patches
from stepscope.profiler.recorder import Recorder
from stepscope.profiler.timing import opaque, timed

_NEXT_LINE_NS = 100_000
"""Between two lines that follow each other at once lies less, and that is the making of one."""
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
    patches.replace(builtins, "print", _Lines(recorder).of(wrap))
    # Here a record goes to its handlers: calls below the level cost nothing and are not counted.
    patches.replace(logging.Logger, "callHandlers", wrap)
    late = LateModules(recorder, patches)
    for module, names in _LATE.items():
        late.replace(module, names, wrap)
    late.look()


class _Lines:
    """What lies between two lines that a loop writes one after the other: the text of the next."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._logging = recorder.phase("logging")
        self._ended_ns = 0

    def of(
        self, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """`wrap` for a function that writes a line, which then also has the time before it."""
        recorder = self._recorder

        def around(original: Callable[..., Any]) -> Callable[..., Any]:
            timed_write = wrap(original)

            @functools.wraps(original)
            def write(*args: Any, **kwargs: Any) -> Any:
                if recorder.thread != get_ident() or not recorder.idle:
                    return timed_write(*args, **kwargs)
                outer = recorder.current
                follows = recorder.last_ns == self._ended_ns
                gap = time.perf_counter_ns() - self._ended_ns
                try:
                    return timed_write(*args, **kwargs)
                finally:
                    self._ended_ns = recorder.last_ns
                    if follows and gap < _NEXT_LINE_NS:
                        recorder.move(outer, self._logging, gap)

            return opaque(write)

        return around
