"""Backward passes that keep their gradients to themselves: `DistributedDataParallel.no_sync`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from threading import get_ident
from typing import Any

import torch

from stepscope.profiler.observed import Observed
from stepscope.profiler.patches import Patches
from stepscope.profiler.recorder import Recorder


def install(recorder: Recorder, patches: Patches, observed: Observed) -> None:
    """Count how often the context is opened."""
    opened = recorder.counter("no_syncs")

    def counting(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def no_sync(*args: Any, **kwargs: Any) -> Any:
            if recorder.thread == get_ident():
                recorder.counted[opened] += 1
            return original(*args, **kwargs)

        return no_sync

    patches.replace(torch.nn.parallel.DistributedDataParallel, "no_sync", counting)
