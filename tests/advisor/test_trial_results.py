from __future__ import annotations

from typing import Any

import pytest
from builders import a_profile, some_ceilings, some_model_trial, some_stages

from stepscope.advisor import model_trial
from stepscope.advisor.facts import facts_of
from stepscope.advisor.knowledge import Predictor
from stepscope.advisor.measure import measure
from stepscope.advisor.outcome import ratio
from stepscope.advisor.predict import outcome, with_best_threads
from stepscope.advisor.trial_tables import trial_tables
from stepscope.profiler.format import Profile


def tried(threads: int = 2, **changes: Any) -> Profile:
    profile = a_profile(ceilings=some_ceilings(model=some_model_trial(**changes)))
    profile.steady.calls["optimizer_steps"] = [1] * profile.steady.total
    profile.configuration.intra_op_threads = threads
    return profile


def test_what_a_larger_batch_takes() -> None:
    profile = tried()

    found = model_trial.pass_ratio(profile, 2.0)
    assert found is not None
    assert found.middle == pytest.approx(12 / 9)
    assert model_trial.batch_growth(profile) == pytest.approx(1 / 3)
    # The optimizer takes as long as before.
    assert model_trial.step_ratio(profile, 2.0) == pytest.approx((12 + 3) / (9 + 3))
    assert model_trial.step_ratio(profile, 0.5) == pytest.approx((8 + 3) / (9 + 3))
    assert model_trial.step_ratio(profile, 4.0) is None


def test_an_optimizer_that_steps_every_fourth_time_weighs_a_fourth() -> None:
    profile = tried()
    steps = profile.steady.total
    profile.steady.calls["optimizer_steps"] = [int(i % 4 == 3) for i in range(steps)]

    assert model_trial.step_ratio(profile, 2.0) == pytest.approx((12 + 0.75) / (9 + 0.75))


def test_the_fewest_threads_that_are_fast_enough() -> None:
    for now, best, passes in ((1, 2, 9 / 15), (2, 2, 1.0), (4, 2, 1.0)):
        choice = model_trial.thread_choice(tried(now))
        assert choice is not None
        assert (choice.now, choice.best) == (now, best)
        assert choice.passes.middle == pytest.approx(passes)
    assert model_trial.thread_choice(tried(3)) is None
    assert model_trial.parallel_efficiency(tried()) == pytest.approx(18 / (4 * 12))
    assert [row.name for row in model_trial.unscaled_operators(tried())] == ["aten::cat"]


def test_facts_and_the_pipeline_follow_what_was_tried() -> None:
    profile = tried(threads=1)
    measurement = measure(profile)
    facts = facts_of(profile, measurement)

    assert facts["probe.batch_ratio"] == pytest.approx(15 / 12)
    assert facts["probe.best_threads"] == 2
    assert facts["probe.unscaled_operators"] == "cat"
    assert facts["probe.unscaled_share"] == pytest.approx(1 / 4)
    assert measurement.stages.batch_growth == pytest.approx(1 / 3)
    better = with_best_threads(profile, measurement.stages)
    assert facts["probe.threads_gain"] == pytest.approx(ratio(measurement.stages, better) - 1)


def test_nothing_is_said_where_nothing_was_tried() -> None:
    facts = facts_of(a_profile(), measure(a_profile()))

    assert not [name for name in facts if name.startswith("probe.")]
    assert trial_tables(a_profile()) is None


def test_a_batch_that_was_tried_grows_the_model_as_it_did_then() -> None:
    main = {
        "compute.arithmetic": 0.010,
        "compute.launch": 0.020,
        "compute.optimizer": 0.004,
        "host.python": 0.001,
    }
    stages = some_stages(main=main, batch_growth=0.25)

    assert stages.with_batch(3).main == pytest.approx(
        main | {"compute.arithmetic": 0.015, "compute.launch": 0.030}
    )


def test_threads_that_were_tried_replace_the_guess() -> None:
    stages = some_stages(
        workers=0, fetch_cpu={}, main={"compute.arithmetic": 0.030, "compute.optimizer": 0.010}
    )
    more, fewer = Predictor(name="threads"), Predictor(name="fewer_threads")

    assert outcome(fewer, tried(1), stages) is None
    found = outcome(more, tried(1), stages)
    assert found is not None
    assert ratio(stages, found.likely(stages)) == pytest.approx(0.040 / (0.030 * 9 / 15 + 0.010))
    assert "set_num_threads(2), as tried" in found.assumes
    assert outcome(more, tried(4), stages) is None
    found = outcome(fewer, tried(4), stages)
    assert found is not None
    assert ratio(stages, found.likely(stages)) == pytest.approx(1.0)
    assert found.likely(stages).width == 1.0
    assert outcome(fewer, a_profile(), stages) is None


def test_the_tables_of_the_report() -> None:
    found = trial_tables(tried())

    assert found is not None
    assert [(row.samples, row.ratio, row.how) for row in found.batches] == [
        ("4", "0.92x", "tried"),
        ("8", "1.00x", "tried"),
        ("16", "1.25x", "tried"),
        ("32", "1.75x", "predicted"),
        ("64", "2.75x", "predicted"),
    ]
    assert [(row.threads, row.speedup, row.efficiency) for row in found.threads] == [
        ("1", "1.00x", "100 %"),
        ("2", "1.50x", "75 %"),
        ("4", "1.50x", "38 %"),
    ]
    assert [(row.name, row.scales) for row in found.operators] == [
        ("aten::addmm", True),
        ("aten::cat", False),
    ]
