from __future__ import annotations

from typing import Any

import pytest
from builders import MS, a_data_bound_run, some_ceilings
from msgspec.structs import replace

from stepscope.advisor import ceilings
from stepscope.profiler.format import Ceilings, Profile, Solo


def tried(workers: int = 2, **changes: Any) -> Profile:
    profile = a_data_bound_run()
    profile.loaders[0].num_workers = workers
    profile.ceilings = some_ceilings(**changes)
    return profile


def with_solo(workers: int = 2, **changes: Any) -> Profile:
    solo = some_ceilings().solo
    assert solo is not None
    return tried(workers, solo=replace(solo, **changes))


def test_headroom_is_the_rate_of_the_loader_over_that_of_the_model() -> None:
    profile = tried()

    assert ceilings.model_step_seconds(profile) == pytest.approx(0.020)
    assert ceilings.loader_batch_seconds(profile) == pytest.approx(0.040)
    assert ceilings.headroom(profile) == pytest.approx(0.5)


def test_one_slow_step_does_not_count() -> None:
    profile = tried(model_step_ns=[20 * MS] * 7 + [900 * MS])

    assert ceilings.model_step_seconds(profile) == pytest.approx(0.020)


def test_steps_of_accumulated_gradients_are_averaged_over_the_round() -> None:
    profile = tried(model_step_ns=[10 * MS, 10 * MS, 10 * MS, 50 * MS] * 2)
    profile.steady.calls["optimizer_steps"] = [0] * len(profile.steady.first)
    profile.steady.calls["optimizer_steps"][0] = profile.steady.total // 4

    assert ceilings.model_step_seconds(profile) == pytest.approx(0.020)


@pytest.mark.parametrize(
    ("workers", "blocked_ms", "expected"),
    [
        (2, 45, 0.0),  # as long as alone: latency
        (2, 90, 1.0),  # twice as long with two workers: a full bandwidth
        (3, 90, 0.5),
        (2, 300, 1.0),
        (2, 40, 0.0),
    ],
)
def test_the_serial_fraction_is_what_more_workers_cannot_share(
    workers: int, blocked_ms: int, expected: float
) -> None:
    profile = with_solo(
        workers,
        wall_ns=50 * MS,
        cpu_ns=3 * MS,
        run_delay_ns=2 * MS,
        together_wall_ns=(blocked_ms + 11) * MS,
        together_cpu_ns=4 * MS,
        together_run_delay_ns=7 * MS,
    )

    assert ceilings.serial_fraction(profile) == pytest.approx(expected)


def test_what_hardly_blocks_has_no_serial_fraction() -> None:
    assert ceilings.serial_fraction(with_solo(cpu_ns=48 * MS, run_delay_ns=2 * MS)) is None
    assert ceilings.serial_fraction(with_solo(workers=1)) is None


@pytest.mark.parametrize(("alone", "expected"), [(0, 1.0), (2, 0.75), (8, 0.0), (9, 0.0)])
def test_delay_that_is_gone_without_the_other_workers_is_their_doing(
    alone: int, expected: float
) -> None:
    profile = with_solo(run_delay_ns=alone * MS)

    assert ceilings.own_delay_share(profile) == pytest.approx(expected)


def test_without_delay_nobody_causes_it() -> None:
    assert ceilings.own_delay_share(with_solo(together_run_delay_ns=MS)) is None


@pytest.mark.parametrize("found", [None, Ceilings(), Ceilings(model_step_ns=[MS])])
def test_what_was_not_tried_is_not_known(found: Ceilings | None) -> None:
    profile = a_data_bound_run(ceilings=found)

    assert ceilings.headroom(profile) is None
    assert ceilings.serial_fraction(profile) is None
    assert ceilings.own_delay_share(profile) is None
    assert ceilings.loader_batch_seconds(profile) is None


def test_a_trial_without_the_turnstile_has_rates_only() -> None:
    profile = tried(solo=None)

    assert ceilings.headroom(profile) is not None
    assert ceilings.serial_fraction(profile) is None


def test_zero_times_do_not_divide() -> None:
    solo = Solo(
        batches=2,
        wall_ns=0,
        cpu_ns=0,
        run_delay_ns=0,
        together_wall_ns=0,
        together_cpu_ns=0,
        together_run_delay_ns=0,
    )
    profile = tried(model_step_ns=[0], loader_batch_ns=[0], solo=solo)

    assert ceilings.headroom(profile) is None
    assert ceilings.serial_fraction(profile) is None
    assert ceilings.own_delay_share(profile) is None
