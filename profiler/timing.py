"""The wrapper most probes need: charge the time of a call to a phase."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from threading import get_ident
from typing import Any

from stepscope.profiler.recorder import Recorder


def timed(
    recorder: Recorder,
    phase: str,
    *,
    counter: str | None = None,
    mark: bool = False,
    when: Callable[..., bool] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that charges calls from the training thread to `phase`.

    Args:
        recorder: receives the time.
        phase: name of the phase.
        counter: also count the calls per step under this name.
        mark: also note each outermost call as an event of kind `phase`.
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
            begin = time.perf_counter_ns() if mark else 0
            previous = recorder.enter(number)
            try:
                return original(*args, **kwargs)
            finally:
                recorder.leave(previous)
                if mark:
                    recorder.mark(phase, time.perf_counter_ns() - begin)

        return wrapper

    return decorate
