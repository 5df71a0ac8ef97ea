"""What might be different: how much of its time each event of a trace would take."""

from __future__ import annotations

import difflib
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stepscope.advisor.traces.errors import TraceError
from stepscope.advisor.traces.intervals import Int64
from stepscope.advisor.traces.kinds import Kind
from stepscope.advisor.traces.names import Names
from stepscope.advisor.traces.nesting import inherited
from stepscope.advisor.traces.owners import (
    DEVICE_OWNERS,
    HOST_OWNERS,
    Owner,
    Thread,
    device_owners,
)
from stepscope.advisor.traces.roles import Role

Factors = npt.NDArray[np.float64]
_CLOSE = 3
_FIXED = ("queue", "unrecorded", "sync")
"""Owners of a path whose time is that of others, or not known."""


class Scenario(NamedTuple):
    """A change of the run."""

    faster: tuple[tuple[str, float], ...] = ()
    """Names of operators, kernels or owners of the path, and how many times as fast they get."""
    launch_free: bool = False
    """Operators and launches on the host cost nothing, as when a CUDA graph is replayed."""
    hide_communication: bool = False
    """Collectives cost nothing, as if all of them were hidden."""


def usual(names: Names) -> dict[str, Scenario]:
    """What every report tells: what would be free, as far as the trace has it."""
    on_device = (names.kind >= Kind.KERNEL) & (names.kind <= Kind.FILL)
    exchanges = names.category[on_device] == names.is_("collective")
    found = {}
    if on_device.any():
        found["launch_free"] = Scenario(launch_free=True)
    if exchanges.any() or (not on_device.any() and (names.role == Role.COLLECTIVE).any()):
        found["communication_hidden"] = Scenario(hide_communication=True)
    if (names.role == Role.DATA).any():
        found["data_loading_free"] = Scenario(faster=(("data_loading", math.inf),))
    return found


class Scales:
    """A scenario as columns: which part of its time remains to each.

    Args:
        scenario: the change.
        names: what names stand for.

    Raises:
        TraceError: the scenario names what the trace does not have.
    """

    def __init__(self, scenario: Scenario, names: Names) -> None:
        self.launch_free = scenario.launch_free
        self.owner: Factors = np.ones(len(Owner))
        """By owner of the host."""
        self.work: Factors = np.ones(len(names.text))
        """By name of work on a device."""
        self.named: Int64 = np.zeros(len(names.text), np.int64)
        """By name of an event of the host: index into `factors`; 0 for those that are not named."""
        self.factors: Factors = np.ones(1 + len(scenario.faster))
        for i, (name, times) in enumerate(scenario.faster, 1):
            self.factors[i] = 1 / times
            self._take(name, i, names)
        if scenario.hide_communication:
            self._of_owner("collective", 0.0, names)
        if scenario.launch_free:
            self.owner[[Owner.OPERATOR, Owner.LAUNCH]] = 0.0

    def _take(self, name: str, index: int, names: Names) -> None:
        if name in _FIXED:
            raise TraceError(f"--faster {name}: is a wait; name what is waited for")
        if self._of_owner(name, self.factors[index], names):
            return
        found = [i for i, text in enumerate(names.text) if text == name]
        if not found:
            close = difflib.get_close_matches(name, [*self._owners(), *names.text], _CLOSE)
            near = f"; near it: {', '.join(close)}" if close else ""
            raise TraceError(f"--faster {name}: the trace has no such operator or kernel{near}")
        for i in found:
            if names.kind[i] <= Kind.PYTHON:
                self.named[i] = index
            else:
                self.work[i] = self.factors[index]

    def _of_owner(self, name: str, factor: float, names: Names) -> bool:
        if name not in self._owners():
            return False
        mine = [owner for owner, known in HOST_OWNERS.items() if known == name]
        self.owner[mine] = factor
        if name in DEVICE_OWNERS:
            self.work[device_owners(names) == DEVICE_OWNERS.index(name)] = factor
        return True

    @staticmethod
    def _owners() -> set[str]:
        return {*HOST_OWNERS.values(), *DEVICE_OWNERS}

    def of(self, threads: list[Thread], count: int) -> Int64:
        """Which of `factors` applies to each event of all threads: its own, or of one around it."""
        found = np.zeros(count, np.int64)
        if self.named.any():
            for each in threads:
                own = self.named[each.rows["name"]]
                found[each.first : each.first + len(own)] = inherited(own, each.forest)
        return found
