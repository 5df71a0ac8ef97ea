"""Time in which the training thread compiles: torch.compile and TorchScript.

Dynamo's conversion of a frame is wrapped; compiling a backward pass, which is put off to its
first use, is told by Dynamo's callbacks where the version has them.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from threading import get_ident
from typing import Any

import torch

from stepscope.profiler.dynamo import CompiledCode
from stepscope.profiler.late import LateModules
from stepscope.profiler.observed import Observed
from stepscope.profiler.patches import Patches
from stepscope.profiler.recorder import Recorder
from stepscope.profiler.timing import timed


def install(recorder: Recorder, patches: Patches, observed: Observed) -> None:
    """Watch Dynamo as soon as it is imported, and `torch.jit`."""
    wrap = timed(recorder, "compilation", counter="compilations", mark=True)
    for name in ("trace", "script"):
        patches.replace(torch.jit, name, wrap)
    late = LateModules(recorder, patches)
    code = observed.compiled = CompiledCode(lambda: recorder.steady)
    late.replace("torch._dynamo.convert_frame", ["_compile"], lambda f: wrap(code.watching(f)))
    late.look()
    backward = _LazyBackward(recorder)
    backward.listen()
    recorder.on_step.append(backward.mend)
    recorder.on_look.append(backward.listen)
    patches.callback(backward.close)


class _LazyBackward:
    """Dynamo's callbacks at the beginning and end of every compilation.

    Inside a conversion of a frame they change nothing: that is `compilation` already.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._phase = recorder.phase("compilation")
        self._count = recorder.counter("compilations")
        self._previous: list[int] = []

    def listen(self) -> None:
        """Register with Dynamo, also after a `torch._dynamo.reset`, which forgets everybody."""
        handler = self._handler()
        if handler is not None and self._begin not in handler.start_callbacks:
            handler.start_callbacks.append(self._begin)
            handler.end_callbacks.append(self._end)

    @staticmethod
    def _handler() -> Any:
        return getattr(sys.modules.get("torch._dynamo.callback"), "callback_handler", None)

    def _begin(self, *_: Any) -> None:
        recorder = self._recorder
        if recorder.thread == get_ident():
            recorder.counted[self._count] += recorder.current != self._phase
            self._previous.append(recorder.enter(self._phase))

    def _end(self, *_: Any) -> None:
        if self._recorder.thread == get_ident() and self._previous:
            self._recorder.leave(self._previous.pop())

    def mend(self) -> bool:
        """Between steps nothing compiles, whatever another thread's end has kept from us."""
        if self._previous:
            self._recorder.leave(self._previous[0])
            self._previous.clear()
        return False

    def close(self) -> None:
        """Take the callbacks back."""
        handler = self._handler()
        for name, callback in (("start_callbacks", self._begin), ("end_callbacks", self._end)):
            with suppress(AttributeError, ValueError):
                getattr(handler, name).remove(callback)
