from __future__ import annotations

import random

import pytest

from stepscope.advisor.contention import Contention, Threads, divide, slowdown


@pytest.mark.parametrize(
    ("width", "others", "cores", "foreign", "factor"),
    [
        (1, [], 2, 0.0, 1.0),
        (1, [Threads(1, 1.0)], 2, 0.0, 1.0),
        (1, [Threads(3, 1.0)], 2, 0.0, 2.0),
        (2, [Threads(2, 1.0)], 2, 0.0, 2.0),
        # two workers, each runnable half of the time: 2, 3, 3 or 4 threads on 2 cores
        (2, [Threads(2, 0.5)], 2, 0.0, (1 + 1.5 + 1.5 + 2) / 4),
        (1, [Threads(1, 1.0, width=3.0)], 2, 0.0, 2.0),
        (1, [], 2, 3.0, 2.0),
        # four threads on two cores are slow by themselves: that is no contention with others
        (4, [], 2, 0.0, 1.0),
        (4, [Threads(2, 1.0)], 2, 0.0, 1.5),
    ],
)
def test_slowdown_by_hand(
    width: float, others: list[Threads], cores: float, foreign: float, factor: float
) -> None:
    assert slowdown(width, others, cores, foreign) == pytest.approx(factor)


@pytest.mark.parametrize("seed", range(30))
def test_more_company_never_speeds_up_and_more_cores_never_slow_down(seed: int) -> None:
    chance = random.Random(seed)
    width, cores = chance.choice([1.0, 2.0]), chance.choice([1.0, 2.0, 4.0])
    group = Threads(chance.randint(1, 8), chance.random(), chance.choice([1.0, 2.5]))

    now = slowdown(width, [group], cores)

    assert now >= 1.0
    assert slowdown(width, [group, Threads(1, 0.3)], cores) >= now
    assert slowdown(width, [group], cores, foreign=1.0) >= now
    assert slowdown(width, [group], cores + 1) <= now


def test_a_slowdown_divides_as_the_model_expects_it() -> None:
    # the job's own threads 1.5, others 1.5 on top of that: each owns half of the logarithm
    found = divide(measured=1.96, own=1.5, together=2.25)

    assert found.fixed == pytest.approx(0.4)
    assert found.slowdown(1.5) == pytest.approx(1.96)
    assert found.slowdown(1.0) == pytest.approx(1.4)


def test_what_the_job_does_not_explain_is_somebody_elses() -> None:
    found = divide(measured=1.4, own=1.0, together=1.0)

    assert (found.power, found.fixed) == pytest.approx((1.0, 0.4))


def test_nothing_measured_is_nothing_to_divide() -> None:
    assert divide(measured=1.0, own=1.5, together=1.5).slowdown(1.5) == 1.0


def test_matched_to_a_measured_slowdown() -> None:
    found = Contention(power=2.0, fixed=0.5)
    modelled = found.slowdown(1.4)

    assert found.matched(modelled, 1.9).slowdown(1.4) == pytest.approx(1.9)
    assert found.matched(1.5, 1.9) == found  # where the job is not in its own way nothing fits


def test_eased_by_others() -> None:
    assert Contention(power=2.0, fixed=0.5).eased(0.2) == Contention(power=2.0, fixed=0.1)
