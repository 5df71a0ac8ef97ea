"""Time in optimizers: `step` through PyTorch's own global hooks, and `zero_grad`."""

from __future__ import annotations

from threading import get_ident
from typing import Any

import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from stepscope.profiler.observed import Observed, describe_optimizer
from stepscope.profiler.patches import Patches
from stepscope.profiler.recorder import Recorder
from stepscope.profiler.timing import timed

_ENTRY_NS = 200_000
"""At most so much before the hooks is the way to them: PyTorch annotates a step before it calls
them, and with the caches full of gradients that takes 0.16 ms, without the profiler too."""


def install(recorder: Recorder, patches: Patches, observed: Observed) -> None:
    """Hook every optimizer of the process."""
    phase = recorder.phase("optimizer")
    steps = recorder.counter("optimizer_steps")
    previous: list[int] = []
    described: set[int] = set()

    def before(*_: Any) -> None:
        if recorder.thread == get_ident():
            recorder.counted[steps] += 1
            previous.append(_enter(recorder, phase))

    def after(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if recorder.thread == get_ident() and previous:
            recorder.leave(previous.pop())
            if id(optimizer) not in described and len(described) < 16:
                described.add(id(optimizer))
                describe(optimizer)

    def describe(optimizer: torch.optim.Optimizer) -> None:
        try:
            observed.optimizers.append(describe_optimizer(optimizer))
        except Exception as error:  # we are inside the user's call of `step`
            observed.problem(f"a {type(optimizer).__name__} is not described: {error!r}")

    def mend() -> bool:
        # `step` raised, so that no post hook ran, and the loop goes on.
        if previous:
            recorder.leave(previous[0])
            previous.clear()
        return False

    recorder.on_step.append(mend)
    patches.callback(register_optimizer_step_pre_hook(before).remove)
    patches.callback(register_optimizer_step_post_hook(after).remove)
    patches.replace(torch.optim.Optimizer, "zero_grad", timed(recorder, "optimizer"))


def _enter(recorder: Recorder, phase: int) -> int:
    outer, began = recorder.current, recorder.last_ns
    previous = recorder.enter(phase)
    if outer == recorder.after_backward:
        recorder.move(outer, phase, min(_ENTRY_NS, recorder.last_ns - began))
    return previous
