"""Rules against facts, in three-valued logic: true, false, or not known."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import NamedTuple

from stepscope.advisor.fact_names import Unit, fact_name
from stepscope.advisor.facts import Facts
from stepscope.advisor.knowledge import Condition, Rule, Value
from stepscope.advisor.wording import fact

Truth = bool | None
_OPERATORS: dict[str, Callable[[Value, Value], bool]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
    "==": operator.eq,
    "!=": operator.ne,
}


class Judgement(NamedTuple):
    """What became of a rule."""

    rule: Rule
    truth: Truth
    """True: fired. False: not. None: a fact that decides it was not measured."""
    margin: float
    """Relative distance of the deciding comparison from its limit; positive when it holds."""
    deciding: str
    """That comparison in words, e.g. `data wait share is 3 %, needs at least 10 %`."""
    missing: list[str]
    """Facts that were absent."""


class _Outcome(NamedTuple):
    truth: Truth
    margin: float
    words: str
    missing: tuple[str, ...] = ()
    leaf: Condition | None = None
    """The comparison that decides."""


def judge(rule: Rule, facts: Facts, overrides: dict[str, float] | None = None) -> Judgement:
    """Evaluate one rule.

    Args:
        rule: the rule.
        facts: what was measured; absent facts make comparisons unknown, never false.
        overrides: thresholds to use instead of the rule's defaults.
    """
    limits = {name: t.default for name, t in rule.thresholds.items()} | {
        name: value for name, value in (overrides or {}).items() if name in rule.thresholds
    }
    result = _evaluate(rule.when, facts, limits)
    return Judgement(rule, result.truth, result.margin, result.words, list(result.missing))


def holds(condition: Condition | None, facts: Facts, unknown: bool) -> bool:
    """Whether a method's condition holds; `unknown` is the answer when a fact is absent."""
    if condition is None:
        return unknown
    truth = _evaluate(condition, facts, {}).truth
    return unknown if truth is None else truth


def obstacle(condition: Condition, facts: Facts) -> str | None:
    """Why a condition does not hold, in words for a report; None where it may hold.

    Nothing is said either where the condition fails for what kind of model or machine it is:
    nobody thinks of convolutions where there are none.
    """
    result = _evaluate(condition, facts, {})
    if result.truth is not False or result.leaf is None or result.leaf.fact is None:
        return None
    name = result.leaf.fact
    if name.startswith(_WHAT_THERE_IS):
        return None
    known = fact_name(name)
    return f"{known.meaning if known else name}: {result.words.partition(' is ')[2]}"


_WHAT_THERE_IS = ("gpu.", "model.", "optimizer.", "run.", "loader.num_workers")


def _evaluate(condition: Condition, facts: Facts, limits: dict[str, float]) -> _Outcome:
    if condition.not_ is not None:
        inner = _evaluate(condition.not_, facts, limits)
        truth = None if inner.truth is None else not inner.truth
        return _Outcome(truth, -inner.margin, f"not ({inner.words})", inner.missing, inner.leaf)
    if condition.fact is not None:
        return _compare(condition, facts, limits)
    children = [_evaluate(c, facts, limits) for c in condition.all or condition.any or []]
    # For `all` one false child decides, for `any` one true child; the opposite must be unanimous.
    deciding = condition.any is not None
    for child in sorted(children, key=lambda c: -abs(c.margin)):
        if child.truth is deciding:
            return child
    missing = tuple(name for child in children for name in child.missing)
    if missing:
        return _Outcome(None, 0.0, "not measured: " + ", ".join(missing), missing)
    return min(children, key=lambda c: abs(c.margin), default=_Outcome(True, 0.0, ""))


def _compare(leaf: Condition, facts: Facts, limits: dict[str, float]) -> _Outcome:
    assert leaf.fact is not None
    assert leaf.op is not None
    limit: Value | None
    if leaf.threshold is not None:
        limit = limits[leaf.threshold]
    elif leaf.other is not None:
        limit = facts.get(leaf.other)
    else:
        limit = leaf.value
    absent = [n for n in (leaf.fact, leaf.other) if n is not None and n not in facts]
    if absent or limit is None:
        return _Outcome(None, 0.0, "not measured: " + ", ".join(absent), tuple(absent))
    value = facts[leaf.fact]
    truth = _OPERATORS[leaf.op](value, limit)
    return _Outcome(truth, _margin(value, limit, truth), _words(leaf, value, limit), leaf=leaf)


def _margin(value: Value, limit: Value, truth: bool) -> float:
    """Distance from the limit relative to it; flags and texts are one limit away."""
    numbers = not isinstance(value, (bool, str)) and not isinstance(limit, (bool, str))
    if not numbers or not limit:
        return 1.0 if truth else -1.0
    distance = abs(float(value) - float(limit)) / abs(float(limit))
    return distance if truth else -distance


_RELATIONS = {
    ">=": "at least",
    ">": "more than",
    "<=": "at most",
    "<": "less than",
    "==": "to be",
    "!=": "not to be",
}


def _words(leaf: Condition, value: Value, limit: Value) -> str:
    assert leaf.fact is not None
    assert leaf.op is not None
    unit = unit_of(leaf.fact)
    return f"{leaf.fact} is {fact(value, unit)}, needs {_RELATIONS[leaf.op]} {fact(limit, unit)}"


def unit_of(name: str) -> Unit:
    """The unit of a fact."""
    known = fact_name(name)
    return known.unit if known else "text"


_PLACE = re.compile(r"\{([a-z0-9_.]+)\}")


def fill(template: str, facts: Facts) -> str:
    """A rule's evidence sentence with the measured values in their places."""

    def value_of(match: re.Match[str]) -> str:
        name = match[1]
        return fact(facts[name], unit_of(name)) if name in facts else "not measured"

    return _PLACE.sub(value_of, template)
