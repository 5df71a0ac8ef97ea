"""From a trace file to its sums: read once, find the steps, go through them in order of time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stepscope.advisor.traces.analysis import Analysis, Watch
from stepscope.advisor.traces.columns import Columns, Int64, Records
from stepscope.advisor.traces.errors import TraceError
from stepscope.advisor.traces.files import Source
from stepscope.advisor.traces.kinds import Kind
from stepscope.advisor.traces.memory import Memory
from stepscope.advisor.traces.names import Names
from stepscope.advisor.traces.reader import Reader
from stepscope.advisor.traces.spool import Spool
from stepscope.advisor.traces.steps import Edges, Marks, device_edges, host_edges


@dataclass(frozen=True)
class Analysed:
    """A trace, added up."""

    path: Path
    reader: Reader
    columns: Columns
    memory: Memory
    edges: Edges
    times: list[int]
    """Begin of each step and end of the last, as the device sees them, in ns since `origin_us`."""
    devices: list[int]
    """Numbers of the devices at work, the busiest first."""
    sums: Analysis
    cut_short: str | None


def analyse(path: Path, *watch: Watch) -> Analysed:
    """Read and add up a trace, in memory that does not grow with its size.

    Args:
        path: the trace.
        watch: what else is to see its windows.

    Raises:
        TraceError: the file is no trace of torch.profiler, or holds nothing that we know.
    """
    source = Source(path)
    reader, columns, spool = Reader(source), Columns(), Spool()
    marks, busy, memory = Marks(columns), _Busy(), Memory()
    try:
        for events in reader.events():
            records = columns.records(events)
            marks.look(records)
            busy.add(records)
            memory.add(records)
            spool.add(records)
        _check(path, reader, columns)
        devices = busy.devices(columns)
        edges = host_edges(marks)
        times = device_edges(edges, spool, marks.last) if devices else edges.times
        tracks = _tracks_of(devices[0], columns) if devices else np.empty(0, np.int64)
        allocator = columns.tracks.get(("memory", devices[0]), -1) if devices else -1
        names = Names(columns)
        sums = Analysis(names, times, len(columns.tracks), tracks, allocator)
        sums.watchers = [make(names, edges.times, times) for make in watch]
        for step, begin, end, records in spool.windows(times):
            sums.add(step, begin, end, records)
    finally:
        reader.close()
        spool.close()
    return Analysed(path, reader, columns, memory, edges, times, devices, sums, source.cut_short)


class _Busy:
    """How long each track of a device worked."""

    def __init__(self) -> None:
        self._time: Counter[int] = Counter()

    def add(self, records: Records) -> None:
        kind = records["kind"]
        work = records[(kind >= Kind.KERNEL) & (kind <= Kind.FILL)]
        if len(work):
            times = np.bincount(work["track"], weights=work["end"] - work["start"])
            for track in np.flatnonzero(times):
                self._time[int(track)] += int(times[track])

    def devices(self, columns: Columns) -> list[int]:
        """Numbers of devices, the busiest first."""
        tracks = list(columns.tracks)
        total: Counter[int] = Counter()
        for track, time in self._time.items():
            total[tracks[track][1]] += time
        return [device for device, _ in total.most_common()]


def _tracks_of(device: int, columns: Columns) -> Int64:
    tracks = columns.tracks.items()
    return np.array(
        [i for t, i in tracks if isinstance(t, tuple) and t[:2] == ("device", device)], np.int64
    )


def _check(path: Path, reader: Reader, columns: Columns) -> None:
    if columns.origin_us is not None:
        return
    if columns.foreign:
        seen = ", ".join(name or "none" for name, _ in columns.foreign.most_common(3))
        raise TraceError(
            f"{path}: is a trace of another tool (its events are of the categories {seen}); "
            "give one that torch.profiler has exported"
        )
    if reader.truncated:
        raise TraceError(f"{path}: ends before its first event; copy it again")
    raise TraceError(f"{path}: has no events; profile at least one step and export the trace again")
