"""Every moment of a step has one owner: the division of the time line, by priority.

On a device trace: what the device computes, then what it exchanges and copies, and where it is
idle, what the host was doing meanwhile. Without a device: what the host does.
"""

from __future__ import annotations

import numpy as np

from stepscope.advisor.traces.columns import Records
from stepscope.advisor.traces.intervals import EMPTY, Int64, Intervals, Mask, merged
from stepscope.advisor.traces.kinds import Kind
from stepscope.advisor.traces.names import Names
from stepscope.advisor.traces.roles import Role

BETWEEN_OPERATORS_NS = 100_000
"""Between two operators that follow each other at once lies less: that is Python driving them."""
BETWEEN_KERNELS_NS = 20_000
"""Between two kernels of a queue lies less, where the trace has recorded all of them."""
_WAKING_NS = 50_000
"""A host that waited for the device is back in its program within this time."""

DEVICE_PHASES = frozenset(
    ("arithmetic", "bandwidth", "optimizer_device", "collective", "transfer", "readback", "queue",
     "unrecorded")
)  # fmt: skip
"""Of a device's own doing: what the host does meanwhile is not why."""


def device_layers(
    work: Records, optimizing: Mask, names: Names
) -> tuple[dict[str, Intervals], Intervals]:
    """What a device does, by phase, in order of priority; and all of it together.

    Args:
        work: kernels, copies and fills of one device, sorted by start.
        optimizing: which of them an optimizer step has launched.
        names: what names stand for.
    """
    name = work["name"]
    collective = names.category[name] == names.is_("collective")
    optimizing = optimizing | (names.category[name] == names.is_("optimizer"))
    upload, readback = names.upload[name], names.readback[name]
    plain = ~(collective | optimizing | upload | readback)
    masks = {
        "arithmetic": plain & names.arithmetic[name],
        "bandwidth": plain & ~names.arithmetic[name],
        "optimizer_device": optimizing & ~collective,
        "collective": collective,
        "transfer": upload & ~optimizing,
        "readback": readback & ~optimizing,
    }
    layers = {phase: _of(work, mask) for phase, mask in masks.items()}
    return layers, merged(work["start"], work["end"])


def queued(idle: Intervals, work: Records, launched: Int64) -> Intervals:
    """Idle intervals that end with work that had been launched before they began.

    Nothing on the host could have shortened them: they lie between two kernels in a queue.

    Args:
        idle: of one device.
        work: on that device, sorted by start.
        launched: when the call that started it had returned; -1 where that is not known.
    """
    if not len(work) or not len(idle.start):
        return EMPTY
    following = np.minimum(np.searchsorted(work["start"], idle.end), len(work) - 1)
    early = (launched[following] >= 0) & (launched[following] <= idle.start)
    early &= work["start"][following] == idle.end
    return Intervals(idle.start[early], idle.end[early])


def host_layers(host: Records, phases: Int64, names: Names) -> dict[str, Intervals]:
    """What the host does, by phase, in order of priority, for moments in which a device is idle.

    Args:
        host: events of the host, sorted by start.
        phases: role that each has from what is around it.
        names: what names stand for.
    """
    role = names.role[host["name"]]
    calls = host["kind"] == Kind.RUNTIME
    working = calls | (host["kind"] == Kind.OPERATOR)
    operators = merged(host["start"][working], host["end"][working], BETWEEN_OPERATORS_NS)
    return {
        "profiler": _of(host, host["kind"] == Kind.OVERHEAD),
        "data_wait": _of(host, role == Role.DATA),
        "allocation": _of(host, role == Role.ALLOCATION),
        "sync": _of(host, role == Role.SYNC),
        "optimizer": _of(host, phases == Role.OPTIMIZER),
        "launch": operators,
    }


def after_sync(idle: Intervals, sync: Intervals) -> Intervals:
    """Idle intervals that began while the host waited for the device.

    The queue is empty when it comes back, so all that it does until the next launch is paid for.
    """
    if not len(sync.start) or not len(idle.start):
        return EMPTY
    place = np.maximum(np.searchsorted(sync.start, idle.start, "right") - 1, 0)
    waiting = (sync.start[place] <= idle.start) & (idle.start <= sync.end[place] + _WAKING_NS)
    return Intervals(idle.start[waiting], idle.end[waiting])


def host_only_layers(host: Records, phases: Int64, names: Names) -> dict[str, Intervals]:
    """What the host does where no device was recorded, by the profile's phases."""
    role = names.role[host["name"]]
    operator = host["kind"] == Kind.OPERATOR
    plain = operator & (role != Role.COLLECTIVE)
    backward = merged(
        *_columns(host, plain & (phases == Role.BACKWARD)), slack=BETWEEN_OPERATORS_NS
    )
    forward = merged(*_columns(host, plain & (phases == Role.PLAIN)), slack=BETWEEN_OPERATORS_NS)
    return {
        "profiler": _of(host, host["kind"] == Kind.OVERHEAD),
        "data_wait": _of(host, role == Role.DATA),
        "optimizer": _of(host, phases == Role.OPTIMIZER),
        "backward": backward,
        "forward": forward,
        "collective": _of(host, role == Role.COLLECTIVE),
    }


def _columns(records: Records, mask: Mask) -> tuple[Int64, Int64]:
    return records["start"][mask], records["end"][mask]


def _of(records: Records, mask: Mask) -> Intervals:
    return merged(*_columns(records, mask))
