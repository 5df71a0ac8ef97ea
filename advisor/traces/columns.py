"""Events as rows of numbers: names and threads become indices into tables."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from stepscope.advisor.traces.frames import called_from, users_calls
from stepscope.advisor.traces.kinds import KINDS, MEMORY_NAME, Kind
from stepscope.advisor.traces.reader import NO_ARGS, AnyEvent, Event, Instant, Number

RECORD = np.dtype(
    [
        ("start", np.int64),  # ns since the first event that was read
        ("end", np.int64),
        ("correlation", np.int64),  # of a call with what it started on a device; 0: none
        ("bytes", np.int64),  # of a copy or fill
        ("name", np.int32),
        (
            "track",
            np.int32,
        ),  # host: the thread; else ("device", number, stream), ("memory", number)
        (
            "blocks_per_sm",
            np.float32,
        ),  # of a kernel, beside the device's multiprocessors; 0: unknown
        ("kind", np.int8),
        ("occupancy", np.int8),  # of a kernel, percent; -1: unknown
    ],
    align=True,
)
Records = npt.NDArray[Any]
"""Rows of `RECORD`."""
ALLOCATED, RESERVED = "bytes", "correlation"
"""Where an event of the allocator keeps what it holds then."""
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
        self.origin_us: float | None = None
        self.foreign: Counter[str] = Counter()
        """Events of categories that are not known, by category."""
        self.unusable = 0
        """Events whose times are no numbers, or none that a clock shows."""

    def records(self, events: list[AnyEvent]) -> Records:
        """The events that are kept, one row each, grouped by where they happen."""
        categories: defaultdict[str, list[Event]] = defaultdict(list)
        for event in events:
            if type(event) is Event:
                categories[event.cat].append(event)
        groups = {kind: _of(kind, categories) for kind in Kind}
        groups[Kind.PYTHON] = [
            *users_calls(groups[Kind.PYTHON]),
            *called_from(groups[Kind.OPERATOR]),
        ]
        kept = [event for group in groups.values() for event in group]
        rows = np.zeros(len(kept), RECORD)
        rows["kind"] = np.repeat(list(groups), [len(group) for group in groups.values()])
        self._times(rows, kept)
        edges = [Kind.RUNTIME, Kind.RUNTIME + 1, Kind.KERNEL, Kind.KERNEL + 1]
        ends = np.searchsorted(rows["kind"], edges)
        first_call, last_call, first_device, last_kernel = (int(end) for end in ends)
        tracks = self.tracks
        rows["track"][:first_device] = [tracks[event.tid] for event in kept[:first_device]]
        self._calls(rows[first_call:last_call], kept[first_call:last_call])
        self._device(rows[first_device:], kept[first_device:])
        self._kernels(rows[first_device:last_kernel], kept[first_device:last_kernel])
        for category in categories.keys() - KINDS.keys():
            self.foreign[category] += len(categories[category])
        return np.concatenate([rows[rows["start"] < _LAST], self._memory(events)])

    def _memory(self, events: list[AnyEvent]) -> Records:
        """What the allocators of devices hold, where they say so (since torch 1.11)."""
        kept = [(e, e.args) for e in events if type(e) is Instant and e.args]
        kept = [(e, a) for e, a in kept if a.device_type == _ON_DEVICE and e.name == MEMORY_NAME]
        kept = [(e, a) for e, a in kept if a.reserved is not None and abs(e.ts) < _LATEST_US]
        rows = np.zeros(len(kept), RECORD)
        if kept:
            origin = self.origin_us = self.origin_us or kept[0][0].ts
            rows["kind"] = Kind.MEMORY
            rows["start"] = np.rint((np.array([e.ts for e, _ in kept]) - origin) * 1000)
            rows["end"] = rows["start"]
            tracks = self.tracks
            rows["track"] = [tracks["memory", a.device_id] for _, a in kept]
            rows[ALLOCATED] = _integers(a.allocated for _, a in kept)
            rows[RESERVED] = _integers(a.reserved for _, a in kept)
        return rows

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
        names = self.names
        rows["name"] = [names[e.name] for e in events]
        if len(names) > len(self.name_kinds):
            known, first = np.unique(rows["name"], return_index=True)
            new = first[known >= len(self.name_kinds)]
            self.name_kinds += rows["kind"][new].tolist()

    @staticmethod
    def _calls(rows: Records, events: list[Event]) -> None:
        rows["correlation"] = _integers((e.args or NO_ARGS).correlation for e in events)

    @staticmethod
    def _kernels(rows: Records, events: list[Event]) -> None:
        arguments = [e.args or NO_ARGS for e in events]
        blocks = _floats(a.blocks_per_sm for a in arguments)
        rows["blocks_per_sm"] = np.where(blocks > 0, blocks, 0)  # -1, NaN: the device is unknown
        percent = _integers(-1 if a.occupancy is None else a.occupancy for a in arguments)
        rows["occupancy"] = np.clip(percent, -1, 100)

    def _device(self, rows: Records, events: list[Event]) -> None:
        arguments = [e.args or NO_ARGS for e in events]
        rows["correlation"] = _integers(a.correlation for a in arguments)
        rows["bytes"] = _integers(a.bytes for a in arguments)
        tracks = self.tracks
        rows["track"] = [
            tracks[
                "device",
                event.pid if args.device is None else args.device,
                event.tid if args.stream is None else args.stream,
            ]
            for event, args in zip(events, arguments, strict=True)
        ]


def _of(kind: Kind, categories: dict[str, list[Event]]) -> list[Event]:
    """All events of a kind; of most kinds a trace has one category."""
    found = [events for category, events in categories.items() if KINDS.get(category) == kind]
    return found[0] if len(found) == 1 else [event for events in found for event in events]


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
