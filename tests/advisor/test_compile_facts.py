from __future__ import annotations

from builders import a_profile

from stepscope.advisor.facts import Facts, facts_of
from stepscope.advisor.measure import measure
from stepscope.profiler.format import Compilation, GraphBreak, Recompiled


def facts(found: Compilation | None) -> Facts:
    profile = a_profile(compilation=found)
    profile.configuration.graph_breaks = len(found.graph_breaks) if found is not None else None
    return {
        name: value
        for name, value in facts_of(profile, measure(profile)).items()
        if name.startswith("compilation.") and name != "compilation.per_step"
    }


def test_places_and_reasons_are_told_in_words() -> None:
    def broken(line: int) -> GraphBreak:
        return GraphBreak(
            file="/job/model.py", line=line, function="forward", reason="print", count=1
        )

    recompiled = [
        Recompiled(file="/job/a.py", line=3, function="f", compilations=4, reason="size mismatch"),
        Recompiled(file="/job/b.py", line=5, function="g", compilations=9, steady=6, at_limit=True),
    ]
    found = facts(
        Compilation(graph_breaks=[broken(line) for line in range(4)], recompiled=recompiled)
    )

    assert found == {
        "compilation.graph_breaks": 4,
        "compilation.break_places": (
            "model.py:0 in forward (print); model.py:1 in forward (print); "
            "model.py:2 in forward (print); and 1 more"
        ),
        "compilation.again": 11,
        "compilation.again_places": "g at b.py:5 (9 times); f at a.py:3 (4 times: size mismatch)",
        "compilation.limit_hits": 1,
        "compilation.limit_places": "g at b.py:5 (9 times)",
    }


def test_nothing_to_tell_is_said_and_not_compiled_is_absent() -> None:
    assert facts(None) == {}
    found = facts(Compilation())
    assert found["compilation.graph_breaks"] == found["compilation.limit_hits"] == 0
    assert found["compilation.again_places"] == "none"
