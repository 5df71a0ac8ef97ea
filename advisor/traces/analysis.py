"""One pass over the steps of a trace, in order of time, adding up all that a profile says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np

from stepscope.advisor.traces.columns import Records
from stepscope.advisor.traces.critical import Activity, CriticalPaths, Window
from stepscope.advisor.traces.intervals import Int64, divide
from stepscope.advisor.traces.kinds import Kind
from stepscope.advisor.traces.launches import Launches
from stepscope.advisor.traces.memory import PhasePeaks
from stepscope.advisor.traces.names import Names
from stepscope.advisor.traces.nesting import NOTHING, Course, inherited, innermost, nested
from stepscope.advisor.traces.occupancy import Occupancy
from stepscope.advisor.traces.owners import Thread
from stepscope.advisor.traces.roles import Role
from stepscope.advisor.traces.scopes import Scopes
from stepscope.advisor.traces.sums import Spread, Tally
from stepscope.advisor.traces.timeline import (
    BETWEEN_KERNELS_NS,
    DEVICE_PHASES,
    after_sync,
    device_layers,
    host_layers,
    host_only_layers,
    queued,
)
from stepscope.advisor.traces.work import WorkSums

PHASES = (Role.PLAIN, Role.DATA, Role.OPTIMIZER, Role.BACKWARD)
"""Roles that what lies inside inherits."""
_OF_PHASE = np.zeros(max(Role) + 1, np.int64)
for _role in PHASES:
    _OF_PHASE[_role] = _role
_MARKS = (Role.STEP, Role.OPTIMIZER, Role.DATA)
"""Roles of what only the training thread does."""
_HOST_PHASES = ("data_wait", "optimizer", "backward", "forward")
_WIDTH = int(max(PHASES)) + 1


class Exchange(NamedTuple):
    """One collective on this rank."""

    duration: int
    collective: int
    """Number of what is known of it."""
    end: int
    """In ns since the trace's origin."""


class Watcher(Protocol):
    """Sees the windows of a trace in order."""

    def add(self, step: int, window: Window) -> None:
        """Take a window of one step."""


Watch = Callable[[Names, Sequence[int], Sequence[int]], Watcher]
"""Makes a watcher, from the names and the begins of steps as host and device see them."""


class Analysis:
    """The sums over all steps.

    Args:
        names: what names stand for.
        times: begin of each step, and end of the last.
        tracks: how many threads and streams there are.
        device: tracks of the device to judge by; empty where none was recorded.
        allocator: track of its allocator; -1 where that was not recorded.
    """

    def __init__(
        self, names: Names, times: list[int], tracks: int, device: Int64, allocator: int
    ) -> None:
        self.names = names
        steps = len(times) - 1
        self.phases: list[Counter[str]] = [Counter() for _ in range(steps)]
        """Nanoseconds by phase, of each step."""
        self.operators = Tally(len(names.text) * _WIDTH, "self_cpu", "device")
        """By name and phase: number `name * width + phase`."""
        self.kernels = Tally(len(names.text), "time")
        self.occupancy = Occupancy(len(names.text))
        self.copies = Tally(len(names.text), "time", "bytes")
        self.calls = Tally(len(names.text), "time")
        """Runtime calls and annotations of the host."""
        self.spans = Tally(len(names.text), "time")
        """Takings of a batch, whatever their kind (operators, in old traces)."""
        self.work = WorkSums(names.works, names.layers, _WIDTH)
        self.syncs = [0] * steps
        self.delays = Spread()
        """From the begin of a call to that of what it launched."""
        self.scopes = Scopes()
        """Time on the device by annotations."""
        self.sites: Counter[tuple[str, int]] = Counter()
        """Nanoseconds by phase and name of the user's function that the training thread was in."""
        self.stretches: Counter[tuple[str, int]] = Counter()
        """How often that began."""
        self.callers: set[int] = set()
        """Those of them that took a batch; others that are seen meanwhile have made it."""
        self.queue_ns = 0
        """Number of launched but unfinished pieces of work, integrated over time."""
        self.peaks = PhasePeaks()
        """Of memory, by phase of the host."""
        self.busy_ns = 0
        self.communication_ns = 0
        self.exchanges: list[list[Exchange]] = [[] for _ in range(steps)]
        """Collectives of each step, in order of time."""
        self._device = device
        self._on_device = np.zeros(tracks, bool)
        self._on_device[device] = True
        self._allocator = allocator
        self._launches = Launches()
        self.paths = CriticalPaths(names, times, len(device) > 0)
        self.watchers: Sequence[Watcher] = ()

    def add(self, step: int, begin: int, end: int, records: Records) -> None:
        """Take a window of one step."""
        kind = records["kind"]
        host, called = records[kind < Kind.PYTHON], records[kind == Kind.PYTHON]
        stack = self._stack(host, called)
        by_thread = _by_thread(host)
        threads, inherits = self._host(step, host[by_thread], stack, begin, end)
        phases = np.empty_like(inherits)
        phases[by_thread] = inherits
        held = records[records["track"] == self._allocator]
        if len(held):
            layers = host_only_layers(host, phases, self.names)
            self.peaks.add(held, {phase: layers[phase] for phase in _HOST_PHASES})
        own = records[self._on_device[records["track"]] & (kind != Kind.WAIT)]
        calls = self._launches.of(own["correlation"])
        self._count_work(step, own, calls, begin, end)
        told = records[kind == Kind.WAIT]
        activity = Activity(own, calls, calls["tag"] // _WIDTH, told)
        window = self.paths.window((begin, end), threads, host[by_thread], inherits, activity)
        self.paths.add(step, window)
        for watcher in self.watchers:
            watcher.add(step, window)
        bounds = stack.bounds(begin, end)
        parts = self._divided(bounds, host, phases, own, calls)
        known: Int64 = sum(parts.values(), np.zeros(len(bounds) - 1, np.int64))
        parts["python"] = np.diff(bounds) - known
        self.phases[step].update({name: int(part.sum()) for name, part in parts.items()})
        if len(stack.times):
            for phase in parts.keys() - (DEVICE_PHASES if len(self._device) else ()):
                self._place(phase, stack.at(bounds[:-1]), parts[phase])

    def _place(self, phase: str, frames: Int64, time: Int64) -> None:
        """Note in which functions of the user's a phase was."""
        there = (frames >= 0) & (time > 0)
        found, which, times = np.unique(frames[there], return_inverse=True, return_counts=True)
        spent = np.bincount(which, weights=time[there], minlength=len(found))
        for name, ns, count in zip(found.tolist(), spent.tolist(), times.tolist(), strict=True):
            self.sites[phase, name] += int(ns)
            self.stretches[phase, name] += count

    # The host -----------------------------------------------------------------------------------

    def _stack(self, host: Records, called: Records) -> Course:
        """The name of the user's function that the training thread is in, at any time."""
        if not len(called):
            return NOTHING
        main = self._main_thread(host)
        if main < 0:
            time = np.bincount(called["track"], weights=called["end"] - called["start"])
            main = int(time.argmax())
        called = called[called["track"] == main]
        called = called[np.lexsort((-called["end"], called["start"]))]
        return innermost(called["start"], called["end"], called["name"].astype(np.int64))

    def _main_thread(self, host: Records) -> int:
        """The track of the training thread: of what only it does; -1 where it does nothing such."""
        marks = host["track"][np.isin(self.names.role[host["name"]], _MARKS)]
        return int(marks[0]) if len(marks) else -1

    def _host(
        self, step: int, host: Records, stack: Course, begin: int, end: int
    ) -> tuple[list[Thread], Int64]:
        """Its threads, and the role that each of its events inherits, which come by thread."""
        phases = np.zeros(len(host), np.int64)
        parents = np.full(len(host), -1, np.int64)
        selves = np.zeros(len(host), np.int64)
        threads = []
        _, first = np.unique(host["track"], return_index=True)
        for low, high in pairwise([*first.tolist(), len(host)]):
            rows = host[low:high]
            start = np.maximum(rows["start"], begin)
            stop = np.maximum(start, np.minimum(rows["end"], end))
            forest = nested(start, stop)
            threads.append(Thread(rows, low, start, stop, forest))
            own = _OF_PHASE[self.names.role[rows["name"]]]
            phases[low:high] = inherited(own, forest)
            parents[low:high] = np.where(forest.parent >= 0, forest.parent + low, -1)
            selves[low:high] = forest.self_time
        self._count_host(step, host, stack, phases, selves, begin)
        self.work.add(host, parents, phases, selves, host["start"] >= begin)
        named = (host["kind"] == Kind.ANNOTATION) & (self.names.role[host["name"]] != Role.STEP)
        scope = self.scopes.around(host, named, self._main_thread(host))
        call = (host["kind"] == Kind.RUNTIME) & (host["start"] >= begin)
        around = np.where(parents >= 0, host["name"][parents], host["name"])
        self._launches.add(
            host[call],
            tag=around[call].astype(np.int64) * _WIDTH + phases[call],
            scope=scope[call],
            frame=stack.at(host["start"][call]),
        )
        return threads, phases

    def _count_host(
        self, step: int, host: Records, stack: Course, phases: Int64, selves: Int64, begin: int
    ) -> None:
        operator = host["kind"] == Kind.OPERATOR
        keys = host["name"].astype(np.int64) * _WIDTH + phases
        fresh = host["start"] >= begin
        self.operators.add(keys[operator & fresh])
        self.operators.more("self_cpu", keys[operator], selves[operator])
        rows = host[~operator & fresh]
        self.calls.add(rows["name"], time=rows["end"] - rows["start"])
        role = self.names.role[host["name"]]
        self.syncs[step] += int((fresh & (role == Role.SYNC)).sum())
        taking = host[fresh & (role == Role.DATA)]
        self.spans.add(taking["name"], time=taking["end"] - taking["start"])
        self.callers |= set(stack.at(taking["start"]).tolist())

    # The device ---------------------------------------------------------------------------------

    def _count_work(self, step: int, work: Records, calls: Records, begin: int, end: int) -> None:
        """Add up what ran on the device that is judged by, and the calls that launched it."""
        self.occupancy.add(work[work["kind"] == Kind.KERNEL], begin, end)
        started = work["start"] >= begin
        fresh, calls = work[started], calls[started]
        length = fresh["end"] - fresh["start"]
        kernel = fresh["kind"] == Kind.KERNEL
        self.kernels.add(fresh["name"][kernel], time=length[kernel])
        exchange = self.names.category[fresh["name"]] == self.names.is_("collective")
        columns = (length, fresh["collective"], fresh["end"])
        rows = zip(*(column[exchange].tolist() for column in columns), strict=True)
        self.exchanges[step] += [Exchange(*row) for row in rows]
        size = np.maximum(fresh["bytes"], calls["bytes"])[~kernel]
        self.copies.add(fresh["name"][~kernel], time=length[~kernel], bytes=np.maximum(0, size))
        known = calls["tag"] >= 0
        self.operators.more("device", calls["tag"][known], length[known])
        self.scopes.add(calls["scope"][known], length[known])
        upload = self.names.upload[fresh["name"]]
        self._place("transfer", calls["frame"][upload], length[upload])
        waited = fresh["start"][known] - calls["start"][known]
        self.delays.add(waited[kernel[known]])
        self.queue_ns += int(np.maximum(0, waited).sum())

    # The division -------------------------------------------------------------------------------

    def _divided(
        self, bounds: Int64, host: Records, phases: Int64, work: Records, calls: Records
    ) -> dict[str, Int64]:
        if not len(self._device):
            return divide(host_only_layers(host, phases, self.names), bounds)
        begin, end = int(bounds[0]), int(bounds[-1])
        optimizing = (calls["tag"] >= 0) & (calls["tag"] % _WIDTH == Role.OPTIMIZER)
        layers, busy = device_layers(work, optimizing, self.names)
        busy = busy.clipped(begin, end)
        self.busy_ns += busy.total
        self.communication_ns += layers["collective"].clipped(begin, end).total
        idle = busy.between(begin, end)
        doing = host_layers(host, phases, self.names)
        paid = after_sync(idle, doing["sync"])
        launched = np.where(calls["tag"] >= 0, calls["end"], -1)
        queue = queued(idle, work, launched)
        return divide(
            {
                **layers,
                "profiler": doing.pop("profiler"),
                "queue": queue.shorter_than(BETWEEN_KERNELS_NS),
                "data_wait": doing.pop("data_wait"),
                "allocation": doing.pop("allocation"),
                "sync": doing.pop("sync") | paid,
                "unrecorded": queue,
                **doing,
            },
            bounds,
        )


def _by_thread(host: Records) -> Int64:
    """The order of records by thread; in one by time, and where two begin together, longer first.

    Args:
        host: in order of time.
    """
    order = np.argsort(host["track"], kind="stable")
    start, track = host["start"][order], host["track"][order]
    same = np.concatenate([[False], (start[1:] == start[:-1]) & (track[1:] == track[:-1]), [False]])
    tied = np.flatnonzero(same[1:] | same[:-1])
    among = order[tied]
    order[tied] = among[np.lexsort((-host["end"][among], start[tied], track[tied]))]
    return order
