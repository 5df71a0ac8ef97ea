"""Pauses of the cyclic garbage collector on the training thread."""

from __future__ import annotations

import gc
from threading import get_ident
from typing import Any

from stepscope.profiler.observed import Observed
from stepscope.profiler.patches import Patches
from stepscope.profiler.recorder import Recorder
from stepscope.profiler.timing import timed


def install(recorder: Recorder, patches: Patches, observed: Observed) -> None:
    """Watch through `gc.callbacks`."""
    phase = recorder.phase("gc")
    counter = recorder.counter("collections")
    previous: list[int] = []

    def watch(when: str, info: dict[str, Any]) -> None:
        if recorder.thread != get_ident():
            return
        if when == "start":
            recorder.counted[counter] += 1
            previous.append(recorder.enter(phase))
        elif previous:
            recorder.leave(previous.pop())

    gc.callbacks.append(watch)
    patches.replace(gc, "collect", timed(recorder, "gc", site=True))  # to know who has asked
    patches.callback(lambda: gc.callbacks.remove(watch) if watch in gc.callbacks else None)
