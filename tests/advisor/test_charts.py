from __future__ import annotations

import random
import re

import pytest
from builders import MS, a_histogram, a_loader, a_profile, some_steps

from stepscope.advisor import charts
from stepscope.profiler.format import Mark, Run, Steps


def long_steps(rows: int, each: int = 1, seed: int = 0) -> Steps:
    chance = random.Random(seed)
    longest = [chance.randrange(20 * MS, 30 * MS) for _ in range(rows)]
    wall = [each * chance.randrange(10 * MS, 20 * MS) for _ in range(rows)]
    steps = some_steps(0, 0)
    steps.first = [each * i for i in range(rows)]
    steps.count = [each] * rows
    steps.wall_ns, steps.wall_max_ns = wall, longest
    return steps


@pytest.mark.parametrize("limit", [1, 7, 400, 4096])
@pytest.mark.parametrize("rows", [1, 2, 399, 401, 4096])
def test_joining_rows_keeps_every_spike_and_the_sum(rows: int, limit: int) -> None:
    steps = long_steps(rows, each=244)
    spike = random.Random(rows).randrange(rows)
    steps.wall_max_ns[spike] = 5000 * MS

    joined = charts.rows(steps, limit)

    assert len(joined) <= limit
    assert max(row.peak for row in joined) == 5000 * MS
    hit = next(row for row in joined if row.peak == 5000 * MS)
    assert hit.start <= steps.first[spike] < hit.stop
    total = sum(row.mean * (row.stop - row.start) for row in joined)
    assert total == pytest.approx(sum(steps.wall_ns))
    assert joined[0].start == 0
    assert joined[-1].stop == 244 * rows


def test_a_spike_is_the_top_of_the_drawn_curve() -> None:
    steps = long_steps(4096)
    steps.wall_max_ns[1234] = 90 * MS
    drawn = charts.timeline(a_profile(warmup=some_steps(0, 0), steady=steps, marks=[]))

    assert drawn is not None
    heights = [float(y) for y in re.findall(r"[,V]([\d.]+)", drawn.peak)]
    assert min(heights) == pytest.approx(100 - 100 / 1.12, abs=0.01)
    assert sum(y == min(heights) for y in heights) == 1


def test_a_sparkline_keeps_the_lowest_and_the_highest_value() -> None:
    values: list[float | None] = [10.0] * 3000
    values[1111], values[2222], values[1500] = 50.0, -30.0, None

    heights = [float(y) for y in re.findall(r",([\d.]+)", charts.sparkline(values))]

    assert (min(heights), max(heights)) == (0.0, 100.0)
    assert len(heights) < 1000


def test_events_are_the_longest_marks_and_what_the_phases_and_epochs_tell() -> None:
    steady = some_steps(20, 214)
    steady.phases["validation"] = [200 * MS * (i % 80 == 59) for i in range(214)]
    marks = [Mark(kind="gc", step=30, time_ns=0, duration_ns=i) for i in range(500)]
    profile = a_profile(steady=steady, marks=marks, loaders=[a_loader(length=80, epochs=3)])

    found = charts.events(profile)

    assert found == sorted(found)
    assert sum(event.kind == "gc" for event in found) == 400
    assert [event.at for event in found if event.kind == "validation"] == [79.5, 159.5]
    assert [(e.at, e.title) for e in found if e.kind == "epoch"] == [
        (80, "epoch 2 begins"),
        (160, "epoch 3 begins"),
    ]


@pytest.mark.parametrize("steps_by", ["steps", "optimizer"])
def test_epochs_are_not_guessed(steps_by: str) -> None:
    run = Run(started_at="t", wall_ns=1, ended="completed", steps_by=steps_by)  # type: ignore[arg-type]
    length = 80 if steps_by == "optimizer" else 1000  # left early: 225 steps are not 3 x 1000

    profile = a_profile(run=run, loaders=[a_loader(length=length, epochs=3)])

    assert not [event for event in charts.events(profile) if event.kind == "epoch"]


def test_the_table_behind_the_timeline_covers_all_steps() -> None:
    drawn = charts.timeline(a_profile())

    assert drawn is not None
    assert drawn.table[0].warmup
    assert drawn.table[0].steps == "0 to 19"
    assert drawn.table[-1].steps.endswith("219")
    assert len(drawn.table) <= 25


def test_the_median_lies_in_the_bar_that_holds_it() -> None:
    steady = some_steps(0, 101)
    drawn = charts.distribution(a_histogram(steady))

    assert drawn is not None
    below = sum(bar.steps for bar in drawn.bars if bar.x + bar.width <= drawn.median)
    assert below <= 50 <= below + max(bar.steps for bar in drawn.bars)
    assert sum(bar.steps for bar in drawn.bars) == 101
