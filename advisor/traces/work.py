"""What the operators of a trace compute and move, where it was recorded with `record_shapes`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec
import numpy as np

from stepscope.advisor.traces.reader import Args, Event
from stepscope.profiler.format import OperatorWork
from stepscope.profiler.work import Work, has_formula, work_of

_KINDS = ("product", "pass", "copy")
_MAX_DISTINCT = 100_000
"""Operators with arguments of a shape of their own; of more, in a loop of ever new shapes, the
memory of a reader would grow with the trace."""


class Works:
    """The different calls of a trace, numbered from 1; 0 is one whose work is not known."""

    def __init__(self) -> None:
        self.names = [""]
        self.works: list[Work | None] = [None]
        self._numbers: dict[tuple[str, bytes, bytes, bytes], int] = {}
        self._formulas = _Formulas()

    def numbers(self, operators: Sequence[Event]) -> list[int]:
        """The number of each operator's work."""
        formulas = self._formulas
        return [
            self._number(event.name, event.args)
            if event.args is not None and event.args.dims and formulas[event.name]
            else 0
            for event in operators
        ]

    def _number(self, name: str, args: Args) -> int:
        key = name, bytes(args.dims), bytes(args.types), bytes(args.values)
        number = self._numbers.get(key)
        if number is None:
            number, work = 0, _decoded(*key)
            if work is not None and len(self.works) < _MAX_DISTINCT:
                number = len(self.works)
                self.names.append(name)
                self.works.append(work)
            if len(self._numbers) < _MAX_DISTINCT:
                self._numbers[key] = number
        return number


class _Formulas(dict[str, bool]):
    """Whether operators have a formula, asked once for each name."""

    def __missing__(self, name: str) -> bool:
        known = self[name] = has_formula(name)
        return known


def _decoded(name: str, dims: bytes, types: bytes, values: bytes) -> Work | None:
    with suppress(msgspec.MsgspecError, UnicodeDecodeError, TypeError):
        shapes = msgspec.json.decode(dims)
        kinds = msgspec.json.decode(types, type=list[str])
        known = msgspec.json.decode(values) if values else []
        if len(shapes) == len(kinds):
            return work_of(name, shapes, kinds, [_value(each) for each in known])
    return None


def _value(text: Any) -> Any:
    """A number, a flag or a list of them, which a trace has as text: `[1, 1]`, `True`."""
    if not isinstance(text, str) or not text:
        return None
    try:
        return json.loads(text.lower())
    except ValueError:
        return None


class WorkSums:
    """Calls and time by work and phase.

    Args:
        works: of the trace.
        layers: whether each name is one that only a forward pass calls.
        phases: how many phases there are.
    """

    def __init__(self, works: Works, layers: np.ndarray[Any, Any], phases: int) -> None:
        self._works = works
        self._phases = phases
        self._layers = layers
        kinds = [_KINDS.index(w.kind) + 1 if w is not None else 0 for w in works.works]
        self._kinds = np.array(kinds, np.int64)
        size = len(kinds) * phases
        self._unknown = np.array([w is not None and w.flops is None for w in works.works], bool)
        self._calls, self._time = np.zeros(size, np.int64), np.zeros(size)
        self._again = np.zeros(size, np.int64)

    def add(self, host: Any, parents: Any, phases: Any, selves: Any, fresh: Any) -> None:
        """Take events of the host.

        Args:
            host: records.
            parents: index of the innermost event around each; -1 for none.
            phases: of each.
            selves: time of each without what lies directly inside.
            fresh: whether it began in this window.
        """
        if len(self._works.works) == 1:
            return
        kinds, unknown = self._kinds[host["work"]], self._unknown[host["work"]]
        rows = np.flatnonzero(kinds)
        passed_on = np.zeros(len(host), bool)
        told = np.zeros(len(rows), bool)
        again = self._layers[host["name"][rows]]
        around = parents[rows]
        while (around >= 0).any():
            inside = around >= 0
            outer = around[inside]
            same = kinds[outer] == kinds[rows[inside]]
            better = unknown[rows[inside]] & ~unknown[outer]
            passed_on[outer[same & ~better]] = True
            told[inside] |= same & better
            again[inside] |= self._layers[host["name"][outer]]
            around[inside] = parents[outer]
        own = ~passed_on[rows] & ~told
        rows, again = rows[own], again[own]
        keys = host["work"][rows].astype(np.int64) * self._phases + phases[rows]
        size = len(self._calls)
        begun = fresh[rows]
        self._calls += np.bincount(keys[begun], minlength=size)
        self._again += np.bincount(keys[begun & again], minlength=size)
        self._time += np.bincount(keys, weights=selves[rows], minlength=size)

    def rows(self, names: dict[int, str]) -> list[OperatorWork]:
        """By operator, phase and type, the longest first.

        Args:
            names: of the phases by number.
        """
        found: dict[tuple[Any, ...], OperatorWork] = {}
        for key in np.flatnonzero(self._calls):
            number, phase = divmod(int(key), self._phases)
            work = self._works.works[number]
            assert work is not None
            calls, again = int(self._calls[key]), int(self._again[key])
            row = OperatorWork(
                name=self._works.names[number],
                phase=names[phase],
                dtype=work.dtype,
                kind=work.kind,
                calls=calls,
                time_ns=round(self._time[key]),
                flops=None if work.flops is None else work.flops * calls,
                bytes=None if work.bytes is None else work.bytes * calls,
                recomputed_flops=(work.flops or 0) * again if names[phase] == "backward" else 0,
                misaligned_flops=0 if work.aligned else (work.flops or 0) * calls,
            )
            _merge(found, row)
        return sorted(found.values(), key=lambda row: -(row.time_ns or 0))


def _merge(found: dict[tuple[Any, ...], OperatorWork], row: OperatorWork) -> None:
    # What is not known of one call is known of none: a sum of some would look like all.
    key = (row.name, row.phase, row.dtype, row.flops is None, row.bytes is None)
    before = found.setdefault(key, row)
    if before is row:
        return
    before.calls += row.calls
    before.time_ns = (before.time_ns or 0) + (row.time_ns or 0)
    before.flops = None if row.flops is None else (before.flops or 0) + row.flops
    before.bytes = None if row.bytes is None else (before.bytes or 0) + row.bytes
    before.recomputed_flops += row.recomputed_flops
    before.misaligned_flops += row.misaligned_flops
