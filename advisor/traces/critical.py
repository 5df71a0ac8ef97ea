"""The critical paths of all steps, added up by what they go through."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from stepscope.advisor.traces.bindings import NEVER, Waits, Work, recorded_pairs, waits_of, work_of
from stepscope.advisor.traces.columns import Records
from stepscope.advisor.traces.intervals import Int64
from stepscope.advisor.traces.kinds import Kind
from stepscope.advisor.traces.names import Names
from stepscope.advisor.traces.owners import (
    DEVICE_OWNERS,
    HOST_OWNERS,
    Owner,
    Thread,
    Timeline,
    device_owners,
    of_events,
    owners,
    turns,
)
from stepscope.advisor.traces.path import Path, places, walk
from stepscope.advisor.traces.sums import Tally


class Activity(NamedTuple):
    """What a device does in a window."""

    rows: Records
    calls: Records
    """The call that launched each."""
    operator: Int64
    """Name of the operator around that call; -1 where it is not known."""
    told: Records
    """The events of kind `WAIT`."""


class Window(NamedTuple):
    """What happens in a window of one step, ready to be walked through."""

    begin: int
    end: int
    threads: list[Thread]
    host: Records
    """Events of all threads."""
    owner: Int64
    """What each of them stands for."""
    turns: Timeline
    work: Work
    waits: Waits
    operator: Int64
    """Name of the operator that launched each work; -1 where that is not known."""
    last: int
    """Index of the work that it ends with; -1 where it ends with the host."""


class CriticalPaths:
    """Sums over the paths of all steps.

    Args:
        names: what names stand for.
        times: begin of each step, and end of the last.
        device: whether a device is judged.
    """

    def __init__(self, names: Names, times: Sequence[int], device: bool) -> None:
        self.names = names
        self.owners: list[Counter[str]] = [Counter() for _ in times[1:]]
        """Nanoseconds by owner, of each step."""
        self.operators = Tally(len(names.text), "host", "device")
        """By name of the operator that has the turn, or that has launched what runs."""
        self.kernels = Tally(len(names.text), "time")
        self._ends = frozenset(times)
        self._device = device

    def window(
        self,
        span: tuple[int, int],
        threads: list[Thread],
        host: Records,
        phases: Int64,
        device: Activity,
    ) -> Window:
        """Put a window together.

        Args:
            span: its begin and end.
            threads: of the host.
            host: events of all threads.
            phases: role that each inherits.
            device: what it does.
        """
        rows, calls, operator, told = device
        owner = owners(host, phases, self.names, self._device)
        work = work_of(rows, calls, recorded_pairs(rows, calls, told, host))
        line = turns(threads, owner, self.names)
        waits = waits_of(work, calls["end"], told, host, self.names)
        return Window(
            *span,
            threads=threads,
            host=host,
            owner=owner,
            turns=line,
            work=work,
            waits=waits.among(of_events(host["start"], line.at(waits.end - 1), NEVER)),
            operator=operator,
            last=self._last(rows, span[1]),
        )

    def add(self, step: int, window: Window) -> None:
        """Add the path through a window."""
        found = places(window.work, window.waits)
        path = walk(found, window.begin, window.end, window.last)
        self._host(step, window, path)
        self._work(step, window, path)
        self.owners[step].update(
            launch=path.launch, queue=path.queue, unrecorded=path.unrecorded, sync=path.sync
        )

    def _host(self, step: int, window: Window, path: Path) -> None:
        spent = window.turns.spent(*path.host)
        event = window.turns.event
        owner = of_events(window.owner, event, Owner.PYTHON)
        times = np.bincount(owner, weights=spent, minlength=len(Owner)).astype(np.int64)
        begin, end = path.host
        times[Owner.PYTHON] += (end - begin).sum() - times.sum()  # before the first event
        found = {HOST_OWNERS[Owner(code)]: time for code, time in enumerate(times.tolist())}
        self.owners[step].update(found)
        operating = owner == Owner.OPERATOR
        name = window.host["name"][event[operating]]
        self.operators.more("host", name, spent[operating])

    def _work(self, step: int, window: Window, path: Path) -> None:
        rows = window.work.rows[path.work]
        kernel = rows["kind"] == Kind.KERNEL
        owner = device_owners(self.names)[rows["name"]]
        times = np.bincount(owner, weights=path.work_ns, minlength=len(DEVICE_OWNERS))
        found = zip(DEVICE_OWNERS, times.astype(np.int64).tolist(), strict=True)
        self.owners[step].update(dict(found))
        self.kernels.add(rows["name"][kernel], time=path.work_ns[kernel])
        operator = window.operator[path.work]
        known = operator >= 0
        self.operators.more("device", operator[known], path.work_ns[known])

    def _last(self, rows: Records, end: int) -> int:
        """The work that a window ends with; -1 where it ends with the host."""
        ended = rows["end"] == end
        if end not in self._ends:  # a piece of a step
            ended = (rows["start"] < end) & (rows["end"] >= end)
        found = np.flatnonzero(ended)
        return int(found[-1]) if len(found) else -1
