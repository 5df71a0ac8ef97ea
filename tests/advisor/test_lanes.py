from __future__ import annotations

import re

import pytest
from builders import MS, a_loader, some_totals

from stepscope.advisor.lanes import worker_timelines
from stepscope.profiler.format import Batches, Loader, Worker


def two_workers(**changes: object) -> Loader:
    """Worker 0 is on a core half of the time, waits a fifth, is blocked else; 1 is idle half."""
    batches = Batches(
        worker=[0, 0, 1],
        start_ns=[0, 500 * MS, 0],
        wall_ns=[500 * MS] * 3,
        cpu_ns=[250 * MS, 250 * MS, 500 * MS],
        run_delay_ns=[100 * MS, 100 * MS, 0],
    )
    first = some_totals(2, wall=500.0, cpu=250.0, run_delay=100.0)
    second = some_totals(1, wall=500.0, cpu=500.0, run_delay=0.0)
    workers = [Worker(id=i, pid=i, totals=t) for i, t in enumerate((first, second))]
    return a_loader(workers=workers, **{"batches": batches} | changes)


def test_the_parts_of_a_lane_sum_to_the_time_between_first_and_last_batch() -> None:
    (picture,) = worker_timelines([two_workers()])

    assert picture is not None
    assert (picture.start, picture.end) == ("0 s", "1.00 s")
    first, second = picture.lanes
    assert (first.cpu, first.delay, first.blocked, first.idle) == pytest.approx((0.5, 0.2, 0.3, 0))
    assert (second.cpu, second.delay, second.blocked, second.idle) == pytest.approx(
        (0.5, 0, 0, 0.5)
    )


def test_the_areas_are_as_high_as_the_parts_and_end_with_the_batch() -> None:
    (picture,) = worker_timelines([two_workers()])

    assert picture is not None
    first, second = picture.lanes
    assert first.cpu_path == "M0,100H0V50H100V100Z"
    assert first.blocked_path == "M0,100H0V0H100V100Z"
    assert second.cpu_path == "M0,100H0V0H50V100H100V100Z"


def test_kept_batches_stand_for_those_between_them_and_totals_stay_exact() -> None:
    loader = two_workers()
    assert loader.batches is not None
    loader.batches.stride = 3

    (picture,) = worker_timelines([loader])

    assert picture is not None
    assert picture.lanes[0].cpu == pytest.approx(0.5)
    heights = [float(y) for y in re.findall(r"V([\d.]+)", picture.lanes[0].blocked_path)]
    assert min(heights) == 0.0  # three times as much as fits is cut, never drawn beyond the lane


def test_without_single_batches_there_is_no_picture() -> None:
    assert worker_timelines([a_loader()]) == [None]


def test_many_workers_are_counted_when_they_are_not_drawn() -> None:
    ones = [1] * 40
    batches = Batches(
        worker=list(range(40)), start_ns=ones, wall_ns=ones, cpu_ns=ones, run_delay_ns=ones
    )
    (picture,) = worker_timelines([two_workers(batches=batches)])

    assert picture is not None
    assert (len(picture.lanes), picture.left_out) == (32, 8)
