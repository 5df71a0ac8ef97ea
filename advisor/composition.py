"""How methods go together, and what an algorithmic one does to each factor of training time."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from stepscope.advisor.advice import Alternative, Factors, Interplay, Recommendation
from stepscope.advisor.knowledge import Combination, Knowledge, Method
from stepscope.advisor.outcome import ratio
from stepscope.advisor.stages import Stages

_FREE = 1.01
"""A step that gets no longer than by this factor has not got longer."""
_HALVINGS = 7
"""Which tells the part that is free to a hundredth."""


def interplay(proposed: Iterable[str], in_use: set[str], knowledge: Knowledge) -> list[Interplay]:
    """What is known of the proposed methods beside each other, and beside what is on already."""
    names = list(dict.fromkeys([*proposed, *sorted(in_use)]))
    new = set(names) - in_use
    found = [
        Interplay(
            relation=combination.relation,
            title=combination.title,
            methods=methods,
            partners=partners,
            why=combination.why,
            source=combination.source,
        )
        for combination in knowledge.combinations.values()
        for methods, partners in [_meeting(combination, names)]
        if methods and new & {*methods, *partners}
    ]
    pairs = [
        (name, other)
        for i, name in enumerate(names)
        for other in names[i + 1 :]
        if other in knowledge.methods[name].conflicts_with and new & {name, other}
    ]
    return found + [
        Interplay(
            relation="conflicting",
            title="One rules the other out",
            methods=list(pair),
            partners=[],
            why="They make no sense beside each other.",
            source="the methods' own files",
        )
        for pair in pairs
    ]


def _meeting(combination: Combination, names: list[str]) -> tuple[list[str], list[str]]:
    """The named methods between which a combination holds; empty where too few are there."""
    methods = [name for name in names if name in combination.methods]
    partners = [name for name in names if name in combination.partners]
    enough = (partners and methods) if combination.partners else len(methods) > 1
    return (methods, partners) if enough else ([], [])


def one_of_each(
    recommendations: Iterable[Recommendation], knowledge: Knowledge
) -> list[Recommendation]:
    """Of those that do the same job the best, the others as its alternatives; order is kept."""
    chosen: list[Recommendation] = []
    for each in recommendations:
        rivals = knowledge.rivals(each.method)
        place = next((i for i, other in enumerate(chosen) if other.method in rivals), None)
        if place is None:
            chosen.append(each)
            continue
        first, second = chosen[place], each
        if _likely(second) > _likely(first):
            first, second = second, first
        others = [*first.alternatives, _alternative(second), *second.alternatives]
        chosen[place] = replace(first, alternatives=others)
    return chosen


def _likely(recommendation: Recommendation) -> float:
    """Its predicted speedup; what nobody can predict comes behind everything."""
    return recommendation.predicted.speedup if recommendation.predicted else 0.0


def _alternative(recommendation: Recommendation) -> Alternative:
    return Alternative(
        method=recommendation.method,
        title=recommendation.title,
        predicted=recommendation.predicted,
    )


def factors_of(method: Method, stages: Stages) -> Factors | None:
    """Time per step and number of steps under an algorithmic method; None for any other."""
    if method.cost is None:
        return None
    shorter, longer = method.cost.step == "shorter", method.cost.step == "longer"
    return Factors(
        step=method.cost.step,
        step_speedup_at_most=ratio(stages, stages.without(*method.helps)) if shorter else 1.0,
        free_share=_free_share(stages, method.loads) if longer else None,
        steps=method.cost.steps,
    )


def _free_share(stages: Stages, causes: list[str]) -> float | None:
    """Work that may be added to `causes` before a step gets longer, as a part of the step.

    None where none of them takes any time now: then nothing is known of what more would cost.
    """
    step, seconds = stages.seconds(), stages.cause_seconds()
    present = {cause: seconds[cause] for cause in causes if cause in seconds}
    whole = sum(present.values())
    if whole <= 0:
        return None
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        more = stages
        for cause in present:
            more = more.scaled(cause, 1 + middle * step / whole)
        low, high = (middle, high) if more.seconds() <= _FREE * step else (low, middle)
    return low
