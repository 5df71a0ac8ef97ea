from __future__ import annotations

import pytest

from stepscope.advisor.causes import CAUSES
from stepscope.advisor.fact_names import FACTS, fact_name
from stepscope.advisor.fact_sources import _BY_GROUP, _BY_NAME, how_to_get


@pytest.mark.parametrize("name", [*FACTS, *(f"{k}.{c}" for k in ("share", "gain") for c in CAUSES)])
def test_for_every_fact_it_is_said_how_to_get_it(name: str) -> None:
    assert fact_name(name) is not None
    assert len(how_to_get(name)) > 10


def test_nothing_is_said_of_facts_that_do_not_exist() -> None:
    assert {*_BY_NAME} <= {*FACTS, *CAUSES}
    assert {*_BY_GROUP} <= {name.partition(".")[0] for name in (*FACTS, *CAUSES)}


def test_a_gain_is_had_as_the_cause_is_seen() -> None:
    assert how_to_get("gain.compute.launch") == how_to_get("share.compute.launch")
    assert "torchrun" in how_to_get("gain.communication.collective")
    assert "24 steps" in how_to_get("operators.per_step")
