from __future__ import annotations

import random
from typing import Any

import pytest
from builders import some_stages

from stepscope.advisor.stages import RECEIVE_SECONDS, Stages

TRANSFORM, ARITHMETIC = "cpu_preprocessing.transform", "compute.arithmetic"
HANDOVER = "cpu_preprocessing.handover"


def simple(**seconds: Any) -> Stages:
    """Stages with one cause each: `B`, `s`, `P`, and processor time for both sides."""
    made, worked = seconds.pop("s", 0.0), seconds.pop("B", 0.0)
    stopped = seconds.pop("P", 0.0)
    return Stages(
        workers=seconds.pop("W"),
        cores=seconds.pop("C"),
        main={ARITHMETIC: worked},
        pauses={"host.checkpoint": stopped} if stopped else {},
        fetch={TRANSFORM: made} if made else {},
        receive=seconds.pop("r", 0.0),
        cpu_main={ARITHMETIC: seconds.pop("cpu_B", worked)},
        cpu_fetch={TRANSFORM: seconds.pop("cpu_s", made)},
        **seconds,
    )


@pytest.mark.parametrize(
    ("stages", "seconds"),
    [
        # W = 0: P + B + s
        (simple(W=0, C=8, B=0.017, s=0.088), 0.105),
        (simple(W=0, C=8, B=0.017, s=0.088, P=0.01), 0.115),
        # W = 0: D / C, where the trainer's operators fill one core and a half
        (simple(W=0, C=2, B=0.017, s=0.088, cpu_B=0.200), 0.144),
        # W > 0: s / W
        (simple(W=2, C=8, B=0.017, s=0.088), 0.044),
        (simple(W=4, C=8, B=0.017, s=0.088), 0.022),
        # W > 0: B + r
        (simple(W=6, C=8, B=0.017, s=0.088, r=0.001), 0.018),
        # pauses come on top of either
        (simple(W=2, C=8, B=0.017, s=0.088, P=0.01), 0.054),
        # W > 0: D / C
        (simple(W=8, C=2, B=0.017, s=0.088), 0.0525),
        # calibrated to what was measured
        (simple(W=2, C=8, B=0.017, s=0.088, factor=1.1), 0.0484),
    ],
)
def test_seconds_by_hand(stages: Stages, seconds: float) -> None:
    assert stages.seconds() == pytest.approx(seconds)


def test_totals_of_the_stages() -> None:
    stages = some_stages()

    assert stages.busy == pytest.approx(0.017)
    assert stages.service == pytest.approx(0.088)
    assert stages.demand == pytest.approx(0.034 + 0.088)


@pytest.mark.parametrize("workers", [1, 2, 4, 7])
def test_more_workers_never_help_where_the_cores_are_full(workers: int) -> None:
    full = simple(W=workers, C=2, B=0.010, s=0.200)
    assert full.demand / full.cores >= full.service / max(workers, 2)

    now = full.with_workers(max(workers, 2)).seconds()

    for more in range(max(workers, 2), 65):
        assert full.with_workers(more).seconds() == pytest.approx(now)


@pytest.mark.parametrize("seed", range(40))
def test_no_number_of_workers_beats_the_cores(seed: int) -> None:
    chance = random.Random(seed)
    stages = simple(
        W=chance.choice([0, 1, 2, 8]),
        C=chance.choice([1, 2, 4, 16]),
        B=chance.random(),
        s=chance.random(),
        cpu_s=chance.random(),
    )

    floor = stages.demand / stages.cores

    assert all(stages.with_workers(w).seconds() >= floor for w in range(33))


def test_latency_bound_workers_may_outnumber_the_cores() -> None:
    # 100 ms of waiting for storage, next to no processor time, a step of 10 ms.
    waiting = simple(W=1, C=4, B=0.010, s=0.100, cpu_s=0.001)

    # s / W reaches B + r at ten workers on four cores.
    assert waiting.best_workers() == 10
    assert waiting.with_workers(10).seconds() == pytest.approx(0.010)


def test_computing_workers_stop_helping_at_the_cores() -> None:
    # D = 110 ms on 4 cores: 27.5 ms; four workers need 25 ms.
    computing = simple(W=1, C=4, B=0.010, s=0.100)

    assert computing.best_workers() == 4
    assert computing.with_workers(32).seconds() == pytest.approx(0.0275)


def test_tiny_batches_are_best_made_without_workers() -> None:
    tiny = simple(W=4, C=8, B=0.005, s=0.0001, r=0.0006)

    assert tiny.best_workers() == 0
    assert tiny.with_workers(0).seconds() == pytest.approx(0.0051)


def test_the_smallest_of_nearly_equal_numbers_is_best() -> None:
    # Three workers are 2 % slower than four and save one.
    near = simple(W=1, C=8, B=0.010, s=0.0306)

    assert near.best_workers() == 3


def test_best_workers_looks_no_further_than_four_per_core() -> None:
    assert simple(W=1, C=2, B=0.0001, s=10.0, cpu_s=0.0).best_workers() == 8
    assert 60 < simple(W=1, C=16, B=0.0001, s=10.0, cpu_s=0.0).best_workers() <= 64


def test_the_first_worker_has_to_be_paid_for() -> None:
    alone = simple(W=0, C=8, B=0.010, s=0.002)

    helped = alone.with_workers(1)

    assert helped.receive == RECEIVE_SECONDS
    assert helped.fetch[HANDOVER] == helped.cpu_fetch[HANDOVER] == RECEIVE_SECONDS
    assert helped.seconds() == pytest.approx(0.010 + RECEIVE_SECONDS)
    assert alone.with_workers(0) == alone


def test_without_workers_nothing_is_received() -> None:
    stages = some_stages()

    assert stages.with_workers(0).receive == 0
    assert stages.with_workers(5).receive == stages.receive
    assert stages.with_workers(5).with_workers(2) == stages


def test_scaling_a_cause_reaches_every_stage_it_occurs_in() -> None:
    both = some_stages(
        main={"host.gc": 0.002, ARITHMETIC: 0.01},
        pauses={"host.gc": 0.004},
        fetch={"host.gc": 0.006, TRANSFORM: 0.05},
        cpu_main={"host.gc": 0.001},
        cpu_fetch={"host.gc": 0.003},
    )

    half = both.scaled("host.gc", 0.5)

    assert half.main == {"host.gc": 0.001, ARITHMETIC: 0.01}
    assert half.pauses == {"host.gc": 0.002}
    assert half.fetch == {"host.gc": 0.003, TRANSFORM: 0.05}
    assert half.cpu_main == {"host.gc": 0.0005}
    assert half.cpu_fetch == {"host.gc": 0.0015}
    assert half.receive == both.receive


def test_receiving_belongs_to_the_handover() -> None:
    assert some_stages().scaled(HANDOVER, 0.25).receive == pytest.approx(0.000125)
    assert some_stages().without(HANDOVER).receive == 0


def test_scaling_is_an_algebra() -> None:
    stages = some_stages()

    assert stages.scaled(TRANSFORM, 1.0) == stages
    assert stages.scaled("host.gc", 0.5) == stages  # there is none
    twice = stages.scaled(TRANSFORM, 0.5).scaled(TRANSFORM, 0.5)
    assert twice.service == pytest.approx(stages.scaled(TRANSFORM, 0.25).service)
    one_way = stages.scaled(TRANSFORM, 0.5).scaled(ARITHMETIC, 0.1)
    assert one_way == stages.scaled(ARITHMETIC, 0.1).scaled(TRANSFORM, 0.5)
    assert stages.without(TRANSFORM, ARITHMETIC) == stages.without(ARITHMETIC, TRANSFORM)
    assert stages.without() == stages


def test_changes_leave_the_original_alone() -> None:
    stages = some_stages()

    stages.without(TRANSFORM)
    stages.with_workers(0)

    assert stages == some_stages()


@pytest.mark.parametrize("seed", range(30))
def test_taking_work_away_never_slows_a_step(seed: int) -> None:
    chance = random.Random(seed)
    stages = some_stages(
        workers=chance.choice([0, 1, 4]),
        cores=chance.choice([1.0, 2.5, 8.0]),
        main={ARITHMETIC: chance.random(), "host.gc": chance.random()},
        fetch={TRANSFORM: chance.random()},
    )

    for cause in (ARITHMETIC, "host.gc", TRANSFORM, HANDOVER):
        assert stages.without(cause).seconds() <= stages.scaled(cause, 0.5).seconds()
        assert stages.scaled(cause, 0.5).seconds() <= stages.seconds()
