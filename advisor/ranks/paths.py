"""The critical path of a job: from rank to rank by way of the collectives.

A collective ends on all ranks once the last of them has come and the data have passed. So the path
goes from its end to its begin on the rank that came last, the one for which it was shortest, and
there on to the collective before. Each rank keeps its path to each of its collectives (a leg); of
two ranks together only the leg of the one that came last is needed, so that what is kept does not
grow with the number of ranks.
"""

from __future__ import annotations

from collections import Counter

from msgspec import Struct, field

from stepscope.profiler.format import CriticalPath

_MOST_RANKS = 8


class Leg(Struct):
    """The path of one rank up to a collective, or to the end of its step."""

    rank: int
    since: int
    """Number, in the step, of the collective that it comes from; -1 for the begin of the step."""
    owners: dict[str, int]


class Meeting(Struct):
    """A collective, and how the rank that was last came to it."""

    shortest_ns: int
    leg: Leg


class StepPath(Struct):
    """The paths of one step over the ranks that held the same number of collectives."""

    wall_ns: int
    """The longest of the ranks."""
    last: Leg
    """To the end of the step on that rank."""
    meetings: list[Meeting] = field(default_factory=list)


Paths = dict[int, dict[int, StepPath]]
"""By step, and by the number of collectives that ranks held in it."""


def joined(one: Paths, other: Paths) -> Paths:
    """Both together, in any order."""
    return {
        number: _all(one.get(number, {}), other.get(number, {}))
        for number in sorted(one.keys() | other.keys())
    }


def _all(one: dict[int, StepPath], other: dict[int, StepPath]) -> dict[int, StepPath]:
    shared = {count: _both(one[count], other[count]) for count in one.keys() & other.keys()}
    return dict(sorted({**one, **other, **shared}.items()))


def _both(a: StepPath, b: StepPath) -> StepPath:
    longest = min(a, b, key=lambda step: (-step.wall_ns, step.last.rank))
    meetings = [
        min(x, y, key=lambda meeting: (meeting.shortest_ns, meeting.leg.rank))
        for x, y in zip(a.meetings, b.meetings, strict=True)
    ]
    return StepPath(longest.wall_ns, longest.last, meetings)


def job_path(paths: Paths) -> CriticalPath | None:
    """The path of the job; None where no step was short enough to keep its legs."""
    slowest = [max(steps.values(), key=lambda step: step.wall_ns) for steps in paths.values()]
    steps = [_through(step) for step in slowest]
    if not steps:
        return None
    total = sum((owners for owners, _ in steps), Counter())
    ranks = sum((ranks for _, ranks in steps), Counter())
    return CriticalPath(
        owners={name: [owners[name] for owners, _ in steps] for name, _ in total.most_common()},
        ranks=dict(ranks.most_common(_MOST_RANKS)),
    )


def _through(step: StepPath) -> tuple[Counter[str], Counter[int]]:
    """What the path of a step goes through: nanoseconds by owner, and by rank.

    The time of a collective once all ranks are there belongs to no rank; what the slowest rank's
    step has lasted before the step began on the rank where the path begins, to `straggler`.
    """
    owners: Counter[str] = Counter()
    ranks: Counter[int] = Counter()
    leg = step.last
    while True:
        owners.update(leg.owners)
        ranks[leg.rank] += sum(leg.owners.values())
        if leg.since < 0:
            break
        meeting = step.meetings[leg.since]
        owners["collective"] += meeting.shortest_ns
        leg = meeting.leg
    owners["straggler"] += max(0, step.wall_ns - owners.total())
    return owners, ranks
