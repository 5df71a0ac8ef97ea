from __future__ import annotations

import random
from statistics import mean

import pytest

from stepscope.advisor.replay import Queue, step_seconds


@pytest.mark.parametrize(
    ("busy", "service", "queue", "seconds"),
    [
        ([10.0], [30.0], Queue(2), 15.0),
        ([10.0], [30.0], Queue(4), 10.0),
        ([10.0], [30.0], Queue(4, receive=1.0), 11.0),
        # The trainer stops for 40 every fourth step; the queue of two hides nothing of it, since
        # the single worker is as slow as the trainer's own steps.
        ([10.0, 10.0, 10.0, 50.0], [10.0], Queue(1), 20.0),
        # 4 x 10 of making and 40 of stopping, of which the one batch in the queue hides 10.
        ([0.0, 0.0, 0.0, 40.0], [10.0], Queue(1, prefetch=1), 17.5),
    ],
)
def test_by_hand(busy: list[float], service: list[float], queue: Queue, seconds: float) -> None:
    assert step_seconds(busy, service, queue) == pytest.approx(seconds, rel=0.1)


def uneven(seed: int, length: int = 256) -> tuple[list[float], list[float]]:
    chance = random.Random(seed)
    busy = [10 * chance.uniform(0.5, 1.5) for _ in range(length)]
    service = [chance.choice([2.0, 2.0, 2.0, 60.0]) for _ in range(length)]
    return busy, service


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("in_order", [True, False])
def test_between_the_slower_stage_and_both_in_turn(seed: int, in_order: bool) -> None:
    busy, service = uneven(seed)
    queue = Queue(2, in_order=in_order, receive=0.5)

    seconds = step_seconds(busy, service, queue)

    assert seconds >= 0.97 * max(mean(busy) + 0.5, mean(service) / 2)
    assert seconds <= 1.03 * (mean(busy) + 0.5 + mean(service))


@pytest.mark.parametrize("seed", range(20))
def test_a_deeper_queue_evens_out_what_varies(seed: int) -> None:
    busy, service = uneven(seed)

    by_depth = [step_seconds(busy, service, Queue(2, prefetch=depth)) for depth in (1, 2, 4, 8)]

    assert by_depth == sorted(by_depth, reverse=True)
    assert by_depth[0] > 1.05 * by_depth[-1]


@pytest.mark.parametrize("seed", range(20))
def test_taking_what_is_finished_is_not_slower_than_taking_turns(seed: int) -> None:
    busy, service = uneven(seed)

    in_turn = step_seconds(busy, service, Queue(4))

    assert step_seconds(busy, service, Queue(4, in_order=False)) <= 1.01 * in_turn


def test_even_stages_need_no_replay() -> None:
    busy, service = [10.0] * 64, [18.0] * 64

    assert step_seconds(busy, service, Queue(2)) == pytest.approx(
        step_seconds([10.0], [18.0], Queue(2))
    )
