"""Work of a device that overlaps other work of its stream in the trace.

A thread of a Chrome trace holds slices that lie side by side or inside each other. Kernels of one
stream may overlap by what the clocks are off, or because several hardware queues share its name;
ui.perfetto.dev then leaves out those that begin later, without a word.
"""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import numpy as np

from stepscope.advisor.traces.files import Source as File
from stepscope.advisor.traces.kinds import KINDS, Kind
from stepscope.advisor.traces.reader import Event, Reader

Track = tuple[Any, Any]
"""Process and thread."""
_DEVICE = frozenset(category for category, kind in KINDS.items() if kind >= Kind.KERNEL)


def lanes_of(path: Path) -> dict[tuple[Track, float, float], int]:
    """Where to put what overlaps.

    Args:
        path: of a trace.

    Returns:
        By track, begin and length: how many tracks further down it has room. Work that is not in
        there stays where it is.

    Raises:
        TraceError: it cannot be read.
    """
    times: dict[Track, tuple[array[float], array[float]]] = {}
    reader = Reader(File(path))
    try:
        for events in reader.events():
            for event in events:
                if type(event) is Event and event.cat in _DEVICE:
                    key = (event.pid, event.tid)
                    starts, lengths = times.setdefault(key, (array("d"), array("d")))
                    starts.append(event.ts)
                    lengths.append(event.dur)
    finally:
        reader.close()
    found = {}
    for track, (starts, lengths) in times.items():
        for i, lane in _lanes(np.array(starts), np.array(lengths)).items():
            found[track, starts[i], lengths[i]] = lane
    return found


def _lanes(start: Any, length: Any) -> dict[int, int]:
    """Those that do not fit into the first lane, by their place in the columns."""
    # As whole nanoseconds since the first, so that neighbours meet exactly.
    begin = np.rint((start - start.min()) * 1000)
    end = begin + np.rint(length * 1000)
    order = np.lexsort((-end, begin))
    reach = np.maximum.accumulate(end[order])
    if not np.any(begin[order][1:] < reach[:-1]):
        return {}
    lanes: list[list[float]] = []
    found = {}
    for i in order.tolist():
        lane = next((n for n, ends in enumerate(lanes) if _fits(ends, begin[i], end[i])), None)
        if lane is None:
            lane = len(lanes)
            lanes.append([end[i]])
        if lane:
            found[i] = lane
    return found


def _fits(ends: list[float], begin: float, end: float) -> bool:
    """Whether something has room beside or inside of what a lane holds; then it is put there.

    Args:
        ends: of what is open in the lane, the innermost last.
        begin: of what is put there; not before anything else in the lane.
        end: of it.
    """
    while ends and ends[-1] <= begin:
        ends.pop()
    if ends and end > ends[-1]:
        return False
    ends.append(end)
    return True
