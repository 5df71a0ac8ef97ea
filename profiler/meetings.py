"""Moments that all ranks share: when collectives ended, on the wall clock of each.

A collective of all ranks ends everywhere within its transfer. The same ends, read from the clocks
of several machines, tell how far those are apart.
"""

from __future__ import annotations

import time

from stepscope.profiler.format import Meetings

MOST = 256


class MeetingLog:
    """One end of a step: of the first collective that the program waits for.

    Where it calls none, of the last exchange of gradients in backward. Which steps are kept follows
    from their numbers alone, so that all ranks keep the same. From the training thread only.

    Args:
        origin_ns: `perf_counter_ns` at the start of the run.
    """

    def __init__(self, origin_ns: int) -> None:
        self._origin_ns = time.time_ns() - (time.perf_counter_ns() - origin_ns)
        self._ends: dict[int, int] = {}
        self._every = 1
        self._called_in = -1

    def called(self, step: int) -> None:
        """All ranks have waited for a collective in this step, and it has ended just now."""
        if step != self._called_in and step % self._every == 0:
            self._called_in = step
            self._keep(step)

    def exchanged(self, step: int) -> None:
        """Gradients have been exchanged in this step, just now."""
        if step != self._called_in and step % self._every == 0:
            self._keep(step)

    def clear(self) -> None:
        """Forget everything: steps are counted anew."""
        self._ends, self._every, self._called_in = {}, 1, -1

    def result(self, clock: str) -> Meetings | None:
        """What was kept, if anything; safe from any thread.

        Args:
            clock: names the machine's clock.
        """
        ends = sorted(self._ends.copy().items())
        if not ends:
            return None
        return Meetings(
            clock=clock,
            origin_ns=self._origin_ns,
            steps=[step for step, _ in ends],
            ends_ns=[end - self._origin_ns for _, end in ends],
        )

    def _keep(self, step: int) -> None:
        self._ends[step] = time.time_ns()
        if len(self._ends) > MOST:
            self._every *= 2
            self._ends = {at: end for at, end in self._ends.items() if at % self._every == 0}
