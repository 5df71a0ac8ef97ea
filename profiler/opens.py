"""Counting the calls that open, stat or list files while a batch is fetched.

The functions are replaced only for the length of a fetch, so that nobody else ever finds them
replaced, and what they are called with and return is left alone.
"""

from __future__ import annotations

import builtins
import importlib
import io
import os
import time
from collections.abc import Callable
from threading import get_ident
from typing import Any

from stepscope.profiler.stacks import under_way

_NAMES: tuple[tuple[Any, str], ...] = (
    (builtins, "open"),
    (io, "open"),
    (os, "open"),
    (os, "stat"),
    (os, "lstat"),
    (os, "listdir"),
    (os, "scandir"),
)


class _Timed:
    """Stands in for a built-in function: never a bound method, and equal to the original.

    The latter because `os` keeps sets of its functions, as in `os.stat in os.supports_fd`.
    """

    def __init__(self, original: Callable[..., Any]) -> None:
        self.__wrapped__ = original
        self.__name__ = original.__name__
        self.__doc__ = original.__doc__
        self._original = original

    def __eq__(self, other: object) -> bool:
        return other is self or other == self._original

    def __hash__(self) -> int:
        return hash(self._original)

    def __reduce__(self) -> Any:
        return _find, (self._original.__module__, self.__name__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        fetch = under_way.get(get_ident())
        if fetch is None or fetch.opening:
            return self._original(*args, **kwargs)
        fetch.opening = True
        cpu, wall = time.thread_time_ns(), time.perf_counter_ns()
        try:
            return self._original(*args, **kwargs)
        finally:
            fetch.opens += 1
            fetch.open_ns += time.perf_counter_ns() - wall
            fetch.open_cpu_ns += time.thread_time_ns() - cpu
            fetch.opening = False


def _find(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


_CALLS = [
    (vars(owner), name, vars(owner)[name], _Timed(vars(owner)[name]))
    for owner, name in _NAMES
    if hasattr(owner, name)
]
"""Name spaces, names, originals and what is put in their place."""


def watch() -> None:
    """Replace the functions; where somebody else has done so, theirs stays."""
    for names, name, original, timed in _CALLS:
        if names[name] is original:
            names[name] = timed


def unwatch() -> None:
    """Put the functions back; where somebody else has wrapped ours meanwhile, it passes through."""
    for names, name, original, timed in _CALLS:
        if names[name] is timed:
            names[name] = original
