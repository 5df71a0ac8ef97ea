"""Traces of several processes as one, for viewers of Chrome traces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stepscope.advisor.export.chrome import Event, Tracks
from stepscope.advisor.export.copies import WholeReader
from stepscope.advisor.export.overlaps import Track, lanes_of

_ARROWS = ("s", "t", "f")
_FIRST_LANE = 1 << 30


class Copy:
    """A trace whose overlapping work has tracks of its own; nothing else is changed.

    Args:
        path: of the trace.

    Raises:
        TraceError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.reader = WholeReader(path)
        self._lanes = lanes_of(path)
        self._tracks: dict[tuple[Track, int], int] = {}

    def events(self) -> Iterator[list[Event]]:
        """Its events, some thousands at a time.

        Raises:
            TraceError: it cannot be read.
        """
        for events in self.reader.whole_events():
            if self._lanes:
                for event in events:
                    if event.get("ph") == "X":
                        self._place(event)
            yield events
        yield [self._name(track, lane, tid) for (track, lane), tid in self._tracks.items()]

    def _place(self, event: Event) -> None:
        track = (event.get("pid"), event.get("tid"))
        lane = self._lanes.get((track, event["ts"], event["dur"]))
        if lane:
            next_one = _FIRST_LANE + len(self._tracks)
            event["tid"] = self._tracks.setdefault((track, lane), next_one)

    @staticmethod
    def _name(track: Track, lane: int, tid: int) -> Event:
        name = f"{track[1]} (overlapping work {lane})"
        where = {"pid": track[0], "tid": tid}
        return {"ph": "M", "name": "thread_name", **where, "args": {"name": name}}


class OneOfMany:
    """A trace among others: processes, arrows and times are made its own.

    Args:
        copy: the trace.
        name: what its processes are called by, before their own names.
        tracks: gives numbers to processes.
        base_ns: what the first trace's times are counted from; None for the first itself.
        later_ns: what is to be added to its own times.
    """

    def __init__(
        self, copy: Copy, name: str, tracks: Tracks, base_ns: int | None, later_ns: int = 0
    ) -> None:
        self.base_ns = base_ns
        self.copy = copy
        self._name = name
        self._later_ns = later_ns
        self._tracks = tracks
        self._pids: dict[Any, int] = {}

    def events(self) -> Iterator[list[Event]]:
        """Its events, some thousands at a time.

        Raises:
            TraceError: it cannot be read.
        """
        for events in self.copy.events():
            own = self.copy.reader.metadata.base_ns
            if self.base_ns is None:
                self.base_ns = own
            later_us = (own - self.base_ns + self._later_ns) / 1000
            for event in events:
                self._change(event, later_us)
            yield events

    def _change(self, event: Event, later_us: float) -> None:
        pid = event.get("pid")
        if pid not in self._pids:
            self._pids[pid] = self._tracks.process(f"{self._name}: process {pid}")
        event["pid"] = self._pids[pid]
        if later_us and "ts" in event:
            event["ts"] += later_us
        if event.get("ph") in _ARROWS and "id" in event:
            event["id"] = f"{self._name}.{event['id']}"
        self._relabel(event)

    def _relabel(self, event: Event) -> None:
        args = event.get("args")
        if event.get("ph") != "M" or not isinstance(args, dict):
            return
        if event["name"] == "process_name":
            args["name"] = f"{self._name}: {args.get('name')}"
        elif event["name"] == "process_sort_index":
            args["sort_index"] = event["pid"]  # ranks stay together
