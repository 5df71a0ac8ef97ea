from __future__ import annotations

import itertools
from typing import Any

import pytest
from builders import a_rule

from stepscope.advisor.engine import Judgement, Truth, fill, holds, judge, obstacle, unit_of
from stepscope.advisor.facts import Facts
from stepscope.advisor.knowledge import Condition, Threshold

STATES: tuple[Truth, ...] = (True, False, None)
NAMES = ("loader.num_workers", "loader.epochs", "run.steps")


def leaf(name: str, op: Any = "==", value: Any = 1) -> Condition:
    return Condition(fact=name, op=op, value=value)


def facts_for(states: tuple[Truth, ...]) -> Facts:
    """Facts with which `leaf(NAMES[i])` is as `states[i]` says."""
    known = zip(NAMES, states, strict=False)
    return {name: 1 if state else 0 for name, state in known if state is not None}


def truth_of(condition: Condition, facts: Facts) -> Truth:
    return judge(a_rule(when=condition), facts).truth


def kleene_all(states: tuple[Truth, ...]) -> Truth:
    return False if False in states else None if None in states else True


def kleene_any(states: tuple[Truth, ...]) -> Truth:
    return True if True in states else None if None in states else False


@pytest.mark.parametrize("states", list(itertools.product(STATES, repeat=3)))
def test_truth_tables(states: tuple[Truth, ...]) -> None:
    facts = facts_for(states)
    leaves = [leaf(name) for name in NAMES]

    assert truth_of(Condition(all=leaves), facts) is kleene_all(states)
    assert truth_of(Condition(any=leaves), facts) is kleene_any(states)
    nested = Condition(any=[Condition(all=leaves[:2]), leaves[2]])
    assert truth_of(nested, facts) is kleene_any((kleene_all(states[:2]), states[2]))


@pytest.mark.parametrize("state", STATES)
def test_not(state: Truth) -> None:
    facts = facts_for((state,))
    opposite = None if state is None else not state

    assert truth_of(Condition(not_=leaf(NAMES[0])), facts) is opposite
    twice = Condition(not_=Condition(not_=leaf(NAMES[0])))
    assert truth_of(twice, facts) is state


@pytest.mark.parametrize(
    ("op", "below", "equal", "above"),
    [
        (">=", False, True, True),
        (">", False, False, True),
        ("<=", True, True, False),
        ("<", True, False, False),
        ("==", False, True, False),
        ("!=", True, False, True),
    ],
)
def test_comparisons(op: str, below: bool, equal: bool, above: bool) -> None:
    condition = leaf("loader.num_workers", op, 4)

    found = [truth_of(condition, {"loader.num_workers": n}) for n in (3, 4, 5)]

    assert found == [below, equal, above]


def test_texts_and_flags_are_compared_for_equality() -> None:
    assert truth_of(leaf("torch.autocast", "!=", "off"), {"torch.autocast": "off"}) is False
    assert truth_of(leaf("loader.pin_memory", "==", True), {"loader.pin_memory": True}) is True


def test_one_fact_against_another() -> None:
    more = Condition(fact="loader.num_workers", op=">", other="cpu.usable_cores")

    assert truth_of(more, {"loader.num_workers": 9, "cpu.usable_cores": 8.0}) is True
    assert truth_of(more, {"loader.num_workers": 8, "cpu.usable_cores": 8.0}) is False
    found = judge(a_rule(when=more), {"loader.num_workers": 8})
    assert found.truth is None
    assert found.missing == ["cpu.usable_cores"]


def judged(value: float | None, **thresholds: float) -> Judgement:
    facts: Facts = {} if value is None else {"data.wait_share": value}
    return judge(a_rule(), facts, thresholds)


@pytest.mark.parametrize(
    ("value", "truth", "margin"),
    [(0.15, True, 0.5), (0.1, True, 0.0), (0.08, False, -0.2), (0.0, False, -1.0)],
)
def test_the_margin_is_the_relative_distance_from_the_limit(
    value: float, truth: bool, margin: float
) -> None:
    found = judged(value)

    assert found.truth is truth
    assert found.margin == pytest.approx(margin)


def test_the_deciding_comparison_is_said_in_words() -> None:
    assert judged(0.03).deciding == "data.wait_share is 3.0 %, needs at least 10 %"


def test_a_threshold_can_be_overridden_by_its_name() -> None:
    assert judged(0.15, much=0.2).truth is False
    assert judged(0.15, much=0.2).margin == pytest.approx(-0.25)
    assert judged(0.15, another=0.2).truth is True


def test_what_was_not_measured_is_named() -> None:
    found = judged(None)

    assert found.truth is None
    assert found.missing == ["data.wait_share"]
    assert found.margin == 0
    assert "not measured: data.wait_share" in found.deciding


@pytest.mark.parametrize("flag", [True, False])
def test_a_flag_or_a_limit_of_zero_is_one_limit_away(flag: bool) -> None:
    pinned = judge(a_rule(when=leaf("loader.pin_memory", "==", True)), {"loader.pin_memory": flag})
    none = judge(a_rule(when=leaf("loader.num_workers", ">", 0)), {"loader.num_workers": int(flag)})

    assert pinned.margin == none.margin == (1.0 if flag else -1.0)


def test_of_several_the_comparison_that_decides_gives_the_margin() -> None:
    both = [leaf("loader.num_workers", ">=", 10), leaf("loader.epochs", ">=", 10)]
    facts: Facts = {"loader.num_workers": 5, "loader.epochs": 9}

    # `all`: the one that fails most clearly; among those that hold, the closest call.
    assert judge(a_rule(when=Condition(all=both)), facts).margin == pytest.approx(-0.5)
    holding: Facts = {"loader.num_workers": 30, "loader.epochs": 11}
    assert judge(a_rule(when=Condition(all=both)), holding).margin == pytest.approx(0.1)
    # `any`: the one that holds most clearly; where none does, the closest call.
    assert judge(a_rule(when=Condition(any=both)), holding).margin == pytest.approx(2.0)
    assert judge(a_rule(when=Condition(any=both)), facts).margin == pytest.approx(-0.1)


def test_not_turns_the_margin_round() -> None:
    rule = a_rule(when=Condition(not_=leaf("loader.epochs", ">=", 10)))

    found = judge(rule, {"loader.epochs": 15})

    assert found.truth is False
    assert found.margin == pytest.approx(-0.5)
    assert found.deciding.startswith("not (")


def test_a_false_part_decides_whatever_is_unknown() -> None:
    when = Condition(all=[leaf("loader.epochs"), leaf("run.steps")])

    found = judge(a_rule(when=when), {"run.steps": 0})

    assert found.truth is False
    assert found.missing == []


def test_holds_says_what_an_unknown_condition_counts_as() -> None:
    condition = leaf("gpu.count", ">=", 1)

    assert holds(condition, {}, unknown=True)
    assert not holds(condition, {}, unknown=False)
    assert holds(condition, {"gpu.count": 1}, unknown=False)
    assert not holds(condition, {"gpu.count": 0}, unknown=True)
    assert holds(None, {}, unknown=True)
    assert not holds(None, {}, unknown=False)


def test_evidence_is_filled_with_values_and_units() -> None:
    template = "{data.wait_share} of {step.seconds} ({loader.num_workers}, {torch.autocast})"
    facts: Facts = {
        "data.wait_share": 0.64,
        "step.seconds": 0.0482,
        "torch.autocast": "{run.steps}",
    }

    assert fill(template, facts) == "64 % of 48.2 ms (not measured, {run.steps})"
    assert fill("braces {} and {Not A Place} stay", facts) == "braces {} and {Not A Place} stay"


def test_units() -> None:
    assert unit_of("step.seconds") == "s"
    assert unit_of("share.host.gc") == "share"
    assert unit_of("no.such.fact") == "text"


def test_thresholds_of_a_rule_have_defaults() -> None:
    rule = a_rule(thresholds={"much": Threshold(default=0.5, reason="half")})

    assert judge(rule, {"data.wait_share": 0.4}).truth is False


def test_an_obstacle_is_told_with_the_measured_value() -> None:
    busy = leaf("cpu.saturation", "<", 0.85)

    words = obstacle(busy, {"cpu.saturation": 0.95})

    assert words is not None
    assert words.endswith(": 95 %, needs less than 85 %")
    assert obstacle(busy, {"cpu.saturation": 0.5}) is None
    assert obstacle(busy, {}) is None


def test_what_kind_of_model_it_is_is_no_obstacle_worth_telling() -> None:
    assert obstacle(leaf("model.convolutions", ">=", 1), {"model.convolutions": 0}) is None
