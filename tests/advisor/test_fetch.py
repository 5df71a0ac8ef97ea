from __future__ import annotations

from typing import Any

import pytest
from builders import CALIBRATION, MS, a_loader, a_site, some_totals
from msgspec.structs import replace

from stepscope.advisor.fetch import (
    HANDOVER_SYSTEM_SHARE,
    READS_FROM_FILES,
    Fetch,
    fetch_composition,
    fetch_totals,
)
from stepscope.profiler.format import Calibration, FetchTotals, Loader, Site, Worker

TRANSFORM, COLLATE = "cpu_preprocessing.transform", "cpu_preprocessing.collate"
HANDOVER, STORAGE = "cpu_preprocessing.handover", "data_loading.storage"
NETWORK, SMALL_FILES = "data_loading.network", "data_loading.small_files"
HOST, GROWTH = "memory.host", "memory.growth"


def a_fetcher(*sites: Site, **per_batch: float) -> Loader:
    return fetched_by(1, *sites, **per_batch)


def fetched_by(workers: int, *sites: Site, **per_batch: float) -> Loader:
    totals = some_totals(100, **per_batch)
    made_by = [Worker(id=0 if workers else -1, pid=1, totals=totals)]
    return a_loader(num_workers=workers, workers=made_by, sites=list(sites))


def composed(loader: Loader, calibration: Calibration | None = None) -> Fetch:
    found = fetch_composition(loader, calibration)
    assert found is not None
    return found


def ms(seconds: dict[str, float]) -> dict[str, Any]:
    return {cause: pytest.approx(1e3 * s) for cause, s in seconds.items() if s > 1e-12}


BLOCKED: dict[str, float] = {"wall": 50.0, "cpu": 10.0}
"""10 ms of work and 40 ms of waiting."""


def test_a_fetch_is_work_waiting_and_run_delay() -> None:
    found = composed(
        a_fetcher(
            wall=100.0,
            cpu=50.0,
            run_delay=20.0,
            helper_cpu=3.0,
            collate=18.0,
            collate_cpu=10.0,
            collate_run_delay=6.0,
        )
    )

    assert ms(found.cpu) == {TRANSFORM: 40.0, COLLATE: 10.0}
    assert ms(found.blocked) == {NETWORK: 28.0, COLLATE: 2.0}
    assert found.run_delay == pytest.approx(0.020)
    assert found.helpers == pytest.approx(0.003)
    assert ms(found.wall) == {TRANSFORM: 40.0, COLLATE: 12.0, NETWORK: 28.0}


def test_several_batches_to_a_step_cost_so_many_times_as_much() -> None:
    one = composed(a_fetcher(**BLOCKED, run_delay=1.0, helper_cpu=2.0))

    three = one.times(3)

    assert three.cpu[TRANSFORM] == pytest.approx(3 * one.cpu[TRANSFORM])
    assert three.blocked[NETWORK] == pytest.approx(3 * one.blocked[NETWORK])
    assert [three.run_delay, three.helpers] == pytest.approx([0.003, 0.006])


@pytest.mark.parametrize(
    ("state", "cause"),
    [
        ("file", STORAGE),
        ("fault", STORAGE),
        ("open", SMALL_FILES),
        ("socket", NETWORK),
        ("pipe", NETWORK),
        ("sleep", NETWORK),
        ("lock", NETWORK),
        ("child", NETWORK),
        ("blocked", NETWORK),
    ],
)
def test_what_it_waits_for_is_what_the_sampler_saw(state: str, cause: str) -> None:
    found = composed(a_fetcher(a_site(state=state), a_site(state="running", samples=90), **BLOCKED))

    assert ms(found.blocked) == {cause: 40.0}


@pytest.mark.parametrize("state", ["lock", "child", "blocked"])
def test_an_unclear_sleep_is_work_if_its_own_helpers_work_meanwhile(state: str) -> None:
    found = composed(a_fetcher(a_site(state=state), **BLOCKED, helper_cpu=30.0))

    assert ms(found.blocked) == {TRANSFORM: 40.0}


def test_a_clear_wait_stays_one_beside_working_helpers() -> None:
    found = composed(a_fetcher(a_site(state="socket"), **BLOCKED, helper_cpu=30.0))

    assert ms(found.blocked) == {NETWORK: 40.0}


def test_in_the_training_process_other_threads_are_no_helpers() -> None:
    found = composed(fetched_by(0, **BLOCKED, helper_cpu=30.0))

    assert ms(found.blocked) == {NETWORK: 40.0}
    assert found.helpers == 0


def test_waits_divide_as_often_as_they_were_seen() -> None:
    found = composed(
        a_fetcher(
            a_site(state="file", samples=30),
            a_site(state="socket", samples=10),
            a_site("collate", state="sleep", samples=500),
            a_site("idle", state="pipe", samples=500),
            **BLOCKED,
        )
    )

    assert ms(found.blocked) == {STORAGE: 30.0, NETWORK: 10.0}


def test_a_few_looks_tell_nothing() -> None:
    found = composed(a_fetcher(a_site(state="socket", samples=2), **BLOCKED, read_bytes=1e6))

    assert ms(found.blocked) == {STORAGE: 40.0}


@pytest.mark.parametrize(
    ("seen", "cause"),
    [
        ({}, NETWORK),
        ({"read_bytes": READS_FROM_FILES - 1}, NETWORK),
        ({"read_bytes": READS_FROM_FILES + 1}, STORAGE),
        ({"major_faults": 1}, STORAGE),
        ({"helper_cpu": 20.0}, TRANSFORM),
    ],
)
def test_where_nobody_looked_the_counters_tell(seen: dict[str, float], cause: str) -> None:
    assert ms(composed(a_fetcher(**BLOCKED, **seen)).blocked) == {cause: 40.0}


def test_faults_of_mapped_files_hide_from_the_sampler() -> None:
    mapped = {"major_faults": 50, "storage_bytes": 1e6, "read_bytes": 0}

    found = composed(a_fetcher(a_site(state="sleep"), **BLOCKED, **mapped))

    assert ms(found.blocked) == {STORAGE: 40.0}


def test_opening_files_is_timed_exactly() -> None:
    opening = {"opens": 20, "open": 16.0, "open_cpu": 4.0}

    found = composed(a_fetcher(a_site(state="file"), **BLOCKED, **opening))

    assert ms(found.cpu) == {TRANSFORM: 6.0, SMALL_FILES: 4.0}
    assert ms(found.blocked) == {STORAGE: 28.0, SMALL_FILES: 12.0}


def test_who_mostly_opens_files_does_nothing_else() -> None:
    found = composed(a_fetcher(**BLOCKED, opens=20, open=6.0, open_cpu=6.0))

    assert ms(found.cpu) == {SMALL_FILES: 10.0}


def test_lines_that_open_files_spend_the_rest_on_them_too() -> None:
    opening = {"wall": 50.0, "cpu": 50.0, "opens": 20, "open": 10.0, "open_cpu": 10.0}
    here = [a_site(state="opening", samples=10), a_site(state="running", samples=14)]
    parsing = a_site(state="running", samples=16, line=43)

    found = composed(a_fetcher(*here, parsing, **opening))
    rarely = composed(a_fetcher(here[0], a_site(samples=90), **opening))
    hardly_seen = composed(a_fetcher(a_site(state="opening", samples=4), **opening))

    assert ms(found.cpu) == {SMALL_FILES: 30.0, TRANSFORM: 20.0}
    assert ms(rarely.cpu) == ms(hardly_seen.cpu) == {SMALL_FILES: 10.0, TRANSFORM: 40.0}


def test_opening_takes_no_more_than_there_is() -> None:
    found = composed(a_fetcher(**BLOCKED, opens=1, open=900.0, open_cpu=800.0))

    assert ms(found.cpu) == {SMALL_FILES: 10.0}
    assert ms(found.blocked) == {SMALL_FILES: 40.0}


@pytest.mark.parametrize(
    ("seen", "storage"),
    [
        ({"system_cpu": 5.0, "read_bytes": 18e6}, 5.0),
        # 1000 fresh pages at 4 GB/s take 1 ms of it: that is memory for the samples
        ({"system_cpu": 5.0, "read_bytes": 18e6, "minor_faults": 1e6 / 1024}, 4.0),
        ({"system_cpu": 1.0, "read_bytes": 18e6, "minor_faults": 1e6}, 0.0),
        (
            {
                "system_cpu": 5.0,
                "read_bytes": 18e6,
                "collate_cpu": 4.0,
                "collate_system_cpu": 4.0,
            },
            1.0,
        ),
        ({"system_cpu": 5.0, "read_bytes": 18e6, "open": 4.5, "open_cpu": 4.5}, 0.5),
        ({"system_cpu": 5.0}, 0.0),
        # of a mapped file every page is the kernel's work
        ({"system_cpu": 5.0, "major_faults": 1}, 5.0),
    ],
)
def test_what_the_kernel_does_where_files_are_read_is_reading(
    seen: dict[str, float], storage: float
) -> None:
    loader = a_fetcher(wall=50.0, cpu=50.0, **seen)

    found = composed(loader, replace(CALIBRATION, fresh_bytes_per_s=4e9))

    assert found.cpu.get(STORAGE, 0.0) == pytest.approx(storage / 1e3)
    assert sum(found.cpu.values()) == pytest.approx(0.050)
    assert not composed(loader).cpu.get(STORAGE)  # without calibration nobody knows


def test_what_the_kernel_does_while_the_network_is_waited_for_is_receiving() -> None:
    loader = a_fetcher(
        a_site(phase="fetch", state="socket", samples=50), wall=50.0, cpu=10.0, system_cpu=4.0
    )

    found = composed(loader, replace(CALIBRATION, fresh_bytes_per_s=4e9))

    assert found.cpu[NETWORK] == pytest.approx(0.004)


@pytest.mark.parametrize(
    ("copied", "grown", "memory"),
    [(160, 8, {HOST: 8.0}), (40, 120, {GROWTH: 6.0}), (100, 100, {}), (0, 0, {})],
)
def test_the_kernel_works_for_the_pages_that_the_faults_brought(
    copied: int, grown: int, memory: dict[str, float]
) -> None:
    """12 ms in the kernel, 2 of them for collating: its clock said 5, though it used but 2."""
    loader = a_fetcher(
        wall=20.0, cpu=20.0, system_cpu=12.0, collate=2.0, collate_cpu=2.0, collate_system_cpu=5.0
    )
    totals = loader.workers[0].totals
    totals.minor_faults = totals.faults_examined = 200
    totals.copied_pages, totals.grown_pages = copied, grown
    found = composed(loader)

    preparing = {TRANSFORM: 18.0 - sum(memory.values())}
    assert ms(found.cpu) == {**memory, **preparing, HANDOVER: 2.0}


@pytest.mark.parametrize(("excess", "cause"), [(0.01, HANDOVER), (-0.01, COLLATE)])
def test_collating_in_the_kernel_is_the_handover(excess: float, cause: str) -> None:
    kernel = 10 * (HANDOVER_SYSTEM_SHARE + excess)

    found = composed(
        a_fetcher(wall=50.0, cpu=40.0, collate=14.0, collate_cpu=10.0, collate_system_cpu=kernel)
    )

    assert found.cpu[cause] == pytest.approx(0.010)
    assert found.blocked[cause] == pytest.approx(0.004)
    assert len({COLLATE, HANDOVER} & {*found.cpu, *found.blocked}) == 1


@pytest.mark.parametrize("changes", [{}, {"cpu": 90.0}, {"collate_cpu": 80.0}, {"run_delay": 99.0}])
def test_clocks_that_disagree_give_no_negative_time(changes: dict[str, float]) -> None:
    seen: dict[str, Any] = {**BLOCKED, "collate": 5.0, "open": 1.0, "open_cpu": 1.5, **changes}

    found = composed(a_fetcher(**seen), CALIBRATION)

    assert min([*found.cpu.values(), *found.blocked.values()]) >= 0


def test_a_loader_without_a_batch_has_no_composition() -> None:
    assert fetch_composition(a_loader(workers=[])) is None
    assert fetch_composition(a_loader(workers=[Worker(id=0, pid=1, totals=some_totals(0))])) is None


def test_totals_add_up_over_workers_and_keep_what_is_unknown() -> None:
    totals = [
        FetchTotals(batches=2, wall_ns=5 * MS, run_delay_ns=None, read_bytes=None),
        FetchTotals(batches=3, wall_ns=6 * MS, run_delay_ns=None, read_bytes=7),
    ]

    found = fetch_totals(
        a_loader(workers=[Worker(id=i, pid=i, totals=t) for i, t in enumerate(totals)])
    )

    assert (found.batches, found.wall_ns) == (5, 11 * MS)
    assert found.run_delay_ns is None
    assert found.read_bytes == 7


def test_packing_is_no_part_of_the_fetch_but_uses_the_cores() -> None:
    found = composed(a_fetcher(wall=10.0, cpu=10.0, helper_cpu=3.0, packing=8.0, packing_cpu=6.0))

    assert sum(found.wall.values()) == pytest.approx(0.010)
    assert found.packing == pytest.approx(0.008)
    assert found.helpers == pytest.approx(0.006)


def test_the_interpreters_lock_is_no_wait() -> None:
    loader = a_fetcher(
        a_site(phase="fetch", state="lock", samples=90),
        a_site(phase="fetch", state="file", samples=10),
        **BLOCKED,
    )

    assert composed(loader).blocked[STORAGE] == pytest.approx(0.040)


def test_a_pipe_leads_to_a_child_that_works() -> None:
    loader = a_fetcher(a_site(phase="fetch", state="pipe", samples=50), **BLOCKED)

    alone = composed(loader)
    helped = fetch_composition(loader, children=0.030)

    assert alone.blocked[NETWORK] == pytest.approx(0.040)
    assert helped is not None
    assert helped.blocked[TRANSFORM] == pytest.approx(0.040)
    assert helped.helpers == pytest.approx(0.030)


def test_what_new_workers_do_at_their_first_batch_is_start_up() -> None:
    totals = some_totals(batches=40, wall=10, cpu=8)
    # Four of them took 55 and 44 ms, the others 5 and 4.
    firsts = {"firsts": 4, "first_wall_ns": 220 * MS, "first_cpu_ns": 176 * MS}
    workers = [Worker(id=0, pid=1, totals=replace(totals, **firsts))]
    again = composed(a_loader(num_workers=2, workers=workers))
    kept = composed(a_loader(num_workers=4, workers=workers))

    assert ms(again.cpu)["data_loading.worker_startup"] == pytest.approx(4.0)
    assert ms(again.blocked)["data_loading.worker_startup"] == pytest.approx(1.0)
    assert sum(again.wall.values()) == pytest.approx(sum(kept.wall.values()))
    assert "data_loading.worker_startup" not in kept.cpu


def test_first_batches_like_all_others_are_no_start_up() -> None:
    firsts = {"firsts": 4, "first_wall_ns": 40 * MS, "first_cpu_ns": 30 * MS}
    totals = replace(some_totals(batches=40, wall=10, cpu=8), **firsts)
    fetch = composed(a_loader(num_workers=2, workers=[Worker(id=0, pid=1, totals=totals)]))

    assert fetch.cpu.get("data_loading.worker_startup", 0.0) == 0.0
