from __future__ import annotations

import pytest
from builders import MS, a_loader, a_run, even_steps, some_batches

from stepscope.advisor.shapes import fetch_shape, main_shapes
from stepscope.advisor.trainer import Trainer
from stepscope.profiler.format import Loader, Steps

CHECKPOINT = "host.checkpoint"
TRAINER = Trainer(a_run({"forward": 10.0}))


def stopping(stops_ms: dict[int, float], count: int = 100) -> Steps:
    """Steps of 10 ms, and the stops at some of them."""
    steps = even_steps({"forward": 10.0}, count)
    steps.phases["checkpoint"] = [round(stops_ms.get(i, 0.0) * MS) for i in range(count)]
    steps.wall_ns = [10 * MS + stop for stop in steps.phases["checkpoint"]]
    return steps


def test_what_varies_has_a_shape_of_mean_one_and_what_does_not_has_none() -> None:
    steps = stopping(dict.fromkeys(range(9, 100, 10), 200.0))

    shapes = main_shapes(steps, TRAINER)

    assert set(shapes) == {CHECKPOINT}
    assert list(shapes[CHECKPOINT][:10]) == pytest.approx([0.0] * 9 + [10.0])
    assert sum(shapes[CHECKPOINT]) == pytest.approx(100)


def test_what_varies_by_less_than_the_steps_notice_is_even() -> None:
    assert main_shapes(stopping(dict.fromkeys(range(0, 100, 10), 1.0)), TRAINER) == {}


def test_of_a_long_run_its_middle_is_replayed() -> None:
    early, late = (stopping({i: 5000.0}, 2000) for i in (3, 1000))

    for steps in (early, late):
        shape = main_shapes(steps, TRAINER)[CHECKPOINT]
        assert len(shape) <= 256
        assert sum(shape) == pytest.approx(len(shape))
        assert max(shape) == pytest.approx(len(shape))  # one stop, also where it lay outside


def test_decimated_rows_count_by_the_step() -> None:
    steps = stopping({5: 400.0}, 10)
    steps.count = [4] * 10
    steps.phases["forward"] = [40 * MS] * 10

    shape = main_shapes(steps, TRAINER)[CHECKPOINT]

    assert shape[5] == pytest.approx(10.0)
    assert sum(shape) == pytest.approx(10)


@pytest.mark.parametrize("rows", [0, 1])
def test_a_single_row_has_no_course(rows: int) -> None:
    assert main_shapes(stopping({0: 100.0}, rows), TRAINER) == {}


def loader(wall_ms: list[float], **columns: list[int]) -> Loader:
    return a_loader(batches=some_batches(wall_ms, **columns))


def test_batches_of_unequal_cost_have_a_shape_of_mean_one() -> None:
    shape = fetch_shape(loader([10.0, 10.0, 100.0] * 50))

    assert sum(shape) == pytest.approx(len(shape))
    assert max(shape) / min(shape) == pytest.approx(10)


def test_equal_batches_have_none() -> None:
    assert fetch_shape(loader([10.0, 10.2, 9.9] * 50)) == (1.0,)
    assert fetch_shape(a_loader(batches=None)) == (1.0,)
    assert fetch_shape(loader([10.0])) == (1.0,)
    assert fetch_shape(loader([0.0] * 20)) == (1.0,)


def test_waiting_for_a_core_is_no_cost_of_the_batch() -> None:
    delays = [0, 0, 90 * MS] * 50

    assert fetch_shape(loader([10.0, 10.0, 100.0] * 50, run_delay_ns=delays)) == (1.0,)


def test_the_first_batches_find_cold_files() -> None:
    assert fetch_shape(loader([500.0] * 5 + [10.0] * 95)) == (1.0,)


def test_batches_are_in_the_order_in_which_they_were_begun() -> None:
    start = [i * MS for i in range(100)]
    wall = [10.0 if i < 50 else 30.0 for i in range(100)]

    forward = fetch_shape(loader(wall, start_ns=start))
    shuffled = fetch_shape(loader(wall[::-1], start_ns=start[::-1]))

    assert forward == shuffled == tuple(sorted(forward))


def test_a_long_series_is_cut() -> None:
    assert len(fetch_shape(loader([10.0, 100.0] * 2000))) <= 256
