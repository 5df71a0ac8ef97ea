"""What a device did between the moments at which the training thread changed its phase.

A stream runs in order, so that between reaching two marks it runs what was launched between them,
or waits for that. When it is behind the host as it reaches the second mark, it had work
throughout. When it reaches it as soon as it is set, it ran out of work in between: in a phase that
launches nothing it was idle, in the others it ran at the host's pace.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from stepscope.profiler.format import PACED

CAUGHT_UP_NS: Final = 30_000
"""A mark is reached so soon after it is set where no work is queued: what launching takes
(5 to 10 us on recorded traces), and what two clocks that are compared may be apart."""
_OWN_CODE: Final = ("python", "after_forward")
LAUNCHING: Final = (
    *("forward", "backward", "optimizer", "after_backward", "communication"),
    *_OWN_CODE,
)
"""Phases in which the training thread launches kernels."""
_WORK: Final = {
    "after_backward": "optimizer_device",
    "after_forward": "forward",
    "communication": "collective",
    "optimizer": "optimizer_device",
    "python": "forward",
    "sync": "readback",
}
"""What a device that is behind the host is busy with; in other phases it is what they are called.
Losses that are plain functions are launched from the phases of the program's own code."""


class Moment(NamedTuple):
    """A mark that was set on the host and reached by the device; both on the host's clock."""

    host_ns: int
    device_ns: int
    phase: str
    """What the training thread does from here on."""


def divide(moments: Sequence[Moment]) -> dict[str, int]:
    """Nanoseconds of the device's time from the first to the last moment, by phase.

    What the host does after it has waited for the device, until it launches again, is part of the
    waiting: had it not waited, the device would still have had work.
    """
    spent: dict[str, int] = {}
    waited = False
    for one, next_ in pairwise(moments):
        waited = one.phase == "sync" or (waited and one.phase in _OWN_CODE)
        behind = next_.device_ns - next_.host_ns > CAUGHT_UP_NS
        if behind:
            name = _WORK.get(one.phase, one.phase)
        elif waited:
            name = "sync"
        else:
            name = one.phase + PACED if one.phase in LAUNCHING else one.phase
        spent[name] = spent.get(name, 0) + max(0, next_.device_ns - one.device_ns)
    return spent


class ClockBridge:
    """Puts times of a device's clock on the host's, without ever waiting for the device.

    A mark cannot be reached before it is set, nor after it was found to be reached. The two bounds
    follow the drift of the clocks; between them the last estimate stands.
    """

    def __init__(self) -> None:
        self._offset_ns: int | None = None

    def on_host(self, set_ns: Sequence[int], reached_ns: Sequence[int], seen_ns: int) -> list[int]:
        """When marks were reached, on the host's clock.

        Args:
            set_ns: when they were set, on the host's clock.
            reached_ns: when they were reached, on the device's clock.
            seen_ns: when the last of them was found to be reached, on the host's clock.
        """
        least = max(s - r for s, r in zip(set_ns, reached_ns, strict=True))
        most = max(least, seen_ns - reached_ns[-1])
        offset = least if self._offset_ns is None else self._offset_ns
        self._offset_ns = min(max(offset, least), most)
        return [r + self._offset_ns for r in reached_ns]
