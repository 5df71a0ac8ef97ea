"""Collectives that the program calls itself: `torch.distributed.all_reduce` and the like.

What DistributedDataParallel exchanges inside backward is told by its own counters instead.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from threading import get_ident
from typing import Any

from torch import distributed

from stepscope.profiler.compiling import is_compiling
from stepscope.profiler.messages import Note
from stepscope.profiler.observed import Observed
from stepscope.profiler.patches import Patches
from stepscope.profiler.recorder import Recorder
from stepscope.profiler.timing import timed

_CALLS = (
    *("all_reduce", "all_gather", "all_gather_into_tensor", "all_gather_single"),
    *("reduce_scatter", "reduce_scatter_tensor", "reduce_scatter_single"),
    *("all_to_all", "all_to_all_single", "broadcast", "reduce", "gather", "scatter"),
    *("all_gather_object", "broadcast_object_list", "gather_object", "scatter_object_list"),
    *("send_object_list", "recv_object_list", "send", "recv", "batch_isend_irecv"),
    *("barrier", "monitored_barrier"),
)
"""Without `isend` and `irecv`: `P2POp` takes nothing in their place."""


def install(recorder: Recorder, patches: Patches, observed: Observed) -> None:
    """Time the calls that wait, and the waiting for those that do not."""
    if not distributed.is_available():
        return
    messages = observed.messages
    recorder.on_restart += [
        messages.clear,
        observed.meetings.clear,
        observed.connections.clear,
    ]
    calling = timed(recorder, "communication", counter="collectives", site=True)
    waiting = timed(recorder, "communication", site=True)

    def wrapping(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        note = messages.noting(name)

        def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
            noted = _noted(recorder, original, note, observed)
            charged = calling(noted)

            @functools.wraps(original)
            def call(*args: Any, **kwargs: Any) -> Any:
                # torch.compile knows the originals and puts operators in their place.
                if is_compiling():
                    return original(*args, **kwargs)
                # Autograd has a thread for each device, in which FSDP exchanges gradients.
                return (charged if recorder.thread == get_ident() else noted)(*args, **kwargs)

            return call

        return wrap

    def wrap_wait(original: Callable[..., Any]) -> Callable[..., Any]:
        return waiting(_noted(recorder, original, messages.waited, observed))

    for name in _CALLS:
        if hasattr(distributed, name):
            patches.replace(distributed, name, wrapping(name))
    patches.replace(distributed.Work, "wait", wrap_wait)


def _noted(
    recorder: Recorder,
    original: Callable[..., Any],
    note: Note,
    observed: Observed,
) -> Callable[..., Any]:
    """Tell `note` of each call in a steady step, from any thread."""

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        begin = time.perf_counter_ns()
        result = original(*args, **kwargs)
        if recorder.steady:
            try:
                met = note(args, kwargs, result, time.perf_counter_ns() - begin)
                if met and recorder.active:
                    observed.meetings.called(recorder.step_index)
            except Exception as error:  # a guest never stops the host's program
                observed.problem(f"some collectives are not counted: {error!r}")
        return result

    return call
