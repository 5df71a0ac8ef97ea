from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from builders import bursty_stages, some_stages

from stepscope.advisor.contention import Contention
from stepscope.advisor.stages import (
    HANDOVER,
    RECEIVE_SECONDS,
    RESUMING,
    STARTUP,
    STARVATION,
    Stages,
)

TRANSFORM, ARITHMETIC = "cpu_preprocessing.transform", "compute.arithmetic"
STORAGE, CHECKPOINT = "data_loading.storage", "host.checkpoint"
ALONE = Contention(power=0.0)
"""Threads that never get in each other's way, however few the cores."""


def simple(**seconds: Any) -> Stages:
    """Stages by the letters of the closed form.

    Args:
        seconds: `W` workers, `C` cores, `B` the trainer's work, `P` starting workers, `s` processor
            time and `io` other time to make a batch, `r` to receive it; more fields by name.
    """
    main = {ARITHMETIC: seconds.pop("B", 0.0), STARTUP: seconds.pop("P", 0.0)}
    return Stages(
        workers=seconds.pop("W"),
        cores=seconds.pop("C"),
        main={cause: s for cause, s in main.items() if s},
        fetch_cpu={TRANSFORM: seconds.pop("s", 0.0)},
        fetch_blocked={STORAGE: seconds.pop("io", 0.0)},
        receive=seconds.pop("r", 0.0),
        **seconds,
    )


@pytest.mark.parametrize(
    ("stages", "seconds"),
    [
        # W = 0: P + B + s
        (simple(W=0, C=8, B=0.017, s=0.080, io=0.008), 0.105),
        (simple(W=0, C=8, B=0.017, s=0.088, P=0.01), 0.115),
        # the trainer takes turns with itself: it does not need two cores
        (simple(W=0, C=1, B=0.017, s=0.088), 0.105),
        # W > 0: s / W
        (simple(W=2, C=8, B=0.017, s=0.088), 0.044),
        (simple(W=4, C=8, B=0.017, s=0.080, io=0.008), 0.022),
        # W > 0: B + r
        (simple(W=6, C=8, B=0.017, s=0.088, r=0.001), 0.018),
        # starting workers comes on top of either
        (simple(W=2, C=8, B=0.017, s=0.088, P=0.01), 0.054),
        (simple(W=6, C=8, B=0.017, s=0.088, P=0.01), 0.027),
        # W > 0: D / C
        (simple(W=8, C=2, B=0.017, s=0.088, contention_main=ALONE, contention_fetch=ALONE), 0.0525),
        # what storage gives to one at a time
        (simple(W=8, C=16, B=0.001, io=0.080, serial_share=0.25), 0.020),
        # calibrated to what was measured
        (simple(W=2, C=8, B=0.017, s=0.088, factor=1.1), 0.0484),
    ],
)
def test_seconds_by_hand(stages: Stages, seconds: float) -> None:
    assert stages.seconds() == pytest.approx(seconds)


def test_totals_of_the_stages() -> None:
    stages = some_stages(main_blocked={"compute.optimizer": 0.001}, helpers=0.005)

    assert stages.busy == pytest.approx(0.017)
    assert stages.service == pytest.approx(0.088)
    # Two threads of the trainer for 16 ms, the fetching thread and its helpers.
    assert stages.demand == pytest.approx(2 * 0.016 + 0.088 + 0.005)


def test_time_by_cause_is_that_of_all_stages() -> None:
    stages = some_stages(
        main={ARITHMETIC: 0.01, TRANSFORM: 0.002},
        fetch_blocked={TRANSFORM: 0.005, STORAGE: 0.003, "data_loading.network": 0.0},
    )

    assert stages.cause_seconds() == {
        ARITHMETIC: pytest.approx(0.01),
        TRANSFORM: pytest.approx(0.002 + 0.080 + 0.005),
        "cpu_preprocessing.collate": pytest.approx(0.008),
        STORAGE: pytest.approx(0.003),
        HANDOVER: pytest.approx(0.0005),
    }


# Cores ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_no_number_of_workers_beats_the_cores(seed: int) -> None:
    chance = random.Random(seed)
    stages = simple(
        W=chance.choice([1, 2, 8]),
        C=chance.choice([1, 2, 4, 16]),
        B=chance.random(),
        s=chance.random(),
        io=chance.random(),
        helpers=chance.choice([0.0, 0.3]),
        contention_main=chance.choice([ALONE, Contention(), Contention(2.0, 0.5)]),
        contention_fetch=chance.choice([ALONE, Contention()]),
    )

    work = stages.busy + sum(stages.fetch_cpu.values()) + stages.helpers

    for workers in range(1, 33):
        assert stages.with_workers(workers).seconds() >= work / stages.cores - 1e-12


@pytest.mark.parametrize("workers", [2, 4, 7])
def test_more_workers_never_help_where_the_cores_are_full(workers: int) -> None:
    full = simple(W=workers, C=2, B=0.010, s=0.200)

    now = full.seconds()

    assert now >= 0.105
    for more in range(workers, 65, 3):
        assert full.with_workers(more).seconds() >= 0.97 * now


def test_workers_slow_the_trainer_that_shares_their_cores() -> None:
    shared = simple(W=4, C=2, B=0.100, s=0.090)

    relieved = shared.scaled(TRANSFORM, 0.5)

    assert shared.busy + shared.receive > shared.service / 4  # the trainer is the slower stage
    assert shared.slowdowns.main > relieved.slowdowns.main > 1.0
    assert relieved.seconds() < 0.97 * shared.seconds()
    assert shared.without(TRANSFORM).seconds() == pytest.approx(0.100)


def test_what_is_blocked_is_not_slowed_by_full_cores() -> None:
    blocked = simple(W=4, C=2, B=0.100, s=0.090, main_blocked={ARITHMETIC: 0.100})

    assert blocked.seconds() == pytest.approx(0.100)


def test_where_nobody_fetches_nobody_shares() -> None:
    assert simple(W=4, C=1, B=0.010, io=0.020).slowdowns == (1.0, 1.0)
    assert simple(W=0, C=1, B=0.010, s=0.020).slowdowns == (1.0, 1.0)


def test_helpers_of_a_worker_crowd_the_cores_too() -> None:
    lean, wide = (simple(W=2, C=3, B=0.05, s=0.09, helpers=more) for more in (0.0, 0.18))

    assert wide.slowdowns.main > lean.slowdowns.main
    assert wide.seconds() > lean.seconds()


def test_starvation_by_others_goes_with_its_own_cause_only() -> None:
    others = Contention(power=1.0, fixed=0.5)
    starved = simple(W=2, C=16, B=0.040, s=0.010, contention_main=others, contention_fetch=others)

    assert starved.seconds() == pytest.approx(0.060)
    assert starved.without(STARVATION).seconds() == pytest.approx(0.040)
    assert starved.scaled(STARVATION, 0.5).seconds() == pytest.approx(0.050)
    assert starved.without(TRANSFORM).seconds() == pytest.approx(0.060)
    assert starved.without(ARITHMETIC).slowdowns.main == pytest.approx(1.5)
    assert starved.cause_seconds()[STARVATION] == pytest.approx(0.020)


def test_without_workers_others_slow_both_halves() -> None:
    starved = simple(
        W=0,
        C=1,
        B=0.040,
        s=0.010,
        contention_main=Contention(1.0, 0.5),
        contention_fetch=Contention(1.0, 1.0),
    )

    assert starved.seconds() == pytest.approx(0.060 + 0.020)


# Unevenness -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_a_deep_queue_and_any_order_help_bursts_where_workers_hardly_do(seed: int) -> None:
    now = bursty_stages(seed)

    # A slow batch holds up the finished ones behind it.
    assert now.seconds() > 1.5 * 0.014
    assert now.with_prefetch(8).seconds() < 0.75 * now.seconds()
    assert now.with_any_order().seconds() < 0.75 * now.seconds()
    # Twice the workers, and no longer queue: two thirds of the bursts stay.
    more = now.with_workers(8).with_prefetch(1)
    assert more.seconds() > 0.014 + 2 / 3 * (now.seconds() - 0.014)


def test_checkpoints_are_hidden_by_a_deep_queue() -> None:
    # Each 32nd step stops for 320 ms: 10 ms on average. The loader needs 20 ms for a batch.
    spikes = (0.0,) * 31 + (32.0,)
    stopping = simple(W=2, C=16, B=0.005, io=0.040, main_shapes={CHECKPOINT: spikes})
    stopping = some_stages(**{**vars_of(stopping), "main": {ARITHMETIC: 0.005, CHECKPOINT: 0.010}})

    shallow, deep = stopping.with_prefetch(1).seconds(), stopping.with_prefetch(16).seconds()

    # Nothing hides at first but what the queue holds; at last the loader is never stopped.
    assert shallow == pytest.approx(0.020 + 0.010, rel=0.1)
    assert deep == pytest.approx(0.020, rel=0.03)
    # Where the trainer is the slower stage, there is nothing to hide behind.
    slow_trainer = stopping.scaled(ARITHMETIC, 8)
    assert slow_trainer.with_prefetch(16).seconds() == pytest.approx(0.050, rel=0.01)


def vars_of(stages: Stages) -> dict[str, Any]:
    return {name: getattr(stages, name) for name in Stages.__dataclass_fields__}


def test_without_workers_the_course_of_steps_does_not_matter() -> None:
    uneven = simple(W=0, C=8, B=0.010, s=0.020, main_shapes={ARITHMETIC: (0.0, 2.0)})

    assert uneven.seconds() == pytest.approx(0.030)


def test_starting_workers_is_never_hidden() -> None:
    started = simple(W=2, C=8, B=0.010, s=0.060, P=0.007, main_shapes={STARTUP: (0.0, 2.0)})

    assert started.seconds() == pytest.approx(0.037)
    assert started.without(STARTUP).seconds() == pytest.approx(0.030)
    assert started.without(TRANSFORM).seconds() == pytest.approx(0.017)


# Workers --------------------------------------------------------------------------------------


def test_workers_beyond_what_storage_serves_at_once_gain_nothing() -> None:
    one_by_one = simple(W=1, C=16, B=0.001, io=0.080, serial_share=0.5)

    assert one_by_one.with_workers(2).seconds() == pytest.approx(0.040)
    assert one_by_one.with_workers(16).seconds() == pytest.approx(0.040)
    assert one_by_one.best_workers() == 2


def test_latency_bound_workers_may_outnumber_the_cores() -> None:
    # 100 ms of waiting for storage and no processor time, a step of 10 ms on 4 cores.
    waiting = simple(W=1, C=4, B=0.010, io=0.100)

    assert waiting.best_workers() == 10
    assert waiting.with_workers(10).seconds() == pytest.approx(0.010)


def test_computing_workers_stop_helping_at_the_cores() -> None:
    computing = simple(W=1, C=4, B=0.010, s=0.100)

    assert 3 <= computing.best_workers() <= 6
    assert computing.with_workers(32).seconds() >= 0.0275  # D = 110 ms on 4 cores


def test_tiny_batches_are_best_made_without_workers() -> None:
    tiny = simple(W=4, C=8, B=0.005, s=0.0001, r=0.0006)

    assert tiny.best_workers() == 0
    assert tiny.with_workers(0).seconds() == pytest.approx(0.0051)


def test_the_smallest_of_nearly_equal_numbers_is_best() -> None:
    # Three workers are 2 % slower than four and save one.
    near = simple(W=1, C=8, B=0.010, io=0.0306)

    assert near.best_workers() == 3


def test_best_workers_looks_no_further_than_four_per_core() -> None:
    assert simple(W=1, C=2, B=0.0001, io=10.0).best_workers() == 8
    assert 60 < simple(W=1, C=16, B=0.0001, io=10.0).best_workers() <= 64


def test_the_first_worker_has_to_be_paid_for() -> None:
    alone = simple(W=0, C=8, B=0.010, s=0.002)

    helped = alone.with_workers(1)

    assert helped.receive == RECEIVE_SECONDS
    assert helped.fetch_cpu[HANDOVER] == RECEIVE_SECONDS
    assert helped.seconds() == pytest.approx(0.010 + RECEIVE_SECONDS)
    assert alone.with_workers(0) == alone


def test_without_workers_nothing_is_received_and_nobody_is_started() -> None:
    stages = some_stages(
        main={ARITHMETIC: 0.015, STARTUP: 0.004},
        fetch_cpu={TRANSFORM: 0.080, HANDOVER: 0.002},
    )

    none = stages.with_workers(0)

    assert none.receive == 0
    assert none.seconds() == pytest.approx(0.015 + 0.080)
    assert stages.with_workers(5).receive == stages.receive
    assert stages.with_workers(5).with_workers(2) == stages


# Changes --------------------------------------------------------------------------------------


def test_scaling_a_cause_reaches_every_stage_it_occurs_in() -> None:
    both = some_stages(
        main={"host.gc": 0.002, HANDOVER: 0.01},
        main_blocked={"host.gc": 0.001},
        fetch_cpu={"host.gc": 0.006, TRANSFORM: 0.05},
        fetch_blocked={"host.gc": 0.003},
    )

    half = both.scaled("host.gc", 0.5)

    assert half.main == {"host.gc": 0.001, HANDOVER: 0.01}
    assert half.main_blocked == {"host.gc": 0.0005}
    assert half.fetch_cpu == {"host.gc": 0.003, TRANSFORM: 0.05}
    assert half.fetch_blocked == {"host.gc": 0.0015}
    assert half.receive == both.receive


def test_receiving_belongs_to_the_handover() -> None:
    assert some_stages().scaled(HANDOVER, 0.25).receive == pytest.approx(0.000125)
    assert some_stages().without(HANDOVER).receive == 0


def test_helpers_go_with_what_they_help() -> None:
    stages = some_stages(fetch_cpu={TRANSFORM: 0.06}, fetch_blocked={STORAGE: 0.02}, helpers=0.04)

    assert stages.without(STORAGE).helpers == pytest.approx(0.03)
    assert stages.without(STORAGE, TRANSFORM).helpers == pytest.approx(0)
    assert stages.without(ARITHMETIC).helpers == stages.helpers


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


def test_a_slower_fetch_is_slower_in_all_its_parts_and_uses_no_more_of_the_cores() -> None:
    stages = some_stages(fetch_blocked={STORAGE: 0.010})

    slower = stages.slower_fetch(1.5)

    assert slower.service == pytest.approx(1.5 * stages.service)
    assert slower.without(TRANSFORM).service == pytest.approx(1.5 * 0.018)
    assert slower.fetch_cpu == stages.fetch_cpu
    assert slower.fetch_blocked[STORAGE] == pytest.approx(0.015)
    assert slower.main == stages.main


def test_larger_batches_grow_what_is_done_per_sample() -> None:
    stages = some_stages(
        main={
            ARITHMETIC: 0.010,
            "memory.bandwidth": 0.004,
            "compute.launch": 0.003,
            "compute.optimizer": 0.002,
            "host.python": 0.001,
            STARTUP: 0.005,
        },
        fetch_cpu={TRANSFORM: 0.060, HANDOVER: 0.002},
        fetch_blocked={STORAGE: 0.020},
        helpers=0.030,
    )

    twice = stages.with_batch(2.0)

    assert twice.main == pytest.approx(
        {**stages.main, ARITHMETIC: 0.020, "memory.bandwidth": 0.008}
    )
    assert twice.service == pytest.approx(2 * stages.service)
    assert twice.receive == pytest.approx(2 * stages.receive)
    assert twice.helpers == pytest.approx(2 * stages.helpers)
    assert stages.with_batch(1.0).seconds() == pytest.approx(stages.seconds())


def test_changes_leave_the_original_alone() -> None:
    stages = some_stages()

    stages.without(TRANSFORM)
    stages.with_workers(0)
    stages.with_batch(3.0)

    assert stages == some_stages()


@pytest.mark.parametrize("seed", range(30))
def test_taking_work_away_never_slows_a_step(seed: int) -> None:
    chance = random.Random(seed)
    stages = some_stages(
        workers=chance.choice([0, 1, 4]),
        cores=chance.choice([1.0, 2.5, 8.0]),
        main={ARITHMETIC: chance.random(), "host.gc": chance.random()},
        fetch_cpu={TRANSFORM: chance.random()},
        fetch_blocked={STORAGE: chance.random()},
    )

    for cause in (ARITHMETIC, "host.gc", TRANSFORM, STORAGE, HANDOVER):
        half, none = stages.scaled(cause, 0.5).seconds(), stages.without(cause).seconds()
        assert none <= half * 1.001
        assert half <= stages.seconds() * 1.001


def test_packing_is_a_stage_of_its_own_in_each_worker() -> None:
    packing = simple(W=2, C=8, B=0.010, s=0.004, packing=0.060)

    assert packing.seconds() == pytest.approx(0.030)
    assert packing.without(HANDOVER).seconds() == pytest.approx(0.010)
    assert packing.without(TRANSFORM).seconds() == pytest.approx(0.030)


def test_what_the_host_no_longer_does_is_not_picked_up_after() -> None:
    much = simple(W=0, C=8, B=0.010)
    much = replace(much, main={**much.main, "host.gc": 0.030})
    little = replace(much, main={**much.main, "host.gc": 0.001})

    assert much.without("host.gc").seconds() == pytest.approx(0.010 * (1 - RESUMING))
    assert little.without("host.gc").seconds() == pytest.approx(0.010 - 0.0005)
    assert much.without(ARITHMETIC).seconds() == pytest.approx(0.030)


def test_no_hand_over_may_mean_no_workers() -> None:
    # A worker that takes as long to hand over as to make: 4 ms, where alone it would be 2.
    tiny = some_stages(
        workers=1,
        main={"compute.arithmetic": 0.001},
        fetch_cpu={TRANSFORM: 0.001},
        receive=0.003,
    ).slower_fetch(4.0)

    without = tiny.without(HANDOVER)

    assert tiny.seconds() == pytest.approx(0.004)
    assert without.workers == 0
    assert without.seconds() == pytest.approx(0.002)
    assert tiny.without(TRANSFORM).workers == 1


def test_without_workers_nothing_comes_late_on_the_way() -> None:
    late = simple(W=2, C=8, B=0.010, s=0.004).slower_fetch(3.0)

    assert late.stretch == 3.0
    assert late.with_workers(0).seconds() == pytest.approx(0.014)
    assert late.with_workers(0).stretch == 1.0


def test_starting_workers_is_no_part_of_the_hand_over() -> None:
    restarted = simple(W=1, C=8, B=0.010, s=0.002)
    restarted = replace(restarted, main={**restarted.main, STARTUP: 0.020})

    assert restarted.without(HANDOVER).seconds() >= 0.030


def test_who_is_gone_crowds_nobody() -> None:
    crowded = some_stages(
        workers=4, contention_main=Contention(1.0, 0.8), contention_fetch=Contention(1.0, 0.4)
    )
    from_starts = replace(crowded, crowding={STARTUP: 0.75})

    calm = from_starts.without(STARTUP)

    assert calm.contention_main.fixed == pytest.approx(0.2)
    assert calm.contention_fetch.fixed == pytest.approx(0.1)
    assert crowded.without(STARTUP) == crowded


def test_what_own_threads_take_stays_when_others_leave() -> None:
    crowded = simple(W=0, C=2, B=0.010, contention_main=Contention(fixed=1.0))
    mine = replace(crowded, crowding={"host.python": 0.6})

    assert crowded.without(STARVATION).seconds() == pytest.approx(0.010)
    assert mine.without(STARVATION).seconds() == pytest.approx(0.016)
    assert mine.without("host.python").seconds() == pytest.approx(0.014)
