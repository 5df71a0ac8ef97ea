"""Events as rows of numbers: names and threads become indices into tables."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from stepscope.advisor.traces.collectives import Collective, collective_of
from stepscope.advisor.traces.frames import called_from, users_calls
from stepscope.advisor.traces.kinds import KINDS, MEMORY_NAME, Kind
from stepscope.advisor.traces.reader import NO_ARGS, AnyEvent, Args, Event, Instant, Number
from stepscope.advisor.traces.work import Works

RECORD = np.dtype(
    [
        ("start", np.int64),  # ns since the first event that was read
        ("end", np.int64),
        ("correlation", np.int64),  # of a call with what it started on a device; 0: none
        ("bytes", np.int64),  # of a copy or fill; ROCm tells it of the call that starts one
        ("name", np.int32),
        ("track", np.int32),  # host: thread; else ("device", number, stream), ("memory", number)
        ("blocks_per_sm", np.float32),  # of a kernel, beside the multiprocessors; 0: unknown
        ("kind", np.int8),
        ("occupancy", np.int8),  # of a kernel, percent; -1: unknown
        ("work", np.int32),  # of an operator, number of what it does; 0: not known
        ("collective", np.int32),  # what is known of a collective; 0: none, or nothing
    ],
    align=True,
)
Records = npt.NDArray[Any]
"""Rows of `RECORD`."""
ALLOCATED, RESERVED = "bytes", "correlation"
"""Where an event of the allocator keeps what it holds then."""
AWAITED = "bytes"
"""Where a wait keeps the track that is waited for; -1: all, or not recorded."""
_ON_DEVICE = 1
Int64 = npt.NDArray[np.int64]
_LAST = 1 << 62
_LATEST_US = 4e15  # the year 2096
_LONGEST_US = 8.64e10
"""A day: where a length overflows, as some profilers' do, it is of centuries."""


class Table(dict[Any, int]):
    """Numbers values in the order in which they are first looked up."""

    def __missing__(self, key: Any) -> int:
        """The next free number."""
        number = self[key] = len(self)
        return number


class Columns:
    """Turns events into records, with the tables that their indices point into."""

    def __init__(self) -> None:
        self.names = Table()
        self.name_kinds: list[int] = []
        """The kind of the first event of each name."""
        self.tracks = Table()
        self.works = Works()
        self.collectives: dict[Collective | None, int] = Table()
        self.collectives[None] = 0
        self.origin_us: float | None = None
        self.foreign: Counter[str] = Counter()
        """Events of categories that are not known, by category."""
        self.unusable = 0
        """Events whose times are no numbers, or none that a clock shows."""

    def records(self, events: list[AnyEvent]) -> Records:
        """The events that are kept, one row each, grouped by kind."""
        groups = self._groups(events)
        kept = [event for group in groups.values() for event in group]
        rows = np.zeros(len(kept), RECORD)
        rows["kind"] = np.repeat(list(groups), [len(group) for group in groups.values()])
        self._times(rows, kept)
        self._names(rows, kept)
        begin = 0
        for kind, group in groups.items():
            end = begin + len(group)
            if group:
                self._fill(kind, rows[begin:end], group)
            begin = end
        return rows[rows["start"] < _LAST]

    def _groups(self, events: list[AnyEvent]) -> dict[Kind, list[Event]]:
        categories: defaultdict[str, list[Event]] = defaultdict(list)
        moments: list[Instant] = []
        for event in events:
            if type(event) is Event:
                categories[event.cat].append(event)
            elif type(event) is Instant:
                moments.append(event)
        for category in categories.keys() - KINDS.keys():
            self.foreign[category] += len(categories[category])
        groups = {kind: _of(kind, categories) for kind in Kind}
        groups[Kind.PYTHON] = users_calls(groups[Kind.PYTHON]) + called_from(groups[Kind.OPERATOR])
        groups[Kind.MEMORY] = _held_by_devices(moments)
        return groups

    def _times(self, rows: Records, events: list[Event]) -> None:
        start = np.array([e.ts for e in events], np.float64)
        length = np.array([e.dur for e in events], np.float64)
        usable = (np.abs(start) < _LATEST_US) & (length < _LONGEST_US)
        if not usable.all():
            self.unusable += int((~usable).sum())
            start[~usable], length[~usable] = np.inf, 0
        if self.origin_us is None and usable.any():
            self.origin_us = float(start[usable].min())
        since = np.minimum((start - (self.origin_us or 0.0)) * 1000, _LAST)
        rows["start"] = np.rint(since)
        rows["end"] = np.rint(since + np.maximum(length, 0) * 1000)

    def _names(self, rows: Records, events: list[Event]) -> None:
        names = self.names
        rows["name"] = [names[e.name] for e in events]
        if len(names) > len(self.name_kinds):
            known, first = np.unique(rows["name"], return_index=True)
            new = first[known >= len(self.name_kinds)]
            self.name_kinds += rows["kind"][new].tolist()

    def _fill(self, kind: Kind, rows: Records, events: list[Event]) -> None:
        """What is told of one kind only."""
        tracks = self.tracks
        if kind == Kind.OPERATOR:
            rows["work"] = self.works.numbers(events)
        if kind <= Kind.PYTHON:
            rows["track"] = [tracks[event.tid] for event in events]
            if kind != Kind.RUNTIME:
                return
        arguments = [event.args or NO_ARGS for event in events]
        if kind == Kind.MEMORY:
            rows["track"] = [tracks["memory", args.device_id] for args in arguments]
            rows[ALLOCATED] = _integers(args.allocated for args in arguments)
            rows[RESERVED] = _integers(args.reserved for args in arguments)
            return
        rows["correlation"] = _integers(args.correlation for args in arguments)
        if kind == Kind.RUNTIME:
            rows["bytes"] = _integers(args.size for args in arguments)
        else:
            rows["track"] = [
                tracks[
                    "device",
                    event.pid if args.device is None else args.device,
                    event.tid if args.stream is None else args.stream,
                ]
                for event, args in zip(events, arguments, strict=True)
            ]
        if kind == Kind.WAIT:
            rows[AWAITED] = [
                -1 if a.wait_on_stream is None else tracks["device", a.device, a.wait_on_stream]
                for a in arguments
            ]
        if kind in (Kind.COPY, Kind.FILL):
            rows["bytes"] = _integers(args.bytes for args in arguments)
        if kind == Kind.KERNEL:
            _fill_occupancy(rows, arguments)
            known = self.collectives
            rows["collective"] = [known[collective_of(a)] if a.collective else 0 for a in arguments]


def _fill_occupancy(kernels: Records, arguments: list[Args]) -> None:
    blocks = _floats(args.blocks_per_sm for args in arguments)
    kernels["blocks_per_sm"] = np.where(blocks > 0, blocks, 0)  # -1, NaN: the device is unknown
    percent = _integers(-1 if args.occupancy is None else args.occupancy for args in arguments)
    kernels["occupancy"] = np.clip(percent, -1, 100)


def _of(kind: Kind, categories: dict[str, list[Event]]) -> list[Event]:
    """All events of a kind; of most kinds a trace has one category."""
    found = [events for category, events in categories.items() if KINDS.get(category) == kind]
    return found[0] if len(found) == 1 else [event for events in found for event in events]


def _held_by_devices(moments: list[Instant]) -> list[Event]:
    """What allocators of devices hold, where they say so (since torch 1.11), as events."""
    return [
        Event(name=m.name, ts=m.ts, args=m.args)
        for m in moments
        if m.name == MEMORY_NAME
        and m.args is not None
        and m.args.device_type == _ON_DEVICE
        and m.args.reserved is not None
    ]


def _integers(values: Iterable[Number]) -> Int64:
    plain = [value or 0 for value in values]
    try:
        return np.array(plain, np.int64)
    except (ValueError, OverflowError, TypeError):
        return np.array([integer(value) for value in plain], np.int64)


def _floats(values: Iterable[Number]) -> npt.NDArray[np.float32]:
    plain = [value or 0 for value in values]
    try:
        return np.array(plain, np.float32)
    except (ValueError, OverflowError):
        return np.zeros(len(plain), np.float32)


def integer(value: Number) -> int:
    """As a 64-bit number; 0 where there is none."""
    try:
        number = int(float(value)) if isinstance(value, str) else int(value or 0)
    except (ValueError, OverflowError, TypeError):
        return 0
    return number if -_LAST < number < _LAST else 0
