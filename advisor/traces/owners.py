"""Who owns each moment of the host: one time line for all threads of a process.

Training threads take turns: while the backward thread works, the main thread waits for it, and the
interpreter's lock sees to the rest. So at each moment one thread has the turn: the main thread
while it is in an operator, a call or the loader; else another thread that works; else the main
thread again, in Python between operators.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np

from stepscope.advisor.traces.columns import Records
from stepscope.advisor.traces.intervals import Int64
from stepscope.advisor.traces.kinds import Kind
from stepscope.advisor.traces.names import CATEGORY_NAMES, Names
from stepscope.advisor.traces.nesting import Nesting
from stepscope.advisor.traces.roles import Role


class Owner(IntEnum):
    """What the host does, as the critical path tells it."""

    PYTHON = 0
    DATA = 1
    OPERATOR = 2
    LAUNCH = 3
    SYNC = 4
    ALLOCATION = 5
    PROFILER = 6
    COLLECTIVE = 7
    """On the host, by a backend for processors."""


HOST_OWNERS = {
    Owner.PYTHON: "python",
    Owner.DATA: "data_loading",
    Owner.OPERATOR: "operators",
    Owner.LAUNCH: "launch",
    Owner.SYNC: "sync",
    Owner.ALLOCATION: "allocation",
    Owner.PROFILER: "profiler",
    Owner.COLLECTIVE: "collective",
}
DEVICE_OWNERS = [*CATEGORY_NAMES, "memcpy"]


class Thread(NamedTuple):
    """Events of one thread in a window, outer before inner."""

    rows: Records
    first: int
    """Index of its first event among those of all threads."""
    start: Int64
    end: Int64
    forest: Nesting


class Timeline(NamedTuple):
    """A step function of time: from `time[i]` to `time[i + 1]` event `event[i]` has the turn."""

    time: Int64
    event: Int64
    """Index among the events of all threads; -1 for none."""

    def at(self, time: Int64) -> Int64:
        """The event that has the turn at each time; -1 for none."""
        place = np.searchsorted(self.time, time, "right") - 1
        if not len(self.time):
            return place
        return np.where(place >= 0, self.event[np.maximum(place, 0)], -1)

    def spent(self, start: Int64, end: Int64) -> Int64:
        """How much of each piece lies in intervals.

        Args:
            start: begins of disjoint intervals, sorted.
            end: their ends.
        """
        if not len(start) or not len(self.time):
            return np.zeros(len(self.time), np.int64)
        before = np.concatenate([[0], np.cumsum(end - start)])
        place = np.searchsorted(start, self.time, "right") - 1
        known = np.maximum(place, 0)
        inside = np.clip(self.time, start[known], end[known]) - start[known]
        covered = np.where(place >= 0, before[known] + inside, 0)
        return np.diff(covered, append=before[-1])


def of_events(values: Int64, event: Int64, otherwise: int) -> Int64:
    """A column of events by index; `otherwise` for -1."""
    found = np.full(len(event), otherwise, np.int64)
    found[event >= 0] = values[event[event >= 0]]
    return found


def device_owners(names: Names) -> Int64:
    """Index into `DEVICE_OWNERS` by name of a kernel, copy or fill."""
    return np.where(names.kind == Kind.KERNEL, names.category, len(CATEGORY_NAMES))


def owners(host: Records, phases: Int64, names: Names, device: bool) -> Int64:
    """The owner that each event stands for while it is the innermost one.

    Args:
        host: events of the host.
        phases: role that each has from what is around it.
        names: what names stand for.
        device: whether a device is judged: then collectives of the host only start those of it.
    """
    role, kind = names.role[host["name"]], host["kind"]
    marker = (kind == Kind.ANNOTATION) | (role == Role.STEP) | (role == Role.OPTIMIZER)
    found = np.where(kind == Kind.RUNTIME, int(Owner.LAUNCH), int(Owner.OPERATOR))
    found[marker] = Owner.PYTHON
    found[(kind == Kind.RUNTIME) & (role == Role.SYNC)] = Owner.SYNC
    found[(kind == Kind.RUNTIME) & (role == Role.ALLOCATION)] = Owner.ALLOCATION
    if not device:
        found[role == Role.COLLECTIVE] = Owner.COLLECTIVE
    found[phases == Role.DATA] = Owner.DATA
    found[kind == Kind.OVERHEAD] = Owner.PROFILER
    return found


def turns(threads: list[Thread], owner: Int64, names: Names) -> Timeline:
    """The time line of all threads.

    Args:
        threads: in a window.
        owner: of each event of all threads.
        names: what names stand for.
    """
    whole = Timeline(np.empty(0, np.int64), np.empty(0, np.int64))
    for thread in sorted(threads, key=lambda each: _precedence(each, owner, names)):
        other = _innermost(thread)
        whole = _overlaid(whole, other, owner) if len(whole.time) else other
    return whole


def _precedence(thread: Thread, owner: Int64, names: Names) -> tuple[bool, int]:
    """Main thread first: the one with the mark of a step, else the busiest."""
    marked = bool((names.role[thread.rows["name"]] == Role.STEP).any())
    mine = owner[thread.first : thread.first + len(thread.rows)]
    return not marked, -int(thread.forest.self_time[mine != Owner.PYTHON].sum())


def _innermost(thread: Thread) -> Timeline:
    """The innermost event at each moment of one thread."""
    start, end, parent = thread.start, thread.end, thread.forest.parent
    around = np.maximum(parent, 0)
    while True:  # rounded to microseconds, an inner event may end behind the one around it
        inner = np.where(parent >= 0, np.minimum(end, end[around]), end)
        if np.array_equal(inner, end):
            break
        end = inner
    lasting = np.flatnonzero(end > start)
    # Where several end together the innermost is the last to begin.
    ending = lasting[::-1][np.argsort(end[lasting][::-1], kind="stable")]
    time = np.concatenate([end[ending], start[lasting]])
    event = np.concatenate([parent[ending], lasting])
    order = np.argsort(time, kind="stable")
    time, event = time[order], event[order]
    return Timeline(time, np.where(event >= 0, event + thread.first, -1))


def _overlaid(first: Timeline, second: Timeline, owner: Int64) -> Timeline:
    """`second` shows where `first` does nothing but Python."""
    time = np.sort(np.concatenate([first.time, second.time]), kind="stable")
    a, b = first.at(time), second.at(time)
    idle = (a < 0) | (owner[a] == Owner.PYTHON)
    working = (b >= 0) & (owner[b] != Owner.PYTHON)
    return Timeline(time, np.where(idle & working, b, a))
