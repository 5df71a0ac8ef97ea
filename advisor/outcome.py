"""Changes of the stages, and what is gained by them."""

from __future__ import annotations

from collections.abc import Callable

from stepscope.advisor.stages import Stages

Change = Callable[[Stages], Stages]


class Outcome:
    """A change of the stages, with its best and worst case.

    Args:
        likely: what is expected to happen.
        best: the most that could happen; where it equals `likely`, only the measurement's own
            spread makes the interval.
        worst: the least.
        assumes: the condition under which it holds, in words.
        basis: `model`, or `bound` where only the best case is known.
    """

    def __init__(
        self,
        likely: Change,
        assumes: str,
        *,
        best: Change | None = None,
        worst: Change | None = None,
        bound: bool = False,
    ) -> None:
        self.likely = likely
        self.best = best or likely
        self.worst: Change = worst or ((lambda stages: stages) if bound else likely)
        self.assumes = assumes
        self.bound = bound


def ratio(before: Stages, after: Stages) -> float:
    """Predicted speedup of `after` over `before`."""
    return max(1e-9, before.seconds()) / max(1e-9, after.seconds())


def then(first: Change, second: Change) -> Change:
    """One change after the other."""
    return remembered(lambda stages: second(first(stages)))


def remembered(change: Change) -> Change:
    """The same change, worked out once for each of the stages: every step builds on the last."""
    known: dict[int, tuple[Stages, Stages]] = {}

    def remembered(stages: Stages) -> Stages:
        if id(stages) not in known:
            known[id(stages)] = stages, change(stages)  # both are kept, so an id stays its own
        return known[id(stages)][1]

    return remembered
