from __future__ import annotations

import pytest
from builders import an_advice

from stepscope.advisor.ladder import ladder


def test_each_rung_starts_where_the_one_before_it_ends() -> None:
    first, second = ladder(an_advice().plan).rungs

    assert first.before == pytest.approx(0.0)
    assert second.before == pytest.approx(first.predicted.at, abs=0.2)
    assert first.predicted.label == "1.84x, 1.62x to 2.05x"
    assert second.predicted.label == "2.23x, 1.85x to 2.60x"
    assert first.measured is not None
    assert first.measured.low < first.measured.at < first.measured.high
    assert second.measured is None


def test_everything_lies_inside_also_a_loss() -> None:
    plan = an_advice().plan
    plan[0].cumulative_low = 0.8
    drawn = ladder(plan)

    places = [place for rung in drawn.rungs for place in rung.predicted[:3]]
    assert all(0 <= place <= 100 for place in places)
    assert min(places) == 0
    assert {label: x for x, label in drawn.ticks}["1x"] > 0


def test_equal_factors_are_equally_far_apart() -> None:
    plan = an_advice().plan
    plan[0].cumulative_high = 4.5
    at = {label: x for x, label in ladder(plan).ticks}

    assert at["2x"] - at["1x"] == pytest.approx(at["3x"] - at["1.5x"])


def test_no_plan_no_rungs() -> None:
    assert ladder([]).rungs == []
