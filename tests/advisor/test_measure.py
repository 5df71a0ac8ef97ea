from __future__ import annotations

import random
from typing import Any

import pytest
from builders import (
    MS,
    a_data_bound_run,
    a_healthy_run,
    a_loader,
    a_profile,
    a_run,
    even_samples,
    even_steps,
    some_batches,
    some_ceilings,
    some_steps,
)

from stepscope.advisor.causes import CAUSES
from stepscope.advisor.fetch import training_loader
from stepscope.advisor.measure import NoStepsError, measure
from stepscope.advisor.places import places_of
from stepscope.advisor.sources import SIBLINGS
from stepscope.advisor.stages import RESUMING
from stepscope.profiler.format import Collective, Operator, Profile, Site, Window, WindowPhase

WAITING = {"data_wait": 60.0, "forward": 30.0, "python": 10.0}
DECODING = {"wall": 50.0, "cpu": 40.0, "collate": 10.0, "collate_cpu": 10.0}
"""A batch: 30 ms in transforms, 10 ms in collate, 10 ms blocked."""


def shares(profile: Profile) -> dict[str, float]:
    return {cause: each.share for cause, each in measure(profile).breakdown.causes.items()}


def collective(communication: float, overlap: float) -> Collective:
    return Collective(
        gradient_bytes=1,
        buckets=1,
        communication_ns=round(communication * MS),
        overlap_ns=round(overlap * MS),
        backward_ns=1,
    )


def random_run(seed: int) -> Profile:
    """Any mixture of phases, with or without loader, delays, neighbours and collectives."""
    chance = random.Random(seed)
    names = ["forward", "backward", "optimizer", "checkpoint", "validation", "gc", "own phase"]
    phases = {name: chance.expovariate(0.1) for name in names if chance.random() < 0.6}
    phases |= {"data_wait": chance.expovariate(0.05), "python": chance.random()}
    wall = sum(phases.values())
    fetch = None
    if chance.random() < 0.8:
        made = chance.expovariate(0.02)
        fetch = {"wall": made, "cpu": made * chance.random(), "read_bytes": chance.choice([0, 1e6])}
        fetch |= {"collate": made / 4, "collate_cpu": made / 8, "run_delay": made / 10}
    steps: dict[str, Any] = {
        "cpu": wall * chance.random(),
        "process_cpu": wall * 3 * chance.random(),
        "wait_cpu": phases["data_wait"] * chance.random(),
        "run_delay": wall * chance.random() if chance.random() < 0.7 else None,
        "wait_run_delay": wall * chance.random() / 4,
        "calls": {"checkpoints": 3, "validations": 1},
    }
    return a_run(
        phases,
        workers=chance.choice([0, 1, 2, 4]),
        fetch=fetch,
        steps=steps,
        cores=chance.choice([1, 2, 8]),
        samples=chance.choice(
            [even_samples(), even_samples(system_busy_cores=3.0, job_busy_cores=1.0)]
        ),
        collectives=chance.choice([[], [collective(40, 10)]]),
    )


@pytest.mark.parametrize("seed", range(60))
def test_every_part_of_a_step_has_exactly_one_owner(seed: int) -> None:
    profile = random_run(seed)

    breakdown = measure(profile).breakdown

    assert sum(each.share for each in breakdown.causes.values()) == pytest.approx(1, abs=1e-9)
    assert set(breakdown.causes) <= set(CAUSES)
    assert all(each.share > 0 for each in breakdown.causes.values())
    assert breakdown.step_seconds == pytest.approx(profile.steady.wall_ns[0] / 1e9)


@pytest.mark.parametrize("seed", range(60))
def test_the_model_is_exact_where_it_was_measured(seed: int) -> None:
    measurement = measure(random_run(seed))

    assert measurement.stages.seconds() == pytest.approx(measurement.breakdown.step_seconds)
    assert len(measurement.resamples) >= 20


@pytest.mark.parametrize(
    ("phase", "cause"),
    [
        ("forward", "compute.arithmetic"),
        ("backward", "compute.arithmetic"),
        ("optimizer", "compute.optimizer"),
        ("transfer", "data_loading.host_to_device"),
        ("worker_startup", "data_loading.worker_startup"),
        ("sync", "host.sync"),
        ("checkpoint", "host.checkpoint"),
        ("validation", "host.validation"),
        ("logging", "host.logging"),
        ("gc", "host.gc"),
        ("python", "host.python"),
        ("a phase of the user's", "host.python"),
    ],
)
def test_each_phase_lands_on_its_cause(phase: str, cause: str) -> None:
    other, rest = ("gc", "host.gc") if phase != "gc" else ("sync", "host.sync")

    found = shares(a_run({phase: 25.0, other: 75.0}))

    assert found == {cause: pytest.approx(0.25), rest: pytest.approx(0.75)}


def test_forward_and_backward_divide_as_the_window_saw() -> None:
    window = Window(
        first_step=1,
        steps=1,
        wall_ns=100,
        phases={"forward": WindowPhase(wall_ns=100, operator_ns=90, gap_ns=10)},
        operators=[
            Operator(name="aten::addmm", calls=0, self_cpu_ns=60),
            Operator(name="aten::relu", calls=0, self_cpu_ns=30),
        ],
    )

    found = shares(a_run({"forward": 30.0, "backward": 50.0, "python": 20.0}, window=window))

    assert found["compute.arithmetic"] == pytest.approx(0.8 * 0.6)
    assert found["memory.bandwidth"] == pytest.approx(0.8 * 0.3)
    assert found["compute.launch"] == pytest.approx(0.8 * 0.1)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_waiting_for_workers_divides_like_a_fetch(workers: int) -> None:
    found = shares(a_run(WAITING, workers=workers, fetch={**DECODING, "read_bytes": 1e6}))

    assert found["cpu_preprocessing.transform"] == pytest.approx(0.6 * 30 / 50)
    assert found["cpu_preprocessing.collate"] == pytest.approx(0.6 * 10 / 50)
    assert found["data_loading.storage"] == pytest.approx(0.6 * 10 / 50)
    assert "cpu_preprocessing.handover" not in found


def test_receiving_a_batch_from_a_worker_is_handover() -> None:
    found = shares(a_run(WAITING, workers=2, fetch=DECODING, steps={"wait_cpu": 6.0}))

    assert found["cpu_preprocessing.handover"] == pytest.approx(0.06)
    assert found["cpu_preprocessing.transform"] == pytest.approx(0.54 * 30 / 50)


def test_without_workers_the_fetch_itself_stands_in_the_step() -> None:
    measurement = measure(a_run(WAITING, workers=0, fetch=DECODING))

    found = {cause: each.share for cause, each in measurement.breakdown.causes.items()}
    assert found["cpu_preprocessing.transform"] == pytest.approx(0.3)
    assert found["cpu_preprocessing.collate"] == pytest.approx(0.1)
    assert found["data_loading.network"] == pytest.approx(0.1)
    # What the iterator takes beyond the fetch: sampler, fetcher, moving the batch on.
    assert found["cpu_preprocessing.handover"] == pytest.approx(0.1)
    assert measurement.stages.workers == 0
    assert measurement.stages.receive == 0


def test_without_a_loader_processor_time_prepares_and_the_rest_waits_for_others() -> None:
    steps = {"wait_cpu": 20.0, "run_delay": 5.0, "wait_run_delay": 5.0}

    found = shares(a_run(WAITING, steps=steps))

    assert found["cpu_preprocessing.transform"] == pytest.approx(0.20)
    assert found["cpu_preprocessing.core_starvation"] == pytest.approx(0.05)
    assert found["data_loading.network"] == pytest.approx(0.35)


def test_gradient_accumulation_multiplies_the_fetch() -> None:
    # 360 batches for 120 steps: each step takes three of 20 ms.
    profile = a_run(
        WAITING,
        fetch=None,
        loaders=a_run(WAITING, fetch={"wall": 20.0, "cpu": 15.0, "run_delay": 5.0}).loaders,
    )
    totals = profile.loaders[0].workers[0].totals
    for name in ("batches", "wall_ns", "cpu_ns", "run_delay_ns"):
        setattr(totals, name, 3 * getattr(totals, name))

    stages = measure(profile).stages

    assert totals.batches == 360
    assert stages.service == pytest.approx(0.045)
    assert shares(profile)["cpu_preprocessing.transform"] == pytest.approx(0.45)
    assert shares(profile)["cpu_preprocessing.core_starvation"] == pytest.approx(0.15)


def test_the_loader_that_made_most_batches_feeds_the_training() -> None:
    small = a_run(WAITING, workers=1, fetch=DECODING).loaders[0]
    small.workers[0].totals.batches = 3
    validating = a_loader(training=False)
    validating.workers[0].totals.batches = 10**6
    training = a_loader(dataset="the right one")

    profile = a_profile(loaders=[small, validating, training, a_loader(workers=[])])

    found = training_loader(profile)
    assert found is not None
    assert found.dataset == "the right one"


STARVED = {"run_delay": 20.0, "wait_run_delay": 0.0}


def test_delay_by_other_programs_is_starvation() -> None:
    # One thread, so nothing of our own can hold it up; others use two cores.
    profile = a_run(
        {"forward": 90.0, "python": 10.0},
        steps={**STARVED, "cpu": 80.0, "process_cpu": 80.0},
        samples=even_samples(system_busy_cores=3.0, job_busy_cores=1.0, steal_cores=0.0),
    )

    found = shares(profile)

    assert found["cpu_preprocessing.core_starvation"] == pytest.approx(0.2)
    assert found["compute.arithmetic"] == pytest.approx(0.8 * 0.9)


def crowded(**samples: float) -> Profile:
    """Two workers that compute all the time and the trainer want two cores."""
    return a_run(
        {"forward": 90.0, "python": 10.0},
        workers=2,
        fetch={"wall": 200.0, "cpu": 150.0, "run_delay": 50.0},
        steps={**STARVED, "run_delay": 30.0, "cpu": 70.0, "process_cpu": 70.0},
        cores=2,
        samples=even_samples(steal_cores=0.0, **samples),
    )


def starved_share(profile: Profile) -> float:
    return shares(profile).get("cpu_preprocessing.core_starvation", 0.0)


def test_delay_by_our_own_processes_is_their_work() -> None:
    alone = crowded(system_busy_cores=2.0, job_busy_cores=2.0)

    measurement = measure(alone)

    assert starved_share(alone) < 0.02
    assert measurement.stages.contention_main.power > 0
    # Alone the trainer needs 70 ms, and a worker 150.
    assert measurement.stages.main["compute.arithmetic"] == pytest.approx(0.9 * 0.070)
    assert measurement.stages.service == pytest.approx(0.150)
    assert measurement.stages.slowdowns.main == pytest.approx(10 / 7, rel=0.05)


def test_own_and_foreign_threads_share_the_blame() -> None:
    alone = crowded(system_busy_cores=2.0, job_busy_cores=2.0)
    beside_one = crowded(system_busy_cores=2.0, job_busy_cores=1.0)
    beside_many = crowded(system_busy_cores=2.0, job_busy_cores=0.2)

    found = [starved_share(profile) for profile in (alone, beside_one, beside_many)]

    assert found == sorted(found)
    assert found[1] > found[0] + 0.03
    assert found[2] < 0.3  # what was lost at all


def test_stolen_time_belongs_to_neighbours_too() -> None:
    stolen = crowded(system_busy_cores=2.0, job_busy_cores=2.0)
    stolen.samples.columns["steal_cores"] = [1.0, 1.0]

    assert starved_share(stolen) > starved_share(crowded(system_busy_cores=2.0, job_busy_cores=2.0))


def test_waiting_of_the_threads_it_computes_with_is_lost_to_the_trainer() -> None:
    # The trainer itself never waits for a core; the three others of its four threads do.
    samples = even_samples(thread_delay_cores=0.4, system_busy_cores=8.0, job_busy_cores=4.0)
    profile = a_run(
        {"forward": 100.0},
        steps={**STARVED, "run_delay": 0.0, "cpu": 100.0, "process_cpu": 400.0},
        samples=samples,
    )

    assert starved_share(profile) == pytest.approx(SIBLINGS * 0.4 / 3)
    profile.samples.columns["thread_delay_cores"] = [None, None]
    assert starved_share(profile) == 0


def test_sleeping_for_threads_that_have_no_core_is_lost_too() -> None:
    # The trainer sleeps for 40 ms of 100, since the others wait three times as long as they run.
    samples = even_samples(thread_delay_cores=1.2, system_busy_cores=8.0, job_busy_cores=4.0)
    profile = a_run(
        {"forward": 100.0},
        steps={**STARVED, "run_delay": 0.0, "cpu": 60.0, "process_cpu": 100.0},
        samples=samples,
    )

    assert starved_share(profile) == pytest.approx(SIBLINGS * 1.2 / 3 + 0.75 * 0.4)


def test_a_thread_that_holds_the_interpreter_is_python_code() -> None:
    # For 30 ms of 100 the trainer sleeps while it computes, and waits 20 ms for a core.
    profile = a_run(
        {"forward": 100.0},
        steps={**STARVED, "run_delay": 20.0, "cpu": 50.0, "process_cpu": 100.0},
        samples=even_samples(system_busy_cores=1.0, job_busy_cores=1.0, other_threads_cores=0.5),
    )

    found = shares(profile)

    assert found["host.python"] == pytest.approx(0.5, abs=0.02)
    assert found["compute.arithmetic"] == pytest.approx(0.5, abs=0.02)
    alone = measure(profile).stages.without("host.python").seconds()
    assert alone == pytest.approx((1 - RESUMING) * 0.05, rel=0.05)


def test_a_thread_that_computes_without_the_interpreter_takes_a_core() -> None:
    def seen(state: str, samples: int) -> Site:
        return Site(phase="thread", file="t.py", line=3, function="f", state=state, samples=samples)

    profile = a_run(
        {"forward": 100.0},
        steps={**STARVED, "run_delay": 50.0, "cpu": 50.0, "process_cpu": 100.0},
        samples=even_samples(system_busy_cores=1.0, job_busy_cores=1.0, other_threads_cores=0.5),
    )
    profile.sites = [seen("unlocked", 20), seen("running", 80)]

    found = shares(profile)

    assert found["cpu_preprocessing.core_starvation"] == pytest.approx(0.5, abs=0.02)
    assert found.get("host.python", 0.0) == 0.0
    assert list(places_of(profile)) == ["cpu_preprocessing.core_starvation"]


def test_a_thread_that_fills_a_queue_prepares() -> None:
    profile = a_run(
        {"data_wait": 60.0, "forward": 40.0},
        steps={"cpu": 45.0, "process_cpu": 95.0, "wait_cpu": 5.0},
        samples=even_samples(system_busy_cores=1.0, job_busy_cores=1.0, other_threads_cores=0.5),
    )

    found = shares(profile)

    assert found["cpu_preprocessing.transform"] == pytest.approx(0.55, abs=0.02)
    assert found["data_loading.network"] == pytest.approx(0.05, abs=0.02)


def test_workers_starved_by_others_are_starved() -> None:
    profile = a_run(
        {"data_wait": 90.0, "forward": 10.0},
        workers=1,
        fetch={"wall": 100.0, "cpu": 60.0, "run_delay": 40.0},
        steps={"cpu": 10.0, "process_cpu": 10.0},
        samples=even_samples(system_busy_cores=8.0, job_busy_cores=0.0, steal_cores=0.0),
    )

    assert shares(profile)["cpu_preprocessing.core_starvation"] == pytest.approx(0.9 * 0.4)


@pytest.mark.parametrize(
    ("busy", "transform"),
    [
        # 2 cores x 100 ms. Up to 60 % use, waiting divides the step: 20 ms of 100 ms.
        (30.0, 0.2),
        # From 90 % on, processor time does: 90 ms of the worker's in 180 ms.
        (90.0, 0.5),
        (110.0, 90 / 200),
        # Between, both in proportion: at 75 % half of either, 60 ms of 150 ms the second.
        (60.0, 0.5 * 0.2 + 0.5 * 90 / 150),
    ],
)
def test_where_the_cores_are_full_processor_time_owns_the_step(
    busy: float, transform: float
) -> None:
    profile = a_run(
        {"data_wait": 20.0, "forward": 80.0},
        workers=1,
        fetch={"wall": 90.0, "cpu": 90.0},
        steps={"cpu": 80.0, "process_cpu": busy},
        cores=2,
    )

    found = shares(profile)

    assert found["cpu_preprocessing.transform"] == pytest.approx(transform)
    assert found["compute.arithmetic"] == pytest.approx(1 - transform)


@pytest.mark.parametrize(
    ("kernel", "cause"),
    [(4.5, "cpu_preprocessing.handover"), (3.5, "cpu_preprocessing.collate")],
)
def test_collate_that_works_in_the_kernel_is_handover(kernel: float, cause: str) -> None:
    # Filling fresh shared-memory pages costs system time.
    found = shares(a_run(WAITING, workers=2, fetch={**DECODING, "collate_system_cpu": kernel}))

    assert found[cause] == pytest.approx(0.6 * 10 / 50)
    assert len({"cpu_preprocessing.handover", "cpu_preprocessing.collate"} & set(found)) == 1


@pytest.mark.parametrize(
    ("seen", "cause"),
    [
        ({}, "data_loading.network"),
        ({"read_bytes": 4000}, "data_loading.network"),
        ({"read_bytes": 5000}, "data_loading.storage"),
        ({"major_faults": 1}, "data_loading.storage"),
    ],
)
def test_blocked_fetches_wait_for_storage_if_they_read(seen: dict[str, float], cause: str) -> None:
    blocked = {"wall": 50.0, "cpu": 10.0}

    found = shares(a_run(WAITING, workers=2, fetch={**blocked, **seen}))

    assert found[cause] == pytest.approx(0.6 * 40 / 50)


def test_blocked_on_its_own_threads_a_worker_still_prepares() -> None:
    found = shares(a_run(WAITING, workers=2, fetch={"wall": 50.0, "cpu": 10.0, "helper_cpu": 30.0}))

    assert found["cpu_preprocessing.transform"] == pytest.approx(0.6)


def test_communication_is_taken_out_of_backward() -> None:
    phases = {"forward": 30.0, "backward": 60.0, "optimizer": 10.0}

    found = shares(a_run(phases, collectives=[collective(communication=45, overlap=15)]))

    assert found["communication.collective"] == pytest.approx(0.30)
    assert found["compute.arithmetic"] == pytest.approx(0.60)
    assert found["compute.optimizer"] == pytest.approx(0.10)


def test_no_more_communication_is_exposed_than_backward_took() -> None:
    phases = {"forward": 80.0, "backward": 20.0}

    found = shares(a_run(phases, collectives=[collective(communication=500, overlap=0)]))

    assert found["communication.collective"] == pytest.approx(0.20)


def test_communication_that_backward_hides_costs_nothing() -> None:
    phases = {"forward": 80.0, "backward": 20.0}

    found = shares(a_run(phases, collectives=[collective(communication=10, overlap=12)]))

    assert found == {"compute.arithmetic": pytest.approx(1)}


# Stages -----------------------------------------------------------------------------------------


def test_stages_hold_what_each_side_needs_with_its_cores_to_itself() -> None:
    phases = {"data_wait": 1.0, "forward": 60.0, "logging": 20.0, "python": 10.0}
    steps = {"cpu": 72.0, "process_cpu": 142.0, "wait_cpu": 1.0, "run_delay": 0.0}
    fetch = {**DECODING, "helper_cpu": 4.0, "run_delay": 5.0}

    stages = measure(a_run(phases, workers=2, fetch=fetch, steps=steps)).stages

    assert {cause: s for cause, s in stages.main.items() if s} == pytest.approx(
        {"compute.arithmetic": 0.06, "host.logging": 0.02, "host.python": 0.01}
    )
    # 90 ms of its own, 71 of them on a processor: the host's work waits first.
    assert sum(stages.main_blocked.values()) == pytest.approx(0.019)
    assert stages.main_blocked["host.logging"] == pytest.approx(0.019 * 2 / 3)
    assert stages.main_blocked.get("compute.arithmetic", 0.0) == pytest.approx(0)
    assert stages.receive == pytest.approx(0.001)
    assert stages.width == pytest.approx(142 / 72)
    assert stages.helpers == pytest.approx(0.004)
    assert stages.fetch_cpu["cpu_preprocessing.transform"] == pytest.approx(0.030)
    assert sum(stages.fetch_blocked.values()) == pytest.approx(0.005)
    assert (stages.prefetch, stages.in_order, stages.threads) == (2, True, 4)


def test_computing_is_blocked_only_when_the_hosts_work_does_not_suffice() -> None:
    phases = {"forward": 80.0, "logging": 20.0}

    stages = measure(a_run(phases, steps={"cpu": 60.0, "process_cpu": 60.0})).stages

    assert stages.main_blocked["host.logging"] == pytest.approx(0.020)
    assert stages.main_blocked["compute.arithmetic"] == pytest.approx(0.020)


@pytest.mark.parametrize(
    ("loader", "prefetch", "in_order"),
    [
        ({"prefetch_factor": 5, "in_order": False}, 5, False),
        ({"prefetch_factor": None, "in_order": None}, 2, True),
    ],
)
def test_the_queue_is_that_of_the_loader(
    loader: dict[str, Any], prefetch: int, in_order: bool
) -> None:
    stages = measure(a_run(WAITING, workers=2, fetch=DECODING, loader=loader)).stages

    assert (stages.prefetch, stages.in_order) == (prefetch, in_order)


@pytest.mark.parametrize("workers", [1, 4])
def test_waiting_longer_than_making_explains_stretches_the_fetches(workers: int) -> None:
    # The trainer works 30 ms and waits 70; making a batch took a worker 50 ms.
    phases = {"data_wait": 70.0, "forward": 30.0}
    steps = {"cpu": 30.0, "process_cpu": 30.0}

    stages = measure(a_run(phases, workers=workers, fetch=DECODING, steps=steps)).stages

    assert stages.seconds() == pytest.approx(0.100)
    stretched = min(4.0, workers * 100 / 50)
    assert stages.service == pytest.approx(0.050 * stretched, rel=0.03)
    assert stages.busy == pytest.approx(0.030)
    # So it is the loader that holds the step back, and not all stages alike.
    assert stages.without("compute.arithmetic").seconds() > 0.097


def test_what_is_missing_after_workers_were_started_is_their_start() -> None:
    # 30 ms of work and 20 of starting workers; after that the queue is empty.
    phases = {"data_wait": 50.0, "forward": 30.0, "worker_startup": 20.0}
    steps = {"cpu": 50.0, "process_cpu": 50.0}

    stages = measure(a_run(phases, workers=4, fetch=DECODING, steps=steps)).stages

    assert stages.seconds() == pytest.approx(0.100)
    assert stages.service == pytest.approx(0.050)
    assert stages.without("data_loading.worker_startup").seconds() == pytest.approx(0.030)


def test_a_loader_that_keeps_up_is_not_stretched() -> None:
    phases = {"data_wait": 1.0, "forward": 99.0}
    steps = {"cpu": 99.0, "process_cpu": 99.0, "wait_cpu": 1.0}

    stages = measure(a_run(phases, workers=1, fetch=DECODING, steps=steps)).stages

    assert stages.service == pytest.approx(0.050)
    assert stages.factor == pytest.approx(1.0, abs=0.02)


def test_the_course_of_steps_and_batches_is_in_the_stages_of_the_whole_only() -> None:
    profile = a_run(
        {"data_wait": 10.0, "forward": 90.0},
        workers=2,
        fetch=DECODING,
        loader={"batches": some_batches([10.0, 10.0, 100.0] * 40)},
    )
    checkpoints = [MS * 2000 if i == 50 else 0 for i in range(100)]
    profile.steady.phases["checkpoint"] = checkpoints
    profile.steady.wall_ns = [100 * MS + spent for spent in checkpoints]

    measurement = measure(profile)

    assert len(measurement.stages.main_shapes["host.checkpoint"]) == 100
    assert len(measurement.stages.fetch_shape) > 100
    assert measurement.stages.seconds() == pytest.approx(0.120)
    for stages in measurement.resamples:
        assert (stages.main_shapes, stages.fetch_shape) == ({}, (1.0,))


def test_every_resample_is_calibrated_to_its_own_steps() -> None:
    profile = a_profile()

    seconds = [stages.seconds() for stages in measure(profile).resamples]

    assert min(seconds) < measure(profile).breakdown.step_seconds < max(seconds)
    assert max(seconds) < 1.2 * min(seconds)


# What was tried takes the place of what is estimated ---------------------------------------------


def test_the_model_alone_says_what_the_trainer_loses() -> None:
    # 90 ms of work, of which the trial without workers needed 60. No delay was seen.
    profile = crowded(system_busy_cores=2.0, job_busy_cores=2.0)
    profile.ceilings = some_ceilings(model_step_ns=[60 * MS] * 8, solo=None)

    stages = measure(profile).stages

    assert stages.busy == pytest.approx(0.060)
    profile.ceilings = some_ceilings(model_step_ns=[200 * MS] * 8, solo=None)
    assert measure(profile).stages.busy == pytest.approx(0.100)


@pytest.mark.parametrize(("alone_ms", "foreign"), [(0, 0.0), (8, 1.0), (4, 0.5)])
def test_the_trial_one_by_one_says_whose_waiting_it_is(alone_ms: int, foreign: float) -> None:
    profile = crowded(system_busy_cores=2.0, job_busy_cores=1.0)
    profile.ceilings = some_ceilings(model_step_ns=[])
    solo = profile.ceilings.solo
    assert solo is not None
    solo.run_delay_ns = alone_ms * MS  # of 8 ms together

    contention = measure(profile).stages.contention_fetch

    assert contention.fixed == pytest.approx((1 + 50 / 150) ** foreign - 1, abs=0.01)


def test_storage_that_serves_one_at_a_time_caps_more_workers() -> None:
    reading = {"wall": 96.0, "cpu": 8.0, "read_bytes": 1e6}
    profile = a_run(
        {"data_wait": 38.0, "forward": 10.0},
        workers=2,
        fetch=reading,
        steps={"cpu": 10.0, "process_cpu": 10.0},
    )
    unknown = measure(profile).stages
    profile.ceilings = some_ceilings(model_step_ns=[])
    solo = profile.ceilings.solo
    assert solo is not None
    # 40 ms of blocked time alone, 80 with the other worker: wholly one at a time.
    solo.together_wall_ns = 96 * MS
    solo.together_run_delay_ns = 8 * MS

    tried = measure(profile).stages

    assert unknown.with_workers(8).seconds() < 0.5 * unknown.seconds()
    assert tried.seconds() == pytest.approx(0.048)
    assert tried.with_workers(8).seconds() > 0.9 * tried.seconds()
    # The cap is no more than what was measured: other changes are not judged by it.
    assert tried.factor == pytest.approx(1.0, abs=0.05)
    assert tried.without("data_loading.storage").seconds() == pytest.approx(0.010, rel=0.1)


@pytest.mark.parametrize(
    "profile", [a_profile(), a_healthy_run(), a_data_bound_run(), random_run(7)]
)
def test_intervals_contain_the_share(profile: Profile) -> None:
    for interval in measure(profile).breakdown.causes.values():
        assert 0 <= interval.low <= interval.share <= interval.high <= 1


def test_steps_that_vary_widen_the_interval() -> None:
    def width(profile: Profile) -> float:
        interval = measure(profile).breakdown.causes["host.checkpoint"]
        return interval.high - interval.low

    calm = a_run({"forward": 90.0, "checkpoint": 10.0})
    spiky = a_run({"forward": 90.0, "checkpoint": 10.0})
    extra = [1000 * MS if i % 25 == 24 else 0 for i in range(100)]
    spiky.steady.phases["checkpoint"] = extra
    spiky.steady.wall_ns = [90 * MS + more for more in extra]

    assert width(calm) == pytest.approx(0, abs=1e-12)
    assert width(spiky) > 0.05


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_steps_are_refused_with_a_hint(count: int) -> None:
    few, none = even_steps({"forward": 1.0}, count), even_steps({"forward": 1.0}, 0)

    with pytest.raises(NoStepsError, match=rf"only {count} training steps .*profile at least 20"):
        measure(a_profile(warmup=few, steady=none))


def test_a_short_run_is_judged_by_its_warm_up() -> None:
    profile = a_run({"forward": 1.0}, warmup=some_steps(0, 12), steady=some_steps(12, 0))

    assert measure(profile).breakdown.step_seconds == pytest.approx(0.048, rel=0.1)


def test_steps_that_took_no_time_are_refused() -> None:
    idle = a_run({"forward": 1.0}, steady=even_steps({"forward": 0.0}))

    with pytest.raises(NoStepsError, match="no training step took any time"):
        measure(idle)


def test_the_same_profile_gives_the_same_measurement() -> None:
    assert measure(a_profile()) == measure(a_profile())


def test_a_trainer_that_fetches_itself_is_no_company_for_its_fetches() -> None:
    # On one core; 10 of 50 ms of a fetch go by without it.
    profile = a_run(
        WAITING,
        workers=0,
        fetch={"wall": 50.0, "cpu": 40.0, "run_delay": 10.0},
        steps={"cpu": 80.0, "process_cpu": 80.0, "wait_cpu": 40.0},
        cores=1,
        samples=even_samples(system_busy_cores=1.0, job_busy_cores=0.8, steal_cores=0.0),
    )

    contention = measure(profile).stages.contention_fetch

    assert contention.fixed == pytest.approx(0.25)
