"""Validation inside the loop, recognised by `model.eval()` ... `model.train()`.

Between the two the training thread validates, whatever it calls. A backward pass ends it too:
then `eval()` was about a frozen part, not about validation.
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


def install(recorder: Recorder, patches: Patches, observed: Observed) -> None:
    """Watch the outermost call of `Module.train`, which `eval` calls too."""
    phase = recorder.phase("validation")
    passes = recorder.counter("validations")
    nested = False

    def watch_train(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def train(self: torch.nn.Module, mode: bool = True) -> Any:
            nonlocal nested
            if nested or recorder.thread != get_ident():
                return original(self, mode)
            nested = True
            try:
                if not mode and self.training and recorder.idle:
                    recorder.counted[passes] += 1
                    recorder.enter(phase)
                return original(self, mode)
            finally:
                nested = False
                if mode and recorder.current == phase:
                    recorder.leave(recorder.python)

        return train

    def end_at_backward(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def backward(*args: Any, **kwargs: Any) -> Any:
            if recorder.current == phase and recorder.thread == get_ident():
                recorder.leave(recorder.python)
            return original(*args, **kwargs)

        return backward

    patches.replace(torch.nn.Module, "train", watch_train)
    patches.replace(torch.autograd, "backward", end_at_backward)
