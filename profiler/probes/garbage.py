"""Pauses of the cyclic garbage collector on the training thread.

Looking through young objects is the price of making them, and stays with the code that makes them:
it goes when they do. What is charged to the collector is going through all the others again.
"""

from __future__ import annotations

import gc
import sys
from threading import get_ident
from typing import Any

from stepscope.profiler.observed import Observed
from stepscope.profiler.patches import Patches
from stepscope.profiler.recorder import Recorder
from stepscope.profiler.timing import timed

_YOUNG = 0 if sys.version_info >= (3, 14) else 1
"""The oldest generation that is still young; Python 3.14 looks through a part of the old with 1."""


def install(recorder: Recorder, patches: Patches, observed: Observed) -> None:
    """Watch through `gc.callbacks`."""
    phase = recorder.phase("gc")
    counter = recorder.counter("collections")
    previous: list[int] = []

    def watch(when: str, info: dict[str, Any]) -> None:
        if info.get("generation", 2) <= _YOUNG or recorder.thread != get_ident():
            return
        if when == "start":
            recorder.counted[counter] += 1
            previous.append(recorder.enter(phase))
        elif previous:
            recorder.leave(previous.pop())

    gc.callbacks.append(watch)
    patches.replace(gc, "collect", timed(recorder, "gc", site=True))  # to know who has asked
    patches.callback(lambda: gc.callbacks.remove(watch) if watch in gc.callbacks else None)
