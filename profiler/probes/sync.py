"""Reading values out of tensors: `.item()`, `float(loss)`, `if mask.any():`, printing a tensor.

Of a device tensor this makes the host wait for everything the device has yet to do. Of a host
tensor it copies one value, which counts too where a loop does it thousands of times.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from threading import get_ident
from typing import Any

import torch
from torch import _tensor_str

from stepscope.profiler.compiling import is_compiling
from stepscope.profiler.observed import Observed
from stepscope.profiler.patches import Patches
from stepscope.profiler.recorder import Recorder
from stepscope.profiler.timing import opaque, timed

_READS = ("item", "tolist", "__float__", "__int__")
_COPIES = ("cpu", "numpy")
"""Free for a host tensor."""
_UNCOUNTED = ("data_wait", "optimizer", "transfer", "logging", "gc")
"""Phases in which a library reads values of host tensors for its own purposes."""
_WAITS = (
    (torch.cuda, "synchronize"),
    (torch.cuda.Event, "synchronize"),
    (torch.cuda.Stream, "synchronize"),
)
_SIZED_BY_VALUES = ("nonzero", "masked_select", "unique")
"""Methods whose result has a size that only the device knows, so that the host waits for it. Their
namesakes in `torch` are let be: torch.jit.script knows them by identity."""
_EXACT_CALLS = 100
_EVERY = 16
"""Beyond so many calls in a step, one of so many is timed and stands for all of them."""
_CROWDED_CALLS = 2000
"""After a step with so many reads of host tensors they are counted, and charged by the price of
one: timing even a few of them would cost more than they do."""
_SETTLE = 512
"""Counted reads that are charged together."""


def install(recorder: Recorder, patches: Patches, observed: Observed) -> None:
    """Time what makes Python know the value of a tensor."""
    reads = _Reads(recorder)
    for name in _READS:
        patches.replace(torch.Tensor, name, functools.partial(reads.timed, host=True))
        if not torch.cuda.is_available():
            reads.thin_out(patches, name)
    patches.replace(torch.Tensor, "__bool__", reads.truth)
    for name in _COPIES:
        patches.replace(torch.Tensor, name, functools.partial(reads.timed, host=False))
    patches.replace(_tensor_str, "_str", reads.formatting)
    if torch.cuda.is_available():
        wrap = timed(recorder, "sync", counter="syncs", site=True)
        for owner, name in _WAITS:
            patches.replace(owner, name, wrap)
        for name in _SIZED_BY_VALUES:
            patches.replace(torch.Tensor, name, functools.partial(_of_device, timed=wrap))


class _Reads:
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._sync = recorder.phase("sync")
        self._syncs = recorder.counter("syncs")
        self._uncounted = frozenset(recorder.phase(name) for name in _UNCOUNTED)
        self._lean: list[Callable[[], None]] = []
        """Replace each timed method by a counted one."""
        self._crowded = False
        recorder.on_step.append(self._after_step)

    def _after_step(self) -> bool:
        if self._crowded and self._lean:
            for replace in self._lean:
                replace()
            self._lean.clear()
            return True
        return False

    def timed(self, original: Callable[..., Any], *, host: bool) -> Callable[..., Any]:
        """Wrap one method of tensors; those on the host are passed through without `host`."""
        recorder, sync, syncs = self._recorder, self._sync, self._syncs
        uncounted, counted, absorbing = self._uncounted, recorder.counted, recorder.absorbing

        @functools.wraps(original)
        def read(tensor: Any, *args: Any, **kwargs: Any) -> Any:
            outer = recorder.current
            if (
                recorder.thread != get_ident()
                or outer == sync
                or absorbing[outer]
                or (not tensor.is_cuda and (outer in uncounted or not host))
            ):
                return original(tensor, *args, **kwargs)
            counted[syncs] = calls = counted[syncs] + 1
            weight = 1
            if calls > _EXACT_CALLS:
                if calls % _EVERY:
                    return original(tensor, *args, **kwargs)
                if calls > _CROWDED_CALLS and not tensor.is_cuda:
                    self._crowded = True
                weight = _EVERY
            previous = recorder.enter(sync)
            begin = recorder.last_ns
            try:
                return original(tensor, *args, **kwargs)
            finally:
                recorder.leave(previous)
                spent = recorder.last_ns - begin
                if weight > 1:  # those that were not timed are in the phase around them
                    recorder.move(outer, sync, spent * (weight - 1))
                if not recorder.aside:
                    recorder.sites.add(sync, sys._getframe(1), spent * weight, weight)

        return opaque(read)

    def thin_out(self, patches: Patches, name: str) -> None:
        """Let the timed method `name` be replaced by a counted one once it is called too often."""
        wrapper = getattr(torch.Tensor, name)
        lean = self.counted(wrapper.__wrapped__)
        self._lean.append(lambda: patches.exchange(torch.Tensor, name, wrapper, lean))

    def counted(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap one method of host tensors so that it is only counted."""
        recorder, sync, syncs = self._recorder, self._sync, self._syncs
        counted, uncounted = recorder.counted, self._uncounted
        price_ns = _price_ns(original)

        @functools.wraps(original)
        def read(tensor: Any) -> Any:
            counted[syncs] = calls = counted[syncs] + 1
            if not calls % _SETTLE and recorder.thread == get_ident():
                outer = recorder.current
                if outer != sync and not recorder.absorbing[outer] and outer not in uncounted:
                    recorder.leave(recorder.enter(sync))
                    recorder.move(outer, sync, _SETTLE * price_ns)
                    if not recorder.aside:
                        recorder.sites.add(sync, sys._getframe(1), _SETTLE * price_ns, _SETTLE)
            return original(tensor)

        return opaque(read)

    def truth(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `__bool__`, into which torch.compile traces, whatever one tells it."""
        timed = self.timed(original, host=True)

        @functools.wraps(original)
        def read(tensor: Any) -> Any:
            if is_compiling():
                return tensor.item() != 0
            return timed(tensor)

        return opaque(read)

    def formatting(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap the making of a tensor's text: of a device tensor it waits, else it is logging."""
        recorder = self._recorder
        of_device = timed(recorder, "sync", counter="syncs", site=True)(original)
        of_host = timed(recorder, "logging", site=True)(original)

        @functools.wraps(original)
        def text(tensor: Any, *args: Any, **kwargs: Any) -> Any:
            formatted = of_device if tensor.is_cuda else of_host
            return formatted(tensor, *args, **kwargs)

        return opaque(text)


def _of_device(
    original: Callable[..., Any], *, timed: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Callable[..., Any]:
    """Wrap a method that is timed for tensors on a device; of a host tensor it is plain work."""
    charged = timed(original)

    @functools.wraps(original)
    def call(tensor: Any, *args: Any, **kwargs: Any) -> Any:
        # torch.compile knows the originals and puts operators in their place.
        watched = tensor.is_cuda and not is_compiling()
        return (charged if watched else original)(tensor, *args, **kwargs)

    return call


def _price_ns(original: Callable[..., Any], times: int = 100) -> int:
    """What one call costs, hot; the shortest of some rounds."""
    one = torch.zeros(())
    shortest = 1 << 30
    for _ in range(5):
        begin = time.perf_counter_ns()
        for _ in range(times):
            original(one)
        shortest = min(shortest, time.perf_counter_ns() - begin)
    return shortest // times
