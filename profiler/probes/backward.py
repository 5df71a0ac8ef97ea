"""Time in autograd: `loss.backward()` and `torch.autograd.grad`, and in the update that follows.

A loop that updates its parameters by hand has no optimizer to hook: what it does after a backward
pass, and has no other name, is `after_backward`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from threading import get_ident
from typing import Any

import torch

from stepscope.profiler.observed import Observed
from stepscope.profiler.patches import Patches
from stepscope.profiler.recorder import Recorder
from stepscope.profiler.timing import opaque


def install(recorder: Recorder, patches: Patches, observed: Observed) -> None:
    """Time the two entries of autograd; `Tensor.backward` goes through the first."""
    phase = recorder.phase("backward")

    def timed(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def backward(*args: Any, **kwargs: Any) -> Any:
            if recorder.thread != get_ident() or recorder.current == phase:
                return original(*args, **kwargs)
            previous = recorder.enter(phase)
            try:
                return original(*args, **kwargs)
            finally:
                if recorder.steady and observed.exchanges():
                    observed.meetings.exchanged(recorder.step_index)
                recorder.leave(previous)
                recorder.begin_update()

        return opaque(backward)

    for name in ("backward", "grad"):
        patches.replace(torch.autograd, name, timed)
