"""What each piece of work on a device, and each call that waits for one, had to wait for.

Work on a stream begins when it has been launched, when the work before it on the stream is done,
and when what it was told to wait for on other streams is done; a synchronising call returns when
the work that it waits for is done. The last of these to happen is the one that binds. Which work is
waited for is told by `cuda_sync` events where they were recorded; else by the times: the host comes
back at once when what it waited for ends, and so does a stream.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np

from stepscope.advisor.traces.columns import AWAITED, Records
from stepscope.advisor.traces.intervals import Int64, Mask
from stepscope.advisor.traces.kernels import copy_of
from stepscope.advisor.traces.kinds import Kind
from stepscope.advisor.traces.names import Names
from stepscope.advisor.traces.roles import Role

NEVER = -(1 << 62)
_LATENCY_NS = 5_000
"""From the begin of a launch to that of its kernel, where a trace does not tell."""
_MOST_LATENCY_NS = 20_000
_ENOUGH = 5
_UNEXPLAINED_NS = 10_000
"""Work that begins so much later than launch and stream allow has waited for something else."""
_AFTER_NS = 20_000
"""It begins within this time after what it has waited for."""
_SKEW_NS = 2_000
"""Clocks of host and device, and rounding, may put the end of work behind that of its wait."""


class By(IntEnum):
    """What held work until it began."""

    NOTHING = 0
    """Nothing that is known."""
    LAUNCH = 1
    STREAM = 2
    """Work before it on its stream."""
    OTHER = 3
    """Work on another stream."""


class Work(NamedTuple):
    """Work on one device in a window, sorted by begin."""

    rows: Records
    called: Int64
    """When the call that launched each began; `NEVER` where that is not known."""
    call: Int64
    """From when on each was as good as launched: the end of that call, or its begin where the work
    began before its end."""
    before: Int64
    """Index of the work before each on its stream; -1 for none in this window."""
    other: Int64
    """Index of the work on another stream that each waited for; -1 for none."""
    by: Int64
    latency: Int64
    """From then to the earliest time at which each could begin."""

    @property
    def held_by(self) -> Int64:
        """Index of the work that each was held by; -1 where it was none."""
        found = np.where(self.by == By.STREAM, self.before, -1)
        return np.where(self.by == By.OTHER, self.other, found)


class Waits(NamedTuple):
    """Calls that return when a device has got so far, sorted by end."""

    start: Int64
    end: Int64
    awaited: Int64
    """Index of the last work to end before it returned; -1 for none in this window."""
    waited: Mask
    """Whether that work made it return; else it had ended before."""

    def among(self, start: Int64) -> Waits:
        """Those that begin when the events that they stand beside do."""
        return self.some(self.start == start)

    def some(self, rows: Int64 | Mask) -> Waits:
        """Those at these indices, or under this mask."""
        return Waits(self.start[rows], self.end[rows], self.awaited[rows], self.waited[rows])


def work_of(rows: Records, calls: Records, pairs: tuple[Int64, Int64]) -> Work:
    """Find what held each piece of work.

    Args:
        rows: work on a device, sorted by start.
        calls: the call that launched each; -1 where that is not known.
        pairs: indices of works that waited, and of those on another stream that they waited for,
            as recorded.
    """
    start, end = rows["start"], rows["end"]
    known = calls["tag"] >= 0
    called = np.where(known, calls["start"], NEVER)
    before = _before(rows)
    stream_free = np.where(before >= 0, end[np.maximum(before, 0)], NEVER)
    earliest = called + _latency((start - called)[(called > stream_free) & known])
    other = _others(rows, np.maximum(earliest, stream_free), pairs)
    freed = np.where(other >= 0, end[np.maximum(other, 0)], NEVER)
    # A long call (of a graph, say) may still be at it when its work begins.
    late = start - np.maximum(np.maximum(earliest, stream_free), freed) > _UNEXPLAINED_NS
    late &= (calls["end"] > stream_free) & (rows["kind"] == Kind.KERNEL)
    returned = (calls["end"] <= start) | late
    call = np.where(returned, np.minimum(calls["end"], start), called)
    launched = np.clip(earliest, call, np.maximum(start, call))
    call, launched = (np.where(known, each, NEVER) for each in (call, launched))
    by = np.where(launched > stream_free, int(By.LAUNCH), int(By.STREAM))
    by[(launched == NEVER) & (before < 0)] = By.NOTHING
    by[(other >= 0) & (freed > np.maximum(launched, stream_free))] = By.OTHER
    return Work(rows, called, call, before, other, by, launched - call)


def _before(rows: Records) -> Int64:
    """The work before each on its stream."""
    before = np.full(len(rows), -1, np.int64)
    order = np.argsort(rows["track"], kind="stable")
    same = rows["track"][order][1:] == rows["track"][order][:-1]
    before[order[1:][same]] = order[:-1][same]
    return before


def _latency(delays: Int64) -> int:
    """From the begin of a call until its work begins, where nothing else holds it."""
    typical = int(np.median(delays)) if len(delays) >= _ENOUGH else _LATENCY_NS
    return min(max(typical, 0), _MOST_LATENCY_NS)


def _others(rows: Records, ready: Int64, pairs: tuple[Int64, Int64]) -> Int64:
    """Which work on another stream each waited for: as recorded, else where times say so."""
    start, end, track = rows["start"], rows["end"], rows["track"]
    other = np.full(len(rows), -1, np.int64)
    if not len(rows):
        return other
    by_end = np.argsort(end, kind="stable")
    last = by_end[np.maximum(np.searchsorted(end[by_end], start, "right") - 1, 0)]
    waited = (end[last] <= start) & (end[last] > ready + _UNEXPLAINED_NS)
    waited &= (track[last] != track) & (start - end[last] < _AFTER_NS)
    waited &= last < np.arange(len(rows))
    other[waited] = last[waited]
    waiting, awaited = pairs
    told = (awaited < waiting) & (end[awaited] <= start[waiting] + _SKEW_NS)
    other[waiting[told]] = awaited[told]
    return other


def recorded_pairs(
    rows: Records, calls: Records, told: Records, host: Records
) -> tuple[Int64, Int64]:
    """Works that waited for another stream, and those they waited for, from `cuda_sync` events.

    The next work launched on the stream waits for the last that had been launched on the other.

    Args:
        rows: work on a device.
        calls: the call that launched each; -1 where that is not known.
        told: the events of kind `WAIT`.
        host: events of the host.
    """
    waiting, awaited = [], []
    call = calls["start"]
    for track, other, when in _stream_waits(told, host):
        mine = np.flatnonzero((rows["track"] == track) & (call > when))
        theirs = np.flatnonzero((rows["track"] == other) & (call < when) & (call >= 0))
        if len(mine) and len(theirs):
            waiting.append(mine[np.argmin(call[mine])])
            awaited.append(theirs[np.argmax(call[theirs])])
    return np.array(waiting, np.int64), np.array(awaited, np.int64)


def _stream_waits(told: Records, host: Records) -> list[tuple[int, int, int]]:
    """Stream that waits, stream waited for, and when it was told to."""
    told = told[told[AWAITED] >= 0]
    calls = host[(host["kind"] == Kind.RUNTIME) & np.isin(host["correlation"], told["correlation"])]
    when = dict(zip(calls["correlation"].tolist(), calls["start"].tolist(), strict=True))
    columns = (told[name].tolist() for name in ("track", AWAITED, "correlation"))
    return [(t, a, when[c]) for t, a, c in zip(*columns, strict=True) if c in when]


def waits_of(work: Work, ended: Int64, told: Records, host: Records, names: Names) -> Waits:
    """Calls that return when a device has got so far, and what made each return.

    Args:
        work: on the device, in this window.
        ended: when the call that launched each work returned.
        told: the events of kind `WAIT`.
        host: events of the host.
        names: what names stand for.
    """
    rows = work.rows
    copies = _blocking(work, ended, names)
    sync = host[(host["kind"] == Kind.RUNTIME) & (names.role[host["name"]] == Role.SYNC)]
    sync = sync[~np.isin(sync["start"], work.called[copies])]
    awaited = np.concatenate([_awaited(work, sync, _awaited_tracks(sync, told)), copies])
    start = np.concatenate([sync["start"], work.called[copies]])
    end = np.concatenate([sync["end"], ended[copies]])
    order = np.argsort(end, kind="stable")
    start, end, awaited = start[order], end[order], awaited[order]
    waited = awaited >= 0
    waited[waited] = rows["end"][awaited[waited]] > start[waited]
    return Waits(start, end, awaited, waited)


def _awaited_tracks(sync: Records, told: Records) -> Int64:
    """The stream that each call waits for; -1 where that was not recorded, or for all."""
    track = np.full(len(sync), -1, np.int64)
    if len(told):
        told = told[np.argsort(told["correlation"], kind="stable")]
        place = np.searchsorted(told["correlation"], sync["correlation"], "right") - 1
        place = np.maximum(place, 0)
        known = (told["correlation"][place] == sync["correlation"]) & (sync["correlation"] != 0)
        named = np.where(told[AWAITED] >= 0, told[AWAITED], told["track"])[place]
        track[known] = named[known]
    return track


def _blocking(work: Work, ended: Int64, names: Names) -> Int64:
    """Copies whose calls came back only when they were done."""
    rows = work.rows
    copy = np.flatnonzero((rows["kind"] == Kind.COPY) & (work.called > NEVER))
    done = rows["end"][copy]
    begun = rows["start"][copy] < ended[copy]
    copy = copy[begun & (done > work.called[copy]) & (done <= ended[copy] + _SKEW_NS)]
    pinned = {int(n): copy_of(names.text[n])[1] == "pinned" for n in np.unique(rows["name"][copy])}
    return np.array([i for i in copy if not pinned[int(rows["name"][i])]], np.int64)


def _awaited(work: Work, sync: Records, track: Int64) -> Int64:
    """The last work to end before each call returned, among those launched before it."""
    rows, found = work.rows, np.full(len(sync), -1, np.int64)
    track = np.where(np.isin(track, np.unique(rows["track"])), track, -1)
    for stream in np.unique(track):
        mine = np.arange(len(rows)) if stream < 0 else np.flatnonzero(rows["track"] == stream)
        if not len(mine):
            continue
        mine = mine[np.argsort(rows["end"][mine], kind="stable")]
        here = np.flatnonzero(track == stream)
        place = np.searchsorted(rows["end"][mine], sync["end"][here] + _SKEW_NS, "right") - 1
        last = mine[np.maximum(place, 0)]
        known = (place >= 0) & (work.called[last] < sync["start"][here])
        found[here[known]] = last[known]
    return found
