"""What keeps a rule, a method or a combination from being used: names that do not exist."""

from __future__ import annotations

from collections.abc import Container, Iterator

from stepscope.advisor.causes import CAUSES
from stepscope.advisor.fact_names import fact_name
from stepscope.advisor.knowledge import (
    Combination,
    Condition,
    Knowledge,
    KnowledgeError,
    Method,
    Rule,
    Value,
)
from stepscope.advisor.rule_source import Source


def check_rule(rule: Rule, source: Source, knowledge: Knowledge) -> Iterator[KnowledgeError]:
    """What keeps a rule from being used."""
    yield from _unknown(source, "cause", [rule.cause], CAUSES)
    yield from _unknown(source, "advise", rule.advise, knowledge.methods)
    yield from _unknown(source, "suppressed_by", rule.suppressed_by, knowledge.rules)
    for leaf in rule.when.comparisons():
        if leaf.threshold is not None:
            yield from _unknown(source, "when", [leaf.threshold], rule.thresholds)
        yield from _wrong_in(leaf, source, "when")


def check_method(method: Method, source: Source, knowledge: Knowledge) -> Iterator[KnowledgeError]:
    """What keeps a method from being used."""
    yield from _unknown(source, "helps", method.helps, CAUSES)
    yield from _unknown(source, "loads", method.loads, CAUSES)
    yield from _unknown(source, "predictor", method.predictor.causes, CAUSES)
    yield from _unknown(source, "conflicts_with", method.conflicts_with, knowledge.methods)
    conditions = {"requires": method.requires, "already_on": method.already_on}
    for key, condition in conditions.items():
        for leaf in condition.comparisons() if condition else ():
            if leaf.threshold is not None:
                yield source.wrong(key, "a method has no thresholds", leaf.threshold)
            else:
                yield from _wrong_in(leaf, source, key)


def check_combination(
    combination: Combination, source: Source, knowledge: Knowledge
) -> Iterator[KnowledgeError]:
    """What keeps a combination from being used."""
    yield from _unknown(source, "methods", combination.methods, knowledge.methods)
    yield from _unknown(source, "partners", combination.partners, knowledge.methods)


def _unknown(
    source: Source, key: str, names: list[str], known: Container[str]
) -> Iterator[KnowledgeError]:
    for name in names:
        if name not in known:
            yield source.wrong(key, f"{name!r} does not exist", name)


def _wrong_in(leaf: Condition, source: Source, key: str) -> Iterator[KnowledgeError]:
    """Facts that do not exist, else values that cannot be compared."""
    assert leaf.fact is not None
    names = [name for name in (leaf.fact, leaf.other) if name is not None]
    unknown = [name for name in names if fact_name(name) is None]
    for name in unknown:
        yield source.wrong(key, f"no fact is called {name!r}", name)
    if unknown:
        return
    left = _kind_of(leaf.fact)
    right: type[Value | None] = float if leaf.threshold is not None else type(leaf.value)
    if leaf.other is not None:
        right = _kind_of(leaf.other)
    if left is not (float if right is int else right):
        yield source.wrong(key, f"{leaf.fact} is compared with another type", leaf.fact)
    if left is not float and leaf.op not in ("==", "!="):
        yield source.wrong(key, f"{leaf.fact} has no order, so not `{leaf.op}`", leaf.fact)


def _kind_of(name: str) -> type[Value | None]:
    known = fact_name(name)
    kinds: dict[str, type[Value | None]] = {"flag": bool, "text": str}
    return kinds.get(known.unit, float) if known else str
