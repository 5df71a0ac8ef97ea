"""Collectives that the program calls, by kind and size: how many, how large, how long."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from math import sqrt
from typing import Any

from torch import Tensor, distributed

from stepscope.profiler.columns import GROWTH, LogHistogram
from stepscope.profiler.format import CollectiveCalls

_MAX_ROWS = 200
_MAX_PENDING = 1024
_QUICK = 0.1
_KINDS = {
    "_all_gather_base": "all_gather",
    "_allgather_base": "all_gather",
    "_reduce_scatter_base": "reduce_scatter",
    "all_gather_into_tensor": "all_gather",
    "all_gather_single": "all_gather",
    "all_to_all_single": "all_to_all",
    "batch_isend_irecv": "send_recv",
    "irecv": "recv",
    "isend": "send",
    "monitored_barrier": "barrier",
    "reduce_scatter_single": "reduce_scatter",
    "reduce_scatter_tensor": "reduce_scatter",
}

_OF_ALL = frozenset(
    ("all_gather", "all_gather_object", "all_reduce", "all_to_all", "barrier", "reduce_scatter")
)
"""No rank leaves one of these before all have come."""

Note = Callable[[tuple[Any, ...], dict[str, Any], Any, int], bool]
"""Told the arguments, the result, and the time in ns of a call; whether all ranks met there."""


def kind_of(name: str) -> str:
    """The collective by one name, whatever the form of its arguments."""
    return _KINDS.get(name, name)


_Key = tuple[str, int, "str | None", bool, int]
"""Kind, ranks, device, whether asynchronous, and bits of the size; -1 where it has none."""


class _Row:
    __slots__ = ("bytes", "calls", "each", "time_ns", "waits")

    def __init__(self) -> None:
        self.calls = self.bytes = self.time_ns = self.waits = 0
        self.each = LogHistogram()


class Messages:
    """A bounded table: after 200 rows new kinds and sizes are left out."""

    def __init__(self) -> None:
        self._rows: dict[_Key, _Row] = {}
        self._pending: dict[int, tuple[weakref.ref[Any], _Row, int]] = {}
        """By the handle's id: handle, row, and time of the call itself."""
        self._world: int | None = None

    def noting(self, name: str) -> Note:
        """What is to be told of each call of `torch.distributed.<name>`."""
        kind = kind_of(name)
        pickled = "object" in name
        scattered = name in ("gather", "scatter")
        of_all = kind in _OF_ALL

        def note(args: tuple[Any, ...], kwargs: dict[str, Any], result: Any, spent: int) -> bool:
            values = (*args, *kwargs.values()) if kwargs else args
            ranks = self._ranks(values)
            size, device = (-1, None) if pickled else _size(values)
            if scattered:
                size *= ranks
            handles = _handles(result)
            magnitude = size.bit_length() if size >= 0 else -1
            # On a device a call returns when the work is queued.
            met = of_all and not handles and device in (None, "cpu") and ranks == self._world
            row = self._row((kind, ranks, device, bool(handles), magnitude))
            if row is None:
                return met
            row.calls += 1
            row.bytes += max(0, size)
            row.time_ns += spent
            if not handles:
                row.each.add(spent)
            for handle in handles:
                self._await(handle, row, spent)
            return met

        return note

    def waited(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any, spent: int
    ) -> bool:
        """Note that a handle, the first of `args`, was waited for."""
        known = self._pending.pop(id(args[0]), None)
        if known is not None and known[0]() is args[0]:
            _, row, before = known
            row.waits += 1
            row.time_ns += spent
            row.each.add(before + spent)
        return False

    def as_list(self, steps: int = 0) -> list[CollectiveCalls]:
        """The rows, the costliest first; safe from any thread.

        Args:
            steps: in which the calls were made.
        """
        rows = [
            CollectiveCalls(
                kind=kind,
                ranks=ranks,
                device=device,
                asynchronous=asynchronous,
                calls=row.calls,
                bytes=row.bytes if magnitude >= 0 else None,
                time_ns=row.time_ns,
                waits=row.waits,
                median_ns=_quantile(dict(row.each.counts), 0.5),
                usual_ns=_usual(dict(row.each.counts), steps),
                quick_ns=_quantile(dict(row.each.counts), _QUICK),
                quick_error_ns=_quick_error(dict(row.each.counts)),
            )
            for (kind, ranks, device, asynchronous, magnitude), row in list(self._rows.items())
        ]
        return sorted(rows, key=lambda row: -(row.time_ns or 0))

    def clear(self) -> None:
        """Forget everything."""
        self._rows.clear()
        self._pending.clear()

    def _row(self, key: _Key) -> _Row | None:
        row = self._rows.get(key)
        if row is None and len(self._rows) < _MAX_ROWS:
            row = self._rows[key] = _Row()
        return row

    def _ranks(self, values: Iterable[Any]) -> int:
        if self._world is None:  # asked once: it takes a microsecond
            self._world = distributed.get_world_size()
        for value in values:
            if isinstance(value, distributed.ProcessGroup):
                return value.size()
        return self._world

    def _await(self, handle: Any, row: _Row, spent: int) -> None:
        if len(self._pending) >= _MAX_PENDING:  # of handles that nobody has waited for
            self._pending.clear()
        self._pending[id(handle)] = weakref.ref(handle), row, spent


def _handles(result: Any) -> list[Any]:
    """Of `batch_isend_irecv` several, of a blocking call none."""
    if result is None:
        return []
    found = result if isinstance(result, list) else [result]
    return [each for each in found if isinstance(each, distributed.Work)]


def _size(values: Iterable[Any]) -> tuple[int, str | None]:
    """Bytes of the largest argument, and where it is; -1 where none is a tensor."""
    largest, device = -1, None
    for value in values:
        several = value if isinstance(value, (list, tuple)) else [value]
        tensors: list[Any] = [getattr(each, "tensor", each) for each in several]  # of a P2POp
        if not tensors or not isinstance(tensors[0], Tensor):
            continue
        size, first = sum(each.nbytes for each in tensors), tensors[0]
        if size > largest:
            # Asking for the device makes an object of it.
            largest, device = size, "cpu" if first.is_cpu else first.device.type
    return largest, device


def _quantile(counts: dict[int, int], q: float) -> int | None:
    """The middle of the bin in which it lies; None of nothing."""
    left = q * sum(counts.values())
    for index in sorted(counts):
        left -= counts[index]
        if left <= 0:
            middle: float = GROWTH ** (index + 0.5)
            return round(middle)
    return None


def _quick_error(counts: dict[int, int]) -> int | None:
    """Standard error of the quick quantile: half of what lies between its neighbours in order.

    How many of n values lie below a quantile q has a standard deviation of sqrt(n q (1 - q)).
    """
    n = sum(counts.values())
    off = sqrt(_QUICK * (1 - _QUICK) / n) if n else 0.0
    low, high = (_quantile(counts, max(0.0, _QUICK + sign * off)) for sign in (-1, 1))
    return None if low is None or high is None else (high - low) // 2


def _usual(counts: dict[int, int], longest: int) -> int | None:
    """The mean without so many of the longest; None if nothing is left."""
    total, kept = 0.0, 0
    for index in sorted(counts, reverse=True):
        left_out = min(longest, counts[index])
        longest -= left_out
        kept += counts[index] - left_out
        total += (counts[index] - left_out) * GROWTH ** (index + 0.5)
    return round(total / kept) if kept else None
