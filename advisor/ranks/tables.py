"""Tables of operators, kernels and copies, added over ranks."""

from __future__ import annotations

from typing import TypeVar

from msgspec import Struct, field, structs

from stepscope.advisor.ranks.sketches import kept
from stepscope.profiler.format import (
    Annotation,
    Copies,
    Kernel,
    KernelCategory,
    Operator,
    Profile,
    RuntimeCalls,
    Trace,
    Window,
)

_MOST = 200
"""Rows of a table in a profile."""
Row = TypeVar("Row", Operator, Kernel, KernelCategory, Copies, RuntimeCalls, Annotation)


class Filling(Struct):
    """How far a kernel fills the device: means as sums of whole numbers, weighted by time."""

    time_ns: int = 0
    """Of launches of which it is known."""
    occupancy: int = 0
    blocks_per_sm: int = 0


class Tables(Struct, kw_only=True):
    """Sums over the ranks, by name; empty for recorded profiles, whose windows are samples."""

    traces: int = 0
    """How many have been added."""
    busy_ns: int = 0
    communication_ns: int = 0
    lost_events: int = 0
    peak_allocated_bytes: int | None = None
    """The largest of the ranks, like the next."""
    peak_reserved_bytes: int | None = None
    window_steps: int = 0
    window_wall_ns: int = 0
    categories: dict[str, KernelCategory] = field(default_factory=dict)
    kernels: dict[str, Kernel] = field(default_factory=dict)
    filling: dict[str, Filling] = field(default_factory=dict)
    copies: dict[str, Copies] = field(default_factory=dict)
    runtime: dict[str, RuntimeCalls] = field(default_factory=dict)
    annotations: dict[str, Annotation] = field(default_factory=dict)
    operators: dict[str, Operator] = field(default_factory=dict)


def tables_of(profile: Profile) -> Tables:
    """The tables of a trace's profile."""
    trace, window = profile.trace, profile.window
    if trace is None:
        return Tables()
    operators = window.operators if window else []
    return Tables(
        traces=1,
        busy_ns=trace.busy_ns or 0,
        communication_ns=trace.communication_ns or 0,
        lost_events=trace.lost_events,
        peak_allocated_bytes=trace.peak_allocated_bytes,
        peak_reserved_bytes=trace.peak_reserved_bytes,
        window_steps=window.steps if window else 0,
        window_wall_ns=window.wall_ns if window else 0,
        categories=_keyed(trace.categories, "name"),
        kernels=_keyed(
            [structs.replace(k, occupancy=None, blocks_per_sm=None) for k in trace.kernels], "name"
        ),
        filling=kept({kernel.name: _filling(kernel) for kernel in trace.kernels}),
        copies=_keyed(trace.copies, "direction", "memory"),
        runtime=_keyed(trace.runtime, "name"),
        annotations=_keyed(trace.annotations, "name"),
        operators=_keyed(operators, "name", "phase"),
    )


def summed(one: Tables, other: Tables) -> Tables:
    """Both together."""
    return Tables(
        traces=one.traces + other.traces,
        busy_ns=one.busy_ns + other.busy_ns,
        communication_ns=one.communication_ns + other.communication_ns,
        lost_events=one.lost_events + other.lost_events,
        peak_allocated_bytes=_largest(one.peak_allocated_bytes, other.peak_allocated_bytes),
        peak_reserved_bytes=_largest(one.peak_reserved_bytes, other.peak_reserved_bytes),
        window_steps=one.window_steps + other.window_steps,
        window_wall_ns=one.window_wall_ns + other.window_wall_ns,
        categories=_rows(one.categories, other.categories),
        kernels=_rows(one.kernels, other.kernels),
        filling=_fillings(one.filling, other.filling),
        copies=_rows(one.copies, other.copies),
        runtime=_rows(one.runtime, other.runtime),
        annotations=_rows(one.annotations, other.annotations),
        operators=_rows(one.operators, other.operators),
    )


def trace_of(tables: Tables, base: Trace | None) -> Trace | None:
    """Sums over ranks and steps stay sums, but what is compared with the wall time is a mean."""
    if base is None:
        return None
    return structs.replace(
        base,
        busy_ns=None if base.busy_ns is None else tables.busy_ns // tables.traces,
        communication_ns=None
        if base.communication_ns is None
        else tables.communication_ns // tables.traces,
        categories=_ordered(tables.categories),
        kernels=[_filled(kernel, tables.filling) for kernel in _ordered(tables.kernels)],
        copies=_ordered(tables.copies),
        runtime=_ordered(tables.runtime),
        annotations=_ordered(tables.annotations),
        peak_allocated_bytes=tables.peak_allocated_bytes,
        peak_reserved_bytes=tables.peak_reserved_bytes,
        lost_events=tables.lost_events,
    )


def window_of(tables: Tables, base: Window | None) -> Window | None:
    """Of traces the sums; a recorded window is a sample, that of one rank as good as another's."""
    if base is None or not tables.traces:
        return base
    return structs.replace(
        base,
        steps=tables.window_steps,
        wall_ns=tables.window_wall_ns,
        operators=_ordered(tables.operators),
    )


_ADDED = (
    "calls",
    "time_ns",
    "device_ns",
    "bytes",
    "tensor_core_ns",
    "self_cpu_ns",
    "self_device_ns",
)


def _filling(kernel: Kernel) -> Filling:
    if kernel.occupancy is None or kernel.blocks_per_sm is None:
        return Filling()
    return Filling(
        kernel.time_ns,
        round(kernel.occupancy * kernel.time_ns),
        round(kernel.blocks_per_sm * kernel.time_ns),
    )


def _fillings(one: dict[str, Filling], other: dict[str, Filling]) -> dict[str, Filling]:
    both = {**one}
    for name, b in other.items():
        a = both.get(name, Filling())
        both[name] = Filling(
            a.time_ns + b.time_ns,
            a.occupancy + b.occupancy,
            a.blocks_per_sm + b.blocks_per_sm,
        )
    return kept(both)


def _filled(kernel: Kernel, filling: dict[str, Filling]) -> Kernel:
    known = filling.get(kernel.name, Filling())
    if not known.time_ns:
        return kernel
    return structs.replace(
        kernel,
        occupancy=known.occupancy / known.time_ns,
        blocks_per_sm=known.blocks_per_sm / known.time_ns,
    )


def _keyed(rows: list[Row], *names: str) -> dict[str, Row]:
    return kept({"\n".join(str(getattr(row, name)) for name in names): row for row in rows})


def _rows(one: dict[str, Row], other: dict[str, Row]) -> dict[str, Row]:
    """The rows of both tables, added where their keys agree."""
    found = {**one}
    for key, row in other.items():
        known = found.get(key)
        if known is None:
            found[key] = row
        else:
            both = {
                name: _sum(getattr(known, name), getattr(row, name))
                for name in _ADDED
                if hasattr(row, name)
            }
            found[key] = structs.replace(known, **both)
    return kept(found)


def _ordered(rows: dict[str, Row]) -> list[Row]:
    """The largest rows."""
    return sorted(rows.values(), key=_time, reverse=True)[:_MOST]


def _time(row: Operator | Kernel | KernelCategory | Copies | RuntimeCalls | Annotation) -> int:
    return row.self_cpu_ns + row.self_device_ns if isinstance(row, Operator) else row.time_ns


def _sum(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else a + b


def _largest(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else max(a, b)
