"""What PyTorch's flight recorder of collectives still has, read once at the end of a run.

It is a ring of the last collectives, 2,000 by default, those that C++ begins included: the buckets
of DistributedDataParallel, for one. With NCCL `TORCH_NCCL_TRACE_BUFFER_SIZE` switches it on, and
`TORCH_NCCL_ENABLE_TIMING=1` adds the device's time. Nothing is switched on here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

import msgspec
import torch
from torch import distributed

from stepscope.profiler.format import CollectiveCalls, FlightRecorder
from stepscope.profiler.messages import kind_of

_DUMPS = ("_dump_nccl_trace_json", "_dump_fr_trace_json")
"""Of NCCL, and of all other backends; private, so either may be missing."""
_MAX_ROWS = 64
_NUMBER = re.compile(r"\d+")
_WIDTHS = {
    **dict.fromkeys(("ComplexDouble",), 16),
    **dict.fromkeys(("Double", "Long", "ComplexFloat"), 8),
    **dict.fromkeys(("Float", "Int"), 4),
    **dict.fromkeys(("Half", "BFloat16", "Short"), 2),
}
"""Bytes of an element, by PyTorch's names of scalar types; those of all others is one."""


class _Entry(msgspec.Struct):
    profiling_name: str
    time_created_ns: int
    input_sizes: list[list[int]] = []
    input_dtypes: list[str] = []
    output_sizes: list[list[int]] = []
    output_dtypes: list[str] = []
    process_group: list[str] = []
    duration_ms: float | None = None


class _Dump(msgspec.Struct):
    entries: list[_Entry] = []
    pg_config: dict[str, dict[str, Any]] = {}


class _Key(NamedTuple):
    kind: str
    ranks: int
    device: str | None
    magnitude: int
    timed: bool


def flight_recorder(since_ns: int) -> FlightRecorder | None:
    """The collectives that it has kept, by kind and size; None where there is nothing.

    Args:
        since_ns: nanoseconds of the epoch; what began before is left out.
    """
    rows: dict[_Key, CollectiveCalls] = {}
    began: list[int] = []
    for dump in _dumps():
        for entry in dump.entries:
            if entry.time_created_ns >= since_ns:
                began.append(entry.time_created_ns)
                _add(rows, entry, _group_size(dump, entry))
    if not began:
        return None
    calls = sorted(rows.values(), key=lambda row: (-(row.time_ns or 0), -(row.bytes or 0)))
    span = max(began) - min(began)
    return FlightRecorder(entries=len(began), span_ns=span, calls=calls[:_MAX_ROWS])


def _dumps() -> Iterator[_Dump]:
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    for name in _DUMPS:
        dump = getattr(torch._C._distributed_c10d, name, None)
        if dump is not None:
            yield msgspec.json.decode(dump(), type=_Dump, strict=False)


def _add(rows: dict[_Key, CollectiveCalls], entry: _Entry, ranks: int) -> None:
    backend, _, name = entry.profiling_name.rpartition(":")
    kind = kind_of(name.partition(" ")[0])  # `send 0->1`
    size = max(
        _bytes(entry.input_sizes, entry.input_dtypes),
        _bytes(entry.output_sizes, entry.output_dtypes),
    )
    moves = bool(entry.input_sizes or entry.output_sizes)
    timed = entry.duration_ms is not None
    device = {"nccl": "cuda", "gloo": "cpu"}.get(backend)
    key = _Key(kind, ranks, device, size.bit_length() if moves else -1, timed)
    row = rows.get(key)
    if row is None:
        row = rows[key] = CollectiveCalls(
            kind=kind,
            ranks=ranks,
            device=device,
            asynchronous=True,
            calls=0,
            bytes=0 if moves else None,
            time_ns=0 if timed else None,
        )
    row.calls += 1
    if row.bytes is not None:
        row.bytes += size
    if row.time_ns is not None:
        row.time_ns += round(1e6 * (entry.duration_ms or 0.0))


def _bytes(sizes: list[list[int]], dtypes: list[str]) -> int:
    width = _WIDTHS.get(dtypes[0], 1) if dtypes else 1
    return width * sum(map(prod, sizes))


def _group_size(dump: _Dump, entry: _Entry) -> int:
    group = dump.pg_config.get(entry.process_group[0] if entry.process_group else "", {})
    return len(_NUMBER.findall(str(group.get("ranks", "")))) or distributed.get_world_size()
