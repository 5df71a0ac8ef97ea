"""Time in the outermost module call, and in the loss that follows.

Hooks on modules would travel with copies and checkpoints of the model, and global hooks cost
microseconds per layer. So the outermost modules are looked up once among the live objects, and
`__call__` is replaced on their classes only.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator
from threading import get_ident
from typing import Any

import torch

from stepscope.profiler.compiling import is_compiling, leave_to_python
from stepscope.profiler.model_calls import autocast_in_force
from stepscope.profiler.observed import Observed, describe_model
from stepscope.profiler.patches import Patches
from stepscope.profiler.recorder import Recorder

_LATE_STEPS = 5
_AUTOCAST_STEPS = 20
"""Autocast is asked for during this many steps; a question costs a microsecond."""


def install(recorder: Recorder, patches: Patches, observed: Observed) -> None:
    """Look for models now and after some early steps, where they may be built late."""
    probe = _ForwardProbe(recorder, patches, observed)
    probe.look()
    recorder.on_look.append(probe.look_again)


class _ForwardProbe:
    def __init__(self, recorder: Recorder, patches: Patches, observed: Observed) -> None:
        self._recorder = recorder
        self._patches = patches
        self._observed = observed
        self._forward = recorder.phase("forward")
        self._validation = recorder.phase("validation")
        self._kept = recorder.counter("validation_gradients")
        self._known: set[type] = set()
        self._called = self._looked_twice = False

    def look_again(self) -> None:
        """Look until a model was called, and once after that: it takes 0.2 us an object."""
        if not self._looked_twice:
            self._looked_twice = self._called and self._recorder.step_index > _LATE_STEPS
            if self._looked_twice or not self._called:
                self.look()

    def look(self) -> None:
        """Time the classes of outermost modules that are not timed yet."""
        observed = self._observed
        for module in outermost_modules():
            if type(module) not in self._known:
                self._known.add(type(module))
                wrap = functools.partial(self._timed, type(module))
                self._patches.replace(type(module), "__call__", wrap)
                if next(module.parameters(), None) is not None and len(observed.models) < 16:
                    self._describe(module)

    def _describe(self, module: torch.nn.Module) -> None:
        self._observed.add_model(module)
        try:
            self._observed.models.append(describe_model(module))
        except Exception as error:  # a model that cannot be described is still timed
            self._observed.problem(f"a {type(module).__name__} is not described: {error!r}")

    def _timed(self, owner: Any, found: Callable[..., Any]) -> Callable[..., Any]:
        recorder, observed, forward = self._recorder, self._observed, self._forward
        validation, kept = self._validation, self._kept
        original = found
        if "__call__" not in vars(owner):
            # Looked up at each call, since torch.fx replaces `Module.__call__` while it traces.
            def original(module: Any, *args: Any, **kwargs: Any) -> Any:
                return super(owner, module).__call__(*args, **kwargs)  # type: ignore[misc]

        @functools.wraps(found)
        def call(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
            if (
                is_compiling()
            ):  # torch.compile traces into nested modules, but not always into super()
                return found(module, *args, **kwargs)
            if recorder.thread != get_ident() or recorder.current == forward:
                return original(module, *args, **kwargs)
            if observed.autocast is None and recorder.step_index < _AUTOCAST_STEPS:
                observed.autocast = next((str(t) for _, t in autocast_in_force()), None)
            self._called = True
            if recorder.current == validation and torch.is_grad_enabled():
                recorder.counted[kept] += 1
            if observed.calls is not None:
                observed.calls.note(module, args, kwargs)
            previous = recorder.enter(forward)
            try:
                return original(module, *args, **kwargs)
            finally:
                recorder.leave(previous)
                if torch.is_grad_enabled():  # else no backward pass follows
                    recorder.begin_loss()

        leave_to_python(call, original)
        return call


def outermost_modules() -> Iterator[torch.nn.Module]:
    """Live modules that have parameters or are losses, and are part of no other module."""
    # By type(x): isinstance would ask `x.__class__`, which lazy proxies answer by loading. There
    # may be a million objects, and to look a type up in a set is quicker than issubclass.
    classes = _classes_of_modules()
    modules = [x for x in gc.get_objects() if type(x) in classes]
    inner = {id(child) for module in modules for child in vars(module).get("_modules", {}).values()}
    for module in modules:
        # A module whose __init__ has not run yet has no `_parameters`, and nothing to time.
        if id(module) not in inner and "_parameters" in vars(module):
            loss = isinstance(module, torch.nn.modules.loss._Loss)
            if loss or next(module.parameters(), None) is not None:
                yield module


def _classes_of_modules() -> set[type]:
    found: set[type] = {torch.nn.Module}
    ask = [torch.nn.Module]
    while ask:
        new = [each for each in type.__subclasses__(ask.pop()) if each not in found]
        found.update(new)
        ask += new
    return found
