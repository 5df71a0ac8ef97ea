from __future__ import annotations

import pytest
from builders import a_method, a_prediction, a_recommendation, some_knowledge, some_stages

from stepscope.advisor.advice import Recommendation
from stepscope.advisor.composition import factors_of, interplay, one_of_each
from stepscope.advisor.knowledge import Combination, Cost, Knowledge
from stepscope.advisor.stages import Stages

A, B = "compute.arithmetic", "host.gc"


def a_combination(relation: str, *methods: str, partners: tuple[str, ...] = ()) -> Combination:
    return Combination(
        id=f"{relation}-{'-'.join(methods)}",
        title="Some methods",
        relation=relation,  # type: ignore[arg-type]
        methods=list(methods),
        partners=list(partners),
        why="For the tests.",
        source="nobody",
        provenance="F",
    )


def knowing(*combinations: Combination) -> Knowledge:
    knowledge = some_knowledge(*(a_method(name, "literature") for name in "abcd"))
    knowledge.combinations |= {each.id: each for each in combinations}
    return knowledge


def meeting(knowledge: Knowledge, *proposed: str, on: set[str] = frozenset()) -> list[str]:  # type: ignore[assignment]
    return [
        f"{each.relation} {''.join(each.methods)} {''.join(each.partners)}".strip()
        for each in interplay(proposed, on, knowledge)
    ]


def test_a_combination_is_told_where_two_of_its_methods_are_proposed() -> None:
    knowledge = knowing(a_combination("overlapping", "a", "b", "c"))

    assert meeting(knowledge, "c", "a") == ["overlapping ca"]
    assert meeting(knowledge, "a", "d") == []


def test_partners_need_one_of_each_side() -> None:
    knowledge = knowing(a_combination("harmful", "a", "b", partners=("c", "d")))

    assert meeting(knowledge, "a", "b") == []
    assert meeting(knowledge, "d", "b") == ["harmful b d"]


def test_what_is_on_already_counts_but_not_by_itself() -> None:
    knowledge = knowing(a_combination("harmful", "a", partners=("c",)))

    assert meeting(knowledge, "a", on={"c"}) == ["harmful a c"]
    assert meeting(knowledge, "b", on={"a", "c"}) == []


def test_a_conflict_that_one_side_names_holds_on_both() -> None:
    knowledge = some_knowledge(
        a_method("a", "literature", conflicts_with=["b"]), a_method("b", "literature")
    )

    assert knowledge.methods["b"].conflicts_with == ["a"]
    assert knowledge.excluded("b") == {"a", "b"}
    assert meeting(knowledge, "b", "a") == ["conflicting ba"]


def recommended(**speedups: float | None) -> list[Recommendation]:
    return [
        a_recommendation(method=name, predicted=None if s is None else a_prediction(speedup=s))
        for name, s in speedups.items()
    ]


@pytest.mark.parametrize(
    ("speedups", "chosen", "others"),
    [
        ({"a": 1.2, "b": 1.4, "c": 1.1}, ["b", "c"], ["a"]),
        ({"a": 1.4, "c": 1.1, "b": 1.2}, ["a", "c"], ["b"]),
        ({"a": None, "b": 1.1}, ["b"], ["a"]),
        # Where only the literature speaks, the rule's own order decides.
        ({"a": None, "b": None}, ["a"], ["b"]),
    ],
)
def test_of_an_exclusive_group_the_best_is_proposed(
    speedups: dict[str, float | None], chosen: list[str], others: list[str]
) -> None:
    knowledge = knowing(a_combination("exclusive", "a", "b"))

    found = one_of_each(recommended(**speedups), knowledge)

    assert [each.method for each in found] == chosen
    assert [other.method for other in found[0].alternatives] == others


def test_of_three_that_do_the_same_job_two_are_alternatives() -> None:
    knowledge = knowing(a_combination("exclusive", "a", "b", "c"))

    [best] = one_of_each(recommended(a=1.2, b=1.1, c=1.3), knowledge)

    assert best.method == "c"
    assert {other.method for other in best.alternatives} == {"a", "b"}


def cost(step: str, steps: str) -> Cost:
    return Cost(step=step, steps=steps)  # type: ignore[arg-type]


def waiting() -> Stages:
    """A step of 30 ms, of which the trainer works 15 ms and waits for a worker otherwise."""
    return some_stages(
        workers=1,
        main={A: 0.010, B: 0.005},
        fetch_cpu={"cpu_preprocessing.transform": 0.030},
        receive=0.0,
        width=1.0,
    )


def busy() -> Stages:
    return some_stages(workers=0, main={A: 0.010, B: 0.005}, fetch_cpu={}, receive=0.0)


def test_a_shorter_step_is_bounded_by_what_the_method_relieves() -> None:
    method = a_method("a", "literature", A, kind="algorithmic", cost=cost("shorter", "as many"))

    found, hidden = factors_of(method, busy()), factors_of(method, waiting())

    assert found is not None
    assert hidden is not None
    assert found.step_speedup_at_most == pytest.approx(15 / 5)
    assert hidden.step_speedup_at_most == pytest.approx(1, abs=0.02)
    assert (found.steps, found.free_share) == ("as many", None)


def test_work_that_falls_on_a_stage_with_time_to_spare_is_free() -> None:
    method = a_method(
        "a", "literature", B, kind="algorithmic", loads=[A], cost=cost("longer", "fewer")
    )

    found, full = factors_of(method, waiting()), factors_of(method, busy())

    assert found is not None
    assert full is not None
    assert found.step_speedup_at_most == 1
    assert found.free_share == pytest.approx(15 / 30, abs=0.05)
    assert full.free_share == pytest.approx(0, abs=0.02)


def test_nothing_is_said_of_work_that_does_not_occur_now() -> None:
    method = a_method(
        "a", "literature", A, kind="algorithmic", loads=["memory.capacity"],
        cost=cost("longer", "fewer"),
    )  # fmt: skip

    found = factors_of(method, busy())

    assert found is not None
    assert found.free_share is None


def test_an_exact_method_has_no_such_factors() -> None:
    assert factors_of(a_method("a", "remove", A), busy()) is None
