"""Each rule carries cases on both sides of its limits, and shared thresholds mean one thing."""

from __future__ import annotations

import pytest

from stepscope.advisor.engine import judge
from stepscope.advisor.knowledge import Rule
from stepscope.advisor.rule_files import load_knowledge

RULES = load_knowledge().rules
NEAR = 0.25
"""Relative distance from a limit that counts as just short of it."""

every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.id)


@every_rule
def test_a_rule_has_cases_of_each_kind(rule: Rule) -> None:
    assert len(rule.fixtures.fires) >= 2
    assert len(rule.fixtures.silent) >= 2
    assert len(rule.fixtures.unknown) >= 1


@every_rule
def test_a_rule_with_limits_has_a_case_just_short_of_one(rule: Rule) -> None:
    if not rule.thresholds:
        return
    near = [case for case in rule.fixtures.silent if "just" in case.note]
    assert near
    # Set a little back, the limits let one of these cases fire.
    wider = [
        {name: limit.default * factor for name, limit in rule.thresholds.items()}
        for factor in (1 - NEAR, 1 + NEAR)
    ]
    both = [dict(zip(rule.thresholds, row, strict=True)) for row in _mixed(rule, wider)]
    assert any(judge(rule, case.facts, limits).truth for case in near for limits in both)


def _mixed(rule: Rule, wider: list[dict[str, float]]) -> list[list[float]]:
    """Every way to set each limit back or forth."""
    rows: list[list[float]] = [[]]
    for name in rule.thresholds:
        rows = [[*row, limits[name]] for row in rows for limits in wider]
    return rows


@every_rule
def test_unknown_cases_would_be_decided_by_what_is_missing(rule: Rule) -> None:
    for case in rule.fixtures.unknown:
        missing = judge(rule, case.facts).missing
        assert missing
        assert not set(missing) & set(case.facts)


def test_a_threshold_that_rules_share_has_one_default() -> None:
    # `--set NAME=VALUE` changes it for all of them.
    defaults: dict[str, set[float]] = {}
    for rule in RULES.values():
        for name, threshold in rule.thresholds.items():
            defaults.setdefault(name, set()).add(threshold.default)

    assert {name: values for name, values in defaults.items() if len(values) > 1} == {}


def test_suppression_ends_at_a_root() -> None:
    def roots(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, path
        for root in RULES[name].suppressed_by:
            roots(root, (*path, name))

    for name in RULES:
        roots(name, ())
