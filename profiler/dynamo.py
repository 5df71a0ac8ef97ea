"""What Dynamo, torch.compile's front end, tells of its graphs: breaks, recompilations, limits.

Nothing here imports it: a program that does not compile does not pay for it. Its books are kept
otherwise in other versions of PyTorch; what cannot be read is left out.
"""

from __future__ import annotations

import functools
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

import torch

from stepscope.profiler.format import Compilation, GraphBreak, Recompiled

_MAX_ROWS = 50
_MAX_REASON = 200
_LIMIT = re.compile(r"(cache|recompile)[ _](size[ _])?limit", re.I)
"""Of the error that ends the compilation of a function too many times; words vary by version."""
_COMPILE_ID = re.compile(r"^\d+/\d+: ")
_TORCH = str(Path(torch.__file__).parent)


class _Place(NamedTuple):
    file: str
    line: int
    function: str
    reason: str
    uncompiled: bool


class CompiledCode:
    """Counts the compilations of each function.

    Args:
        steady: whether a steady step is running.
    """

    def __init__(self, steady: Callable[[], bool]) -> None:
        self._steady = steady
        self._all: Counter[CodeType] = Counter()
        self._in_steady: Counter[CodeType] = Counter()
        self._at_limit: set[CodeType] = set()
        self._uncompiled: Counter[_Place] = Counter()

    def watching(self, compile_frame: Callable[..., Any]) -> Callable[..., Any]:
        """`compile_frame`, which takes the code as its first argument, with its calls counted."""

        @functools.wraps(compile_frame)
        def watched(code: CodeType, *args: Any, **kwargs: Any) -> Any:
            self._all[code] += 1
            self._in_steady[code] += self._steady()
            try:
                return compile_frame(code, *args, **kwargs)
            except Exception as error:
                self._failed(code, error)
                raise

        return watched

    def _failed(self, code: CodeType, error: Exception) -> None:
        """A function is not compiled, or not again; an error that ends the program is no loss."""
        stack = getattr(error, "real_stack", None)
        if _LIMIT.search(str(error)):
            self._at_limit.add(code)
        elif stack:
            self._uncompiled[_place(stack, error, uncompiled=True)] += 1

    def result(self) -> Compilation | None:
        """What is known by now; None where nothing was compiled."""
        dynamo = sys.modules.get("torch._dynamo")
        if dynamo is None or not (self._all or has_compiled()):
            return None
        found = Compilation()
        places = Counter(self._uncompiled)
        with suppress(Exception):
            places.update(_broken(dynamo))
        found.graph_breaks = [
            GraphBreak(**place._asdict(), count=count)
            for place, count in places.most_common(_MAX_ROWS)
        ]
        with suppress(Exception):
            found.limit = int(dynamo.config.cache_size_limit)
        found.recompiled = self._recompiled(dynamo, found.limit or sys.maxsize)
        return found

    def _recompiled(self, dynamo: Any, limit: int) -> list[Recompiled]:
        failures = dict(getattr(dynamo, "guard_failures", {}))
        if not _limit_was_met():
            limit = sys.maxsize
        rows = [
            Recompiled(
                file=code.co_filename,
                line=code.co_firstlineno,
                function=code.co_name,
                compilations=count,
                steady=self._in_steady[code],
                reason=_first_line(failures[code][-1]) if failures.get(code) else None,
                # Before PyTorch 2.4 the limit is found out before there is anything to count.
                at_limit=code in self._at_limit or count >= limit,
            )
            for code, count in self._all.most_common()
            if count > 1 or code in self._at_limit
        ]
        return rows[:_MAX_ROWS]


def has_compiled() -> bool:
    """Whether torch.compile has made a graph in this process since its last reset."""
    counters = getattr(sys.modules.get("torch._dynamo.utils"), "counters", None)
    return bool(counters and counters["stats"]["unique_graphs"])


def _limit_was_met() -> bool:
    counters = getattr(sys.modules.get("torch._dynamo.utils"), "counters", {})
    return any(_LIMIT.search(str(reason)) for reason in list(counters.get("unimplemented", ())))


def _broken(dynamo: Any) -> Iterator[_Place]:
    for each in list(dynamo.graph_break_reasons):
        if each.graph_break and each.user_stack:
            yield _place(each.user_stack, each.reason)


def _place(stack: Sequence[Any], reason: object, *, uncompiled: bool = False) -> _Place:
    """The innermost frame of the program's own code."""
    own = [frame for frame in stack if not frame.filename.startswith(_TORCH)]
    frame = (own or stack)[-1]
    return _Place(
        frame.filename, int(frame.lineno or 0), frame.name, _first_line(reason), uncompiled
    )


def _first_line(text: object) -> str:
    return _COMPILE_ID.sub("", str(text).strip().splitlines()[0])[:_MAX_REASON]
