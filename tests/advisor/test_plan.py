from __future__ import annotations

from math import hypot, log
from typing import Any

import pytest
from builders import a_measurement, a_method, a_run, some_knowledge, some_stages

from stepscope.advisor.facts import Facts
from stepscope.advisor.knowledge import Combination, Condition, Method
from stepscope.advisor.plan import (
    MAX_STEPS,
    Diagnosis,
    Plan,
    in_use,
    make_plan,
    possible,
)
from stepscope.advisor.stages import Stages

A, B, C = "host.logging", "host.gc", "host.checkpoint"
PROFILE = a_run({"forward": 20.0}, workers=2, fetch={"wall": 20.0, "cpu": 20.0})
PINNED = Condition(fact="loader.pin_memory", op="==", value=True)


def a_loop(**seconds: float) -> Stages:
    """A trainer without loader: 10 s of A, 6 s of B, 4 s of C, unless told otherwise."""
    main = {A: 10.0, B: 6.0, C: 4.0} | {f"host.{name}": s for name, s in seconds.items()}
    return some_stages(workers=0, main=main, fetch_cpu={}, receive=0.0)


def plan(*methods: Method, stages: Stages | None = None, facts: Facts | None = None) -> Plan:
    """Of methods that rules advise before the first step and after each."""
    always = Diagnosis(facts or {}, {method.id: "a_rule" for method in methods})
    return make_plan(
        always,
        lambda _: always,
        some_knowledge(*methods),
        PROFILE,
        a_measurement(stages or a_loop()),
    )


def taken(*methods: Method, **arguments: Any) -> list[str]:
    return [step.method for step in plan(*methods, **arguments).steps]


def test_the_largest_gain_comes_first_and_each_step_builds_on_the_last() -> None:
    found = plan(a_method("c", "remove", C), a_method("b", "remove", B), a_method("a", "remove", A))

    steps = found.steps
    assert [step.method for step in steps] == ["a", "b", "c"][: len(steps)]
    assert steps[0].predicted.speedup == pytest.approx(20 / 10)
    assert steps[1].predicted.speedup == pytest.approx(10 / 4)
    assert steps[0].cumulative == pytest.approx(2)
    assert steps[1].cumulative == pytest.approx(5)
    assert all(step.measured is None for step in steps)
    assert found.after.seconds() == pytest.approx(0)


def test_each_step_names_what_holds_the_step_back_next() -> None:
    steps = plan(a_method("a", "remove", A), a_method("b", "remove", B)).steps

    assert [step.next_cause for step in steps] == [B, C]


@pytest.mark.parametrize("first", ["numerics", "algorithmic"])
def test_among_equals_the_exact_method_goes_first(first: str) -> None:
    changing = a_method("changing", "remove", A, kind=first)
    exact = a_method("exact", "remove", B, kind="exact")

    steps = plan(changing, exact, stages=a_loop(logging=6.1)).steps

    assert [step.kind for step in steps] == ["exact", first]


def test_numerics_goes_before_algorithmic() -> None:
    algorithmic = a_method("x", "remove", A, kind="algorithmic")
    numerics = a_method("y", "remove", B, kind="numerics")

    assert taken(algorithmic, numerics, stages=a_loop(logging=6.1)) == ["y", "x"]


def test_a_clearly_larger_gain_goes_before_the_kind() -> None:
    changing = a_method("changing", "remove", A, kind="algorithmic")
    exact = a_method("exact", "remove", C, kind="exact")

    assert taken(exact, changing) == ["changing", "exact"]


def test_among_equals_of_one_kind_the_order_of_the_rule_decides() -> None:
    wholly, nearly = a_method("z", "remove", A), a_method("a", "rarer", A)

    assert taken(wholly, nearly)[0] == "z"
    assert taken(nearly, wholly)[0] == "a"


@pytest.mark.parametrize("side", [0, 1])
def test_methods_that_exclude_each_other_do_not_meet(side: int) -> None:
    conflicts: list[list[str]] = [[], []]
    conflicts[side] = [["b"], ["a"]][side]
    one = a_method("a", "remove", A, conflicts_with=conflicts[0])
    other = a_method("b", "remove", B, conflicts_with=conflicts[1])

    assert taken(one, other) == ["a"]


def test_two_bounds_on_the_same_cause_are_one_remedy() -> None:
    assert taken(a_method("a", "at_most", A), a_method("b", "at_most", A)) == ["a"]
    assert taken(a_method("a", "at_most", A), a_method("b", "at_most", B)) == ["a", "b"]


def test_a_method_that_loads_the_bottleneck_is_not_proposed() -> None:
    heavy = a_method("heavy", "remove", B, loads=[A])

    assert taken(heavy) == []
    # Once the bottleneck is another one, it may come.
    assert taken(heavy, a_method("light", "remove", A)) == ["light", "heavy"]


def test_what_is_on_already_is_not_proposed() -> None:
    method = a_method("pin", "remove", A, already_on=PINNED)

    assert taken(method, facts={"loader.pin_memory": True}) == []
    assert taken(method, facts={"loader.pin_memory": False}) == ["pin"]
    assert taken(method) == ["pin"]
    assert in_use(method, {"loader.pin_memory": True})
    assert not in_use(method, {})


def test_what_is_impossible_here_is_not_proposed() -> None:
    needs_gpu = Condition(fact="gpu.count", op=">=", value=1)
    method = a_method("graph", "remove", A, requires=needs_gpu)

    assert not possible(method, {"gpu.count": 0})
    assert possible(method, {"gpu.count": 2})
    assert possible(method, {})  # an absent fact does not forbid
    assert taken(method, facts={"gpu.count": 0}) == []


def test_methods_outside_the_program_and_without_a_prediction_are_no_steps() -> None:
    assert taken(a_method("move", "remove", A, outside=True)) == []
    assert taken(a_method("read", "literature", A)) == []


def test_a_gain_that_could_not_be_told_from_noise_is_no_step() -> None:
    small = a_method("small", "remove", C)

    assert taken(small, stages=a_loop(checkpoint=0.4)) == []
    assert taken(small, stages=a_loop(checkpoint=0.6)) == ["small"]


def test_stops_after_a_few_steps() -> None:
    causes = ["sync", "logging", "checkpoint", "validation", "gc", "compilation", "python"]
    stages = a_loop(**dict.fromkeys(causes, 5.0))
    methods = [a_method(name, "rarer", f"host.{name}") for name in causes]

    assert len(causes) > MAX_STEPS
    assert len(taken(*methods, stages=stages)) == MAX_STEPS


def test_without_methods_the_plan_is_empty_and_nothing_changes() -> None:
    found = plan()

    assert found.steps == []
    assert found.after == a_loop()


def test_a_method_is_taken_once() -> None:
    assert taken(a_method("a", "rarer", A)) == ["a"]


def test_what_a_later_bottleneck_calls_for_is_taken_then() -> None:
    knowledge = some_knowledge(a_method("a", "remove", A), a_method("b", "remove", B))
    calls = []

    def again(stages: Stages) -> Diagnosis:
        calls.append(stages)
        return Diagnosis({}, {"b": "sees_it_only_now"})

    first = Diagnosis({}, {"a": "sees_it_at_once"})
    steps = make_plan(first, again, knowledge, PROFILE, a_measurement(a_loop())).steps

    assert [(s.method, s.rule) for s in steps] == [
        ("a", "sees_it_at_once"),
        ("b", "sees_it_only_now"),
    ]
    assert A not in calls[0].cause_seconds()


def test_a_step_says_what_the_steps_before_it_have_left_of_it() -> None:
    steps = plan(a_method("a", "remove", A), a_method("b", "remove", B)).steps

    assert steps[0].kappa == pytest.approx(1)
    # Alone, b makes 20 s into 14; after a, 10 into 4.
    assert steps[1].kappa == pytest.approx((10 / 4) / (20 / 14))


def test_independent_errors_of_the_steps_add_up_in_quadrature() -> None:
    steps = plan(a_method("a", "remove", A), a_method("b", "at_most", B)).steps

    assert steps[0].cumulative_low == pytest.approx(steps[0].predicted.low)
    assert steps[0].cumulative_high == pytest.approx(steps[0].predicted.high)
    widths = [log(step.predicted.high / step.predicted.speedup) for step in steps]
    assert log(steps[1].cumulative_high / steps[1].cumulative) == pytest.approx(hypot(*widths))
    assert steps[1].cumulative_low < steps[1].cumulative


def test_each_step_says_how_much_is_left_at_most() -> None:
    steps = plan(a_method("a", "remove", A), a_method("b", "remove", B)).steps

    assert steps[0].left_share == pytest.approx(6 / 10)
    assert steps[1].left_share == pytest.approx(1)


def test_of_methods_that_do_the_same_job_the_best_is_taken_and_the_others_named() -> None:
    methods = (
        a_method("half", "at_most", A),
        a_method("whole", "remove", A),
        a_method("b", "remove", B),
    )
    knowledge = some_knowledge(*methods)
    knowledge.combinations["a-group"] = Combination(
        id="a-group",
        title="Ways to do without A",
        relation="exclusive",
        methods=["half", "whole"],
        why="There is one A.",
        source="nobody",
        provenance="F",
    )
    always = Diagnosis({}, {method.id: "a_rule" for method in methods})

    steps = make_plan(always, lambda _: always, knowledge, PROFILE, a_measurement(a_loop())).steps

    assert [step.method for step in steps] == ["whole", "b"]
    assert [other.method for other in steps[0].alternatives] == ["half"]
    assert steps[1].alternatives == []


def test_effort_and_risk_stand_beside_each_step() -> None:
    steps = plan(
        a_method("a", "remove", A),
        a_method("b", "remove", B, kind="numerics", effort="days"),
        a_method("c", "remove", C, kind="algorithmic", effort="hours"),
    ).steps

    assert {step.method: (step.effort, step.risk) for step in steps} == {
        "a": ("minutes", "bitwise-neutral"),
        "b": ("days", "numerics"),
        "c": ("hours", "training dynamics"),
    }


def test_relieving_the_trainer_waits_until_the_loader_is_relieved() -> None:
    trainer = a_method("trainer", "remove", "compute.arithmetic")
    loader = a_method("loader", "workers", helps=["cpu_preprocessing.transform"])

    assert taken(trainer, stages=some_stages()) == []
    assert taken(trainer, loader, stages=some_stages(cores=16.0))[0] == "loader"
