"""How much slower a thread runs because others want the same cores.

With R threads runnable on C cores, each gets C / R of a core. Which of the job's threads are
runnable at the same moment is a matter of chance: a worker is, for the part of its time that it
does not wait. So the slowdown is the mean of max(1, R / C) over a binomial number of others.
"""

from __future__ import annotations

from math import exp, lgamma, log, log1p
from typing import NamedTuple


class Threads(NamedTuple):
    """Some equal threads, or gangs of threads, each runnable for a part of the time."""

    number: int
    probability: float
    """That one of them is runnable at a given moment."""
    width: float = 1.0
    """Threads that are runnable when it is."""


class Contention(NamedTuple):
    """How a measured slowdown divides: (what the job does to itself) ** power * (1 + fixed)."""

    power: float = 1.0
    """By how much more than one thread alone a gang is slowed: threads that compute in step all
    wait for the last of them."""
    fixed: float = 0.0
    """Slowdown by others, which stays whatever the job does."""

    def slowdown(self, own: float) -> float:
        """Factor by which processor work takes longer, `own` being the model's for the job."""
        return float(own**self.power * (1.0 + self.fixed))

    def eased(self, k: float) -> Contention:
        """The same with `k` times as much slowdown by others."""
        return self._replace(fixed=self.fixed * k)

    def matched(self, modelled: float, measured: float) -> Contention:
        """The power at which a modelled slowdown becomes the measured one."""
        own = log(modelled / (1.0 + self.fixed))
        if own <= _TELLING:
            return self
        power = self.power * max(0.0, log(measured / (1.0 + self.fixed))) / own
        return self._replace(power=min(power, _MAX_POWER))


def slowdown(width: float, others: list[Threads], cores: float, foreign: float = 0.0) -> float:
    """Mean factor by which `width` threads take longer beside `others` than alone; at least 1.

    Args:
        width: runnable threads of the work in question.
        others: the job's other threads.
        cores: usable processors.
        foreign: runnable threads of other programs, on average.
    """
    alone = max(1.0, width / cores)
    if width + foreign + sum(group.number * group.width for group in others) <= cores:
        return 1.0
    spread = [(1.0, width + foreign)]
    for group in others:
        parts = _in_classes(_binomial(group.number, group.probability))
        spread = [
            (chance * part, runnable + k * group.width)
            for chance, runnable in spread
            for part, k in parts
        ]
    return sum(chance * max(1.0, runnable / cores) for chance, runnable in spread) / alone


def divide(measured: float, own: float, together: float) -> Contention:
    """Tell the job's own part of a measured slowdown from that of others.

    What the job's own threads do not explain is somebody else's, also where nobody was seen.

    Args:
        measured: slowdown, from the time threads waited for a core; at least 1.
        own: modelled slowdown by the job's own threads.
        together: the same with the other programs' threads.
    """
    part = log(own) / log(together) if log(together) > _TELLING else 0.0
    # Where the job is not in its own way now, the model is all there is for when it will be.
    power = part * log(measured) / log(own) if log(own) > _TELLING else 1.0
    power = min(power, _MAX_POWER)
    return Contention(power, max(0.0, measured / own**power - 1.0))


_TELLING = 0.02
"""A modelled slowdown below this says nothing about who causes a measured one."""
_MAX_POWER = 3.0


_CLASSES = 12
"""So many numbers of runnable threads are told apart; of more, neighbours are taken together."""
_NEVER = 1e-6
"""A chance below this is none."""


def _binomial(count: int, probability: float) -> list[tuple[float, float]]:
    """Chance of each number that occurs at all."""
    p = min(1.0, max(0.0, probability))
    if count == 0 or p in {0.0, 1.0}:
        return [(1.0, count * p)]
    ways = lgamma(count + 1)
    chances = (
        (
            exp(
                ways - lgamma(k + 1) - lgamma(count - k + 1) + k * log(p) + (count - k) * log1p(-p)
            ),
            k,
        )
        for k in range(count + 1)
    )
    return [(chance, float(k)) for chance, k in chances if chance > _NEVER]


def _in_classes(spread: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """A spread of numbers with neighbours taken together at their mean, at most `_CLASSES`."""
    size = -(-len(spread) // _CLASSES)
    if size == 1:
        return spread
    groups = [spread[i : i + size] for i in range(0, len(spread), size)]
    chances = [sum(chance for chance, _ in group) for group in groups]
    return [
        (chance, sum(part * k for part, k in group) / chance)
        for chance, group in zip(chances, groups, strict=True)
    ]
