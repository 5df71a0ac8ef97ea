"""Where training steps begin and end."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from stepscope.advisor.traces.columns import Columns, Records
from stepscope.advisor.traces.kinds import Kind
from stepscope.advisor.traces.launches import Launches
from stepscope.advisor.traces.roles import Role, role_of
from stepscope.advisor.traces.spool import Spool

FoundBy = Literal["steps", "optimizer", "batch", "backward", "whole"]
_MOST_MARKS = 1 << 20


class Mark(NamedTuple):
    """An annotation that tells where a step begins or ends."""

    start: int
    end: int
    name: int


class Edges(NamedTuple):
    """Consecutive steps."""

    times: list[int]
    """Where each begins, and where the last one ends."""
    first: int
    """Number of the first step."""
    by: FoundBy


class Marks:
    """Gathers the marks while the trace is read."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self._known = 0
        self._wanted: dict[int, Role] = {}
        self._is_wanted = np.zeros(0, bool)
        self.marks: dict[Role, list[Mark]] = {Role.STEP: [], Role.OPTIMIZER: [], Role.DATA: []}
        self.first = np.iinfo(np.int64).max
        self.last = 0

    def look(self, records: Records) -> None:
        """Take the marks among some records."""
        if not len(records):
            return
        self.first = min(self.first, int(records["start"].min()))
        self.last = max(self.last, int(records["end"].max()))
        names = self.columns.names
        if len(names) > self._known:
            for name in list(names)[self._known :]:
                role = role_of(name, Kind.ANNOTATION)
                if role in self.marks:
                    self._wanted[names[name]] = role
            self._known = len(names)
            self._is_wanted = np.zeros(self._known, bool)
            self._is_wanted[list(self._wanted)] = True
        if self._wanted:
            host = records["kind"] <= Kind.ANNOTATION
            for row in records[host & self._is_wanted[records["name"]]]:
                marks = self.marks[self._wanted[int(row["name"])]]
                if len(marks) < _MOST_MARKS:
                    marks.append(Mark(int(row["start"]), int(row["end"]), int(row["name"])))


def host_edges(marks: Marks) -> Edges:
    """Steps as the host marks them.

    `ProfilerStep` where there is one; else from the end of one optimizer step to that of the next;
    else from one batch to the next; else all of it is called one step.
    """
    steps = sorted(marks.marks[Role.STEP])
    if steps:
        names = list(marks.columns.names)
        number = names[steps[0].name].rpartition("#")[2]
        times = [mark.start for mark in steps] + [max(mark.end for mark in steps)]
        return Edges(_increasing(times), int(number) if number.isdigit() else 0, "steps")
    ends = _ends_of_one(marks.marks[Role.OPTIMIZER], "Optimizer.step", marks)
    if len(ends) >= 3:
        return Edges(_increasing(ends), 1, "optimizer")
    batches = sorted(mark.start for mark in marks.marks[Role.DATA])
    if len(batches) >= 3:
        return Edges(_increasing(batches), 0, "batch")
    return Edges([marks.first, max(marks.last, marks.first + 1)], 0, "whole")


def _ends_of_one(found: list[Mark], prefix: str, marks: Marks) -> list[int]:
    """Ends of the annotation that comes first: several optimizers may take turns."""
    names = list(marks.columns.names)
    steps = sorted(mark for mark in found if names[mark.name].startswith(prefix))
    return [mark.end for mark in steps if mark.name == steps[0].name]


def _increasing(times: list[int]) -> list[int]:
    return sorted(set(times))


def device_edges(edges: Edges, spool: Spool, end: int) -> list[int]:
    """Ends of steps as the device sees them: it may be at work when the host is done.

    A step ends when the host has ended it and the last kernel that was launched in it is done
    (torch-tb-profiler's rule).

    Args:
        edges: steps by the host.
        spool: all records.
        end: of the last of them.
    """
    times = edges.times
    last = np.array(times[1:], np.int64)
    launches = Launches()
    beyond = max(end, times[-1] + 1)
    for _, _, _, records in spool.windows([*times, beyond], Kind.RUNTIME):
        calls = records[(records["kind"] == Kind.RUNTIME)]
        tags = np.searchsorted(times, calls["start"], "right") - 1
        launches.add(calls, tag=tags)
        kind = records["kind"]
        work = records[(kind >= Kind.KERNEL) & (kind <= Kind.FILL)]
        step = launches.of(work["correlation"])["tag"]
        known = (step >= 0) & (step < len(last))
        np.maximum.at(last, step[known], work["end"][known])
    return [times[0], *np.maximum.accumulate(last).tolist()]
