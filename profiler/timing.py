"""The wrapper most probes need: charge the time of a call to a phase."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from threading import get_ident
from types import CodeType
from typing import Any

import torch

from stepscope.profiler.recorder import Recorder


def timed(
    recorder: Recorder,
    phase: str,
    *,
    counter: str | None = None,
    mark: bool = False,
    site: bool = False,
    when: Callable[..., bool] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that charges calls from the training thread to `phase`.

    Args:
        recorder: receives the time.
        phase: name of the phase.
        counter: also count the calls per step under this name.
        mark: also note each outermost call as an event of kind `phase`.
        site: also note which line of the program has called.
        when: called with the arguments; the call passes through untimed where it is false.
    """
    number = recorder.phase(phase)
    count = recorder.counter(counter) if counter else -1

    def decorate(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if (
                recorder.thread != get_ident()
                or recorder.current == number
                or (when is not None and not when(*args, **kwargs))
            ):
                return original(*args, **kwargs)
            if count >= 0:
                recorder.counted[count] += 1
            begin = time.perf_counter_ns() if mark or site else 0
            previous = recorder.enter(number)
            try:
                return original(*args, **kwargs)
            finally:
                named = recorder.current == number  # and not part of a phase that keeps everything
                recorder.leave(previous)
                if mark:
                    recorder.mark(phase, time.perf_counter_ns() - begin)
                if site and named and not recorder.aside:
                    spent = time.perf_counter_ns() - begin
                    recorder.sites.add(number, sys._getframe(1), spent)

        return opaque(wrapper)

    return decorate


def opaque(wrapper: Callable[..., Any]) -> Callable[..., Any]:
    """`wrapper`, which torch.compile shall neither trace into nor compile: it calls it as it is."""
    with suppress(Exception):  # attributes that torch.compiler.disable sets; private, so may go
        wrapper._torchdynamo_disable = True  # type: ignore[attr-defined]
        wrapper._torchdynamo_disable_msg = "a probe of stepscope"  # type: ignore[attr-defined]
        _skip_when_compiling(wrapper.__code__)
    return wrapper


def _skip_when_compiling(code: CodeType) -> None:
    frames: Any = torch._C._dynamo.eval_frame
    if hasattr(frames, "skip_code"):
        frames.skip_code(code)
    else:  # torch >= 2.6
        skip, default = frames._FrameAction.SKIP, frames._FrameAction.DEFAULT
        frames.set_code_exec_strategy(code, frames._FrameExecStrategy(skip, default))
