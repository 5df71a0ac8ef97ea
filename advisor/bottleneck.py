"""Which cause holds the step back."""

from __future__ import annotations

from stepscope.advisor.stages import STARVATION, Stages

_AS_MUCH = 1.08
"""Speedups that differ by less than this factor are told apart by nobody."""


def bottleneck(stages: Stages) -> str:
    """The cause whose removal saves most; of those that save as much, the one with most time.

    What others' use of the cores adds to a cause's time is theirs: it is taken out before the
    other causes are compared.
    """
    seconds = stages.cause_seconds()
    if not seconds:
        return "host.python"
    undisturbed = stages.undisturbed()
    with_others = {STARVATION, *stages.crowding}
    gains = {
        cause: _own_gain(stages, stages if cause in with_others else undisturbed, cause)
        for cause in seconds
    }
    enough = (1 + max(gains.values())) / _AS_MUCH - 1
    return max((c for c in gains if gains[c] >= enough), key=lambda c: (seconds[c], gains[c]))


def _own_gain(stages: Stages, own: Stages, cause: str) -> float:
    """Speedup of `stages` minus one by the time that `cause` takes in `own`."""
    saved = own.seconds() - own.without(cause).seconds()
    return saved / max(1e-9, stages.seconds() - saved)
