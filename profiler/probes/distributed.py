"""Time in collectives that the program calls itself: `torch.distributed.all_reduce` and the like.

What DistributedDataParallel exchanges inside backward is told by its own counters instead.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import distributed

from stepscope.profiler.compiling import is_compiling
from stepscope.profiler.observed import Observed
from stepscope.profiler.patches import Patches
from stepscope.profiler.recorder import Recorder
from stepscope.profiler.timing import timed

_CALLS = (
    *("all_reduce", "all_gather", "all_gather_into_tensor", "all_gather_object"),
    *("reduce_scatter", "reduce_scatter_tensor", "all_to_all", "all_to_all_single"),
    *("broadcast", "broadcast_object_list", "reduce", "gather", "gather_object", "scatter"),
    *("scatter_object_list", "send", "recv", "barrier", "monitored_barrier"),
)


def install(recorder: Recorder, patches: Patches, observed: Observed) -> None:
    """Time the calls that wait, and the waiting for those that do not."""
    if not distributed.is_available():
        return
    charge = timed(recorder, "communication", counter="collectives", site=True)

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        charged = charge(original)

        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            # torch.compile knows the originals and puts operators in their place.
            return (original if is_compiling() else charged)(*args, **kwargs)

        return call

    for name in _CALLS:
        if hasattr(distributed, name):
            patches.replace(distributed, name, wrap)
    patches.replace(distributed.Work, "wait", timed(recorder, "communication", site=True))
