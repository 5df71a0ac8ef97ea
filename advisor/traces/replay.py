"""What if: the steps of a trace once more, with other durations and the same dependencies.

The host's time is stretched or shrunk piece by piece; work begins when what held it (`bindings`)
lets it, after the same delay as was recorded; a wait ends when its work does. With the recorded
durations all times come out as recorded. Dependencies that never held anything leave no mark on
the times, so a gain can be less than told here where one of them would hold next.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from operator import itemgetter

import numpy as np

from stepscope.advisor.traces.bindings import NEVER, By, Waits
from stepscope.advisor.traces.critical import CriticalPaths, Window
from stepscope.advisor.traces.intervals import Int64
from stepscope.advisor.traces.kinds import Kind
from stepscope.advisor.traces.launches import Launches
from stepscope.advisor.traces.names import Names
from stepscope.advisor.traces.owners import Owner, Timeline, of_events
from stepscope.advisor.traces.scenarios import Factors, Scales, Scenario, usual
from stepscope.advisor.traces.timeline import BETWEEN_OPERATORS_NS

_NOW = itemgetter(1)
_ENOUGH_EVENTS = 1 << 15
"""Events that are replayed unasked, and what is left of the window in which that is reached."""


class Clock:
    """The host's new time at each recorded time of a window.

    Args:
        time: recorded times, sorted, from the begin of the window to its end.
        length: new lengths of the pieces between them, waits left out.
        now: the new time at the begin.
    """

    def __init__(self, time: Int64, length: Factors, now: float) -> None:
        self._time = time
        self._passed = np.concatenate([[0.0], np.cumsum(length)])
        self._since = [int(time[0])]
        self._ahead = [now]

    def passed(self, time: Int64) -> Factors:
        """New time from the begin of the window, waits left out."""
        passed: Factors = np.interp(time, self._time, self._passed)
        return passed

    def went_on(self, time: int, ahead: float) -> None:
        """Note that the host came back from a wait, `ahead` of what has passed."""
        self._since.append(time)
        self._ahead.append(ahead)

    def ahead(self, time: int) -> float:
        """How far it is ahead of what has passed, as far as waits have been noted."""
        if time >= self._since[-1]:
            return self._ahead[-1]
        return self._ahead[max(0, bisect_right(self._since, time) - 1)]

    def at(self, time: Int64) -> Int64:
        """New times, once all waits have been noted."""
        ahead = np.array(self._ahead)[np.searchsorted(self._since, time, "right") - 1]
        return _rounded(self.passed(time) + ahead)


class Replay:
    """Goes through the windows of a trace in order.

    Args:
        scales: how much time everything takes.
        names: what names stand for.
        host: where steps begin on the host, and where the last one ends.
        times: the same as the device sees it.
    """

    def __init__(
        self, scales: Scales, names: Names, host: Sequence[int], times: Sequence[int]
    ) -> None:
        self.paths = CriticalPaths(names, times, device=False)
        """The critical paths as they would be; their sums are the new times of the steps."""
        self._scales = scales
        self._host = np.array(host, np.int64)
        self._times = times
        self._ends = np.full(len(times), NEVER, np.int64)
        """New end of each step, from the first's begin on."""
        self._now = float(times[0])
        """New time of the host."""
        self._until = times[0]
        """New end of the last window."""
        self._streams: dict[int, tuple[int, float]] = {}
        """When each was free: as recorded, and now."""
        self._running: dict[tuple[int, int], float] = {}
        """New end of work that goes on beyond the window, by track and recorded begin."""
        self._factors = Launches()
        """Calls, with the index of the factor of what they launch as tag."""
        self._calls = Launches()
        """Calls of earlier windows, in new time."""

    def add(self, step: int, window: Window) -> None:
        """Go through a window of one step."""
        waits = _one_by_one(window.waits)
        factor = self._scales.of(window.threads, len(window.host))
        clock = self._clock(window, waits, factor)
        length = self._lengths(window, factor)
        end, by, waits = self._through(window, waits, clock, length)
        self._note(window, clock, end)
        until = self._end_of(step, window, end)
        rows = window.work.rows.copy()
        rows["start"], rows["end"] = end - length, end
        call = np.where(window.work.call > NEVER, clock.at(window.work.call), NEVER)
        ended = np.flatnonzero(end == until)
        self.paths.add(
            step,
            window._replace(
                begin=self._until,
                end=until,
                turns=Timeline(clock.at(window.turns.time), window.turns.event),
                work=window.work._replace(rows=rows, call=call, by=by),
                waits=waits,
                last=int(ended[-1]) if len(ended) else -1,
            ),
        )
        self._until = until

    def _clock(self, window: Window, waits: Waits, factor: Int64) -> Clock:
        """The host's time with what it does scaled; waits take as long as they have to."""
        time = np.concatenate([[window.begin], window.turns.time, [window.end]])
        event = np.concatenate([[-1], window.turns.event])
        back = np.minimum(waits.end, window.end)
        waited = np.concatenate([[0], window.turns.spent(waits.start, back)])
        length = np.diff(time)
        owner = of_events(window.owner, event, Owner.PYTHON)
        scale = self._scales.owner[owner]
        if self._scales.launch_free:
            scale[(owner == Owner.PYTHON) & (length < BETWEEN_OPERATORS_NS)] = 0
        scale *= self._scales.factors[of_events(factor, event, 0)]
        return Clock(time, (length - waited) * scale, self._now)

    def _lengths(self, window: Window, factor: Int64) -> Int64:
        """New length of each piece of work."""
        host, rows = window.host, window.work.rows
        length = rows["end"] - rows["start"]
        if not self._scales.named.any():
            return _rounded(length * self._scales.work[rows["name"]])
        call = (host["kind"] == Kind.RUNTIME) & (host["start"] >= window.begin)
        calls = host[call]
        self._factors.add(calls, tag=factor[call])
        launched_by = np.maximum(self._factors.of(rows["correlation"])["tag"], 0)
        scale = self._scales.factors[launched_by] * self._scales.work[rows["name"]]
        return _rounded(length * scale)

    def _through(
        self, window: Window, waits: Waits, clock: Clock, length: Int64
    ) -> tuple[Int64, Int64, Waits]:
        """New end of all work, what holds it now, and the waits in new time."""
        work, rows = window.work, window.work.rows
        free = self._scales.launch_free
        known = work.call > NEVER
        at = np.where(known, work.call, rows["start"])
        earlier = self._calls.of(rows["correlation"])
        before = (at < window.begin) & (earlier["tag"] >= 0)
        past = np.where(work.call == work.called, earlier["start"], earlier["end"])
        ready = np.where(before, past, clock.passed(at)).tolist()
        latency = np.where(known, work.latency, 0).tolist()
        start, stop, track = (rows[name].tolist() for name in ("start", "end", "track"))
        lengths, other, by = length.tolist(), work.other.tolist(), work.by.tolist()
        in_past, times = before.tolist(), at.tolist()
        end = [self._running.get(key, float(NEVER)) for key in zip(track, start, strict=True)]
        fresh = np.flatnonzero(rows["start"] >= window.begin)
        gate = _Gate(waits, window, clock, end)
        for i in fresh.tolist():
            gate.open_until(start[i])
            # What may hold it: when that let it go, as recorded and now.
            holds = [(stop[o], end[o], By.OTHER)] if (o := other[i]) >= 0 else []
            if track[i] in self._streams:
                holds.append((*self._streams[track[i]], By.STREAM))
            if known[i] or not holds:
                now = ready[i] + (0 if in_past[i] else clock.ahead(times[i]))
                now += 0 if free else latency[i]
                by_host = By.LAUNCH if known[i] else By.NOTHING
                holds.append((times[i] + latency[i], now, by_host))
            _, begin, held = max(holds, key=_NOW)
            if not (free and by[i] == By.LAUNCH):
                begin += start[i] - max(holds)[0]
            by[i] = held
            end[i] = begin + lengths[i]
            self._streams[track[i]] = (stop[i], end[i])
        gate.open_until(window.end + 1)
        return np.rint(end).astype(np.int64), np.array(by, np.int64), gate.waits()

    def _note(self, window: Window, clock: Clock, end: Int64) -> None:
        """Keep what later windows need."""
        rows, host = window.work.rows, window.host
        on = np.flatnonzero(rows["end"] > window.end)
        keys = zip(rows["track"][on].tolist(), rows["start"][on].tolist(), strict=True)
        self._running = dict(zip(keys, end[on].tolist(), strict=True))
        calls = host[(host["kind"] == Kind.RUNTIME) & (host["start"] >= window.begin)]
        calls["end"] = clock.at(np.minimum(calls["end"], window.end))
        calls["start"] = clock.at(calls["start"])
        self._calls.add(calls, tag=np.zeros_like(calls["start"]))
        self._now = float(clock.at(np.array([window.end]))[0])
        here = np.flatnonzero((self._host > window.begin) & (self._host <= window.end))
        np.maximum.at(self._ends, here, clock.at(self._host[here]))
        launched = window.work.called[rows["start"] >= window.begin]
        step = np.searchsorted(self._host, launched, "right")
        mine = (step > 0) & (step < len(self._host))
        np.maximum.at(self._ends, step[mine], end[rows["start"] >= window.begin][mine])

    def _end_of(self, step: int, window: Window, end: Int64) -> int:
        """New end of a window: of its step, or of a piece of one."""
        if window.end == self._times[step + 1]:
            return max(self._until, int(self._ends[step + 1]))
        return max(self._until, int(end[window.last]) if window.last >= 0 else int(self._now))


class Replays:
    """Replays of one trace.

    Args:
        names: what names stand for.
        host: where steps begin on the host, and where the last one ends.
        times: the same as the device sees it.
        scenario: what to replay all of it with; None for the usual ones with its first steps.

    Raises:
        TraceError: the scenario names what the trace does not have.
    """

    def __init__(
        self,
        names: Names,
        host: Sequence[int],
        times: Sequence[int],
        scenario: Scenario | None = None,
    ) -> None:
        scenarios = usual(names) if scenario is None else {"asked": scenario}
        self.by_name = {
            name: Replay(Scales(each, names), names, host, times)
            for name, each in scenarios.items()
        }
        self.steps = 0
        """Steps replayed to their end."""
        self._left = _ENOUGH_EVENTS if scenario is None else math.inf
        self._ends = times[1:]

    def add(self, step: int, window: Window) -> None:
        """Go through a window of one step, unless enough has been replayed."""
        if self._left <= 0:
            return
        for replay in self.by_name.values():
            replay.add(step, window)
        self._left -= len(window.host) + len(window.work.rows)
        self.steps += window.end == self._ends[step]


class _Gate:
    """The waits of a window, one after another.

    Args:
        waits: sorted, disjoint; those that go on beyond the window are left to the next.
        window: in which they are.
        clock: of the host.
        now: new ends of all work, filled while the waits are passed.
    """

    def __init__(self, waits: Waits, window: Window, clock: Clock, now: list[float]) -> None:
        waits = waits.some(waits.end <= window.end)
        rows = window.work.rows
        self._waits = waits
        self._clock = clock
        self._columns = [column.tolist() for column in waits]
        self._passed = clock.passed(waits.start).tolist(), clock.passed(waits.end).tolist()
        self._recorded, self._now = rows["end"].tolist(), now
        # Rounded, work may begin when the wait for it has ended.
        begun = [int(rows["start"][i]) if i >= 0 else NEVER for i in waits.awaited]
        self._passable = np.maximum(waits.end, begun).tolist()
        self._new: list[tuple[float, float, bool]] = []

    def open_until(self, time: int) -> None:
        """Pass the waits that ended before a time."""
        starts, ends, awaited, waited = self._columns
        i = len(self._new)
        while i < len(starts) and self._passable[i] < time:
            work = awaited[i]
            arrived = self._passed[0][i] + self._clock.ahead(starts[i])
            done, rest = float(NEVER), ends[i] - starts[i]
            if work >= 0:
                done = self._now[work] - max(0, self._recorded[work] - ends[i])
            if waited[i]:
                rest = ends[i] - max(starts[i], min(self._recorded[work], ends[i]))
            back = max(arrived, done) + rest
            self._clock.went_on(ends[i], back - self._passed[1][i])
            self._new.append((arrived, back, done > arrived))
            i += 1

    def waits(self) -> Waits:
        """All of them in new time."""
        new = np.array(self._new, np.float64).reshape(-1, 3)
        start, end = np.rint(new[:, 0]).astype(np.int64), np.rint(new[:, 1]).astype(np.int64)
        return Waits(start, end, self._waits.awaited, new[:, 2] > 0)


def _one_by_one(waits: Waits) -> Waits:
    """Those that last, in order of time; of two at once, the one that begins first."""
    order = np.argsort(waits.start, kind="stable")
    order = order[(waits.end > waits.start)[order]]
    reach = np.maximum.accumulate(waits.end[order]) if len(order) else order
    alone = np.ones(len(order), bool)
    alone[1:] = waits.start[order][1:] >= reach[:-1]
    return waits.some(order[alone])


def _rounded(times: Factors) -> Int64:
    return np.rint(times).astype(np.int64)
