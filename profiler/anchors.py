"""Finding the training steps of a loop in which nobody marks them.

Something that happens once a step is the anchor: its event ends one step and begins the next.
The user's own `steps()` or `step()` is the best anchor; without it the end of `optimizer.step`
is better than the end of a backward pass, which gradient accumulation repeats, and that is better
than the wait for a batch, which a pass over the data without training knows too. When a better
anchor turns up, the steps found so far were none, and are discarded. So are the user's own before
the first backward pass or update: a run that was resumed skips the batches it has had.
"""

from __future__ import annotations

import functools
import weakref
from collections import Counter
from collections.abc import Callable
from threading import get_ident
from typing import Any, Literal

import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils.data import dataloader

from stepscope.profiler.between import BetweenBatches
from stepscope.profiler.patches import Patches
from stepscope.profiler.recorder import Recorder
from stepscope.profiler.timing import opaque

Kind = Literal["steps", "step", "optimizer", "backward", "batch"]
_RANK: dict[Kind | None, int] = {None: 0, "batch": 1, "backward": 2, "optimizer": 3}
_USER: tuple[Kind, ...] = ("steps", "step")
_TAKEOVER = 30


class Leader:
    """Of several objects that take turns (a GAN's two optimizers), the one that ends a step.

    The first one leads until it is gone, or another one has come 30 times without it.
    """

    def __init__(self) -> None:
        self._leader: Callable[[], Any] = lambda: None
        self._others: Counter[int] = Counter()

    def comes(self, candidate: Any) -> None:
        """Note that `candidate` begins its turn."""
        leader = self._leader()
        if candidate is leader:
            self._others.clear()
            return
        self._others[id(candidate)] += 1
        if leader is None or self._others[id(candidate)] >= _TAKEOVER:
            self._others.clear()
            try:
                self._leader = weakref.ref(candidate)
            except TypeError:  # a list as batch sampler
                self._leader = lambda: candidate

    def leads(self, candidate: Any) -> bool:
        """Whether the turns of `candidate` are the ones that count."""
        return candidate is self._leader()


class Anchor:
    """What ends the steps of one recording.

    Args:
        recorder: whose steps are to be found.
        guarded: calls a function of the recorder and keeps its errors from the user's loop.
        rest: called where the recording may be ended: outside of all hooks.
    """

    def __init__(
        self,
        recorder: Recorder,
        guarded: Callable[[Callable[[], None]], None],
        rest: Callable[[], None],
    ) -> None:
        self.kind: Kind | None = None
        self.between: BetweenBatches | None = None
        """The trial that the user has asked for, in a loop that does not go through `steps`."""
        self._recorder = recorder
        self._guarded = guarded
        self._rest = rest
        self._trained = False

    def install(self, patches: Patches) -> None:
        """Watch optimizers, backward passes and loaders; to be called after all probes.

        So that no phase of theirs has begun or is still running when a step ends here.
        """
        optimizers = Leader()

        def before(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            if self._recorder.thread == get_ident():
                optimizers.comes(optimizer)

        def after(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            if self._recorder.thread == get_ident() and optimizers.leads(optimizer):
                self._happened("optimizer")

        patches.callback(register_optimizer_step_pre_hook(before).remove)
        patches.callback(register_optimizer_step_post_hook(after).remove)
        patches.replace(torch.autograd, "backward", self._watch_backward)
        patches.replace(dataloader._BaseDataLoaderIter, "__next__", self._watch_next)

    def user(self, kind: Literal["steps", "step"]) -> None:
        """The user marks the steps: what was found without them does not count."""
        if self.kind in _USER:
            return
        if kind == "steps":  # the first step begins now
            self._guarded(self._recorder.discard)
        elif self.kind is not None:  # the first step ends now, and began with the recording
            self._guarded(self._recorder.take_back)
        self.kind = kind

    def loop_ended(self) -> None:
        """The user's loop is over: steps without training were all there is, and stay."""
        self._trained = True

    def _happened(self, kind: Literal["optimizer", "backward", "batch"]) -> None:
        recorder = self._recorder
        if recorder.absorbing[recorder.current]:
            return
        skipped = recorder.step_index > 0 and not self._trained
        self._trained = self._trained or kind != "batch"
        if self.kind in _USER:
            if skipped and self._trained and not recorder.trial:
                self._guarded(recorder.discard)
            return
        phase = recorder.current
        if self.kind == kind:
            self._guarded(recorder.end_step)
        elif _RANK[kind] > _RANK[self.kind]:
            self.kind = kind
            self._guarded(recorder.discard)
        if phase == recorder.after_backward:  # an update by hand goes on in the new step
            recorder.begin_update()

    def _watch_backward(self, original: Callable[..., Any]) -> Callable[..., Any]:
        depth = 0

        @functools.wraps(original)
        def backward(*args: Any, **kwargs: Any) -> Any:
            nonlocal depth
            if self._recorder.thread != get_ident():
                return original(*args, **kwargs)
            if not depth:
                self._rest()
            depth += 1
            try:
                result = original(*args, **kwargs)
            finally:
                depth -= 1
            if not depth:  # activation checkpointing may run a backward pass inside another
                if self.between is not None:
                    self.between.done_with_batch()
                self._happened("backward")
                self._recorder.begin_update()  # if a step ended here, it is in the next one
            return result

        return opaque(backward)

    def _watch_next(self, original: Callable[..., Any]) -> Callable[..., Any]:
        recorder = self._recorder
        loaders = Leader()
        ended = False

        @functools.wraps(original)
        def next_batch(iterator: Any) -> Any:
            nonlocal ended
            asking = self.between is not None and self.between.asking
            if recorder.thread != get_ident() or recorder.current == recorder.wait or asking:
                return original(iterator)
            self._rest()
            # What the iterators that a loader makes each epoch have in common:
            source = getattr(iterator, "_index_sampler", iterator)
            counts = not recorder.absorbing[recorder.current]
            if counts:
                loaders.comes(source)
                counts = loaders.leads(source)
            if counts and not ended:  # what lies between two epochs is part of the next step
                self._happened("batch")
            try:
                if counts and self.between is not None:
                    result = self.between.next(iterator, original)
                else:
                    result = original(iterator)
            except StopIteration:
                ended = ended or counts
                if self.between is not None:
                    self.between.done_with_batch()
                raise
            if counts:
                ended = False
            return result

        return opaque(next_batch)
