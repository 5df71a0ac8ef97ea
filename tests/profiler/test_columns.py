from __future__ import annotations

import math
import random

import pytest

from stepscope.profiler.columns import GROWTH, LogHistogram, SampledRows, SummedRows


def _filled(rows: int, capacity: int) -> tuple[SummedRows, list[list[int]]]:
    chance = random.Random(rows * 1000 + capacity)
    table = SummedRows(
        ["first", "count", "wall", "peak"], capacity, maxima=["peak"], firsts=["first"]
    )
    given = []
    for i in range(rows):
        wall = chance.randrange(1, 10**9)
        given.append([i, 1, wall, wall])
        table.append([i, 1, wall, wall])
    return table, given


@pytest.mark.parametrize("capacity", [2, 8, 64])
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 7, 8, 9, 63, 64, 65, 1000, 4099])
def test_every_row_is_in_exactly_one_merged_row(rows: int, capacity: int) -> None:
    table, given = _filled(rows, capacity)
    columns = table.as_lists()

    assert table.rows < capacity
    assert all(len(column) <= capacity for column in columns.values())
    assert sum(columns["count"]) == rows
    assert sum(columns["wall"]) == sum(row[2] for row in given)
    begin = 0
    for first, count, wall, peak in zip(*columns.values(), strict=True):
        members = given[begin : begin + count]
        assert first == begin
        assert wall == sum(row[2] for row in members)
        assert peak == max(row[3] for row in members)
        begin += count
    assert begin == rows


def test_one_spike_among_a_million_rows_is_kept() -> None:
    table = SummedRows(["sum", "peak"], 256, maxima=["peak"])
    for i in range(1_000_000):
        table.append([1, 10**9 if i == 543_210 else 5])
    columns = table.as_lists()

    assert sum(columns["sum"]) == 1_000_000
    assert max(columns["peak"]) == 10**9
    assert sorted(columns["peak"])[-2] == 5
    assert len(columns["sum"]) <= 256


@pytest.mark.parametrize("seed", range(5))
def test_columns_may_be_inserted_at_any_time(seed: int) -> None:
    chance = random.Random(seed)
    table = SummedRows(["a", "peak"], 8, maxima=["peak"])
    sums = {"a": 0, "peak": 0}
    peak = 0
    for i in range(3000):
        if i % 331 == chance.randrange(331) or i in (1, 8, 9, 17):
            position = chance.randrange(len(table.names) + 1)
            table.insert_column(position, f"late{i}")
            sums[f"late{i}"] = 0
        row = [chance.randrange(1000) for _ in table.names]
        for name, value in zip(table.names, row, strict=True):
            sums[name] += value
        peak = max(peak, row[table.names.index("peak")])
        table.append(row)
        if i % 97 == 0:  # reading must not disturb anything
            table.as_lists()
    columns = table.as_lists()

    assert list(columns) == table.names
    assert len({len(column) for column in columns.values()}) == 1
    assert max(columns.pop("peak")) == peak
    assert {name: sum(column) for name, column in columns.items()} == {
        name: total for name, total in sums.items() if name != "peak"
    }


def test_rows_before_an_inserted_column_hold_zero() -> None:
    table = SummedRows(["a"], 8)
    table.append([1])
    table.append([2])
    table.insert_column(0, "b")
    table.append([7, 3])

    assert table.as_lists() == {"b": [0, 0, 7], "a": [1, 2, 3]}


def test_a_column_may_be_inserted_while_a_row_is_unfinished() -> None:
    table = SummedRows(["a"], 2)
    for value in (1, 2, 3):  # 1 and 2 were merged, 3 waits for its neighbour
        table.append([value])
    table.insert_column(1, "b")
    assert table.as_lists() == {"a": [3, 3], "b": [0, 0]}

    table.append([4, 9])
    assert table.as_lists() == {"a": [10], "b": [9]}


@pytest.mark.parametrize("rows", [0, 1, 15, 16, 17, 500])
def test_sampled_rows_are_evenly_spaced(rows: int) -> None:
    table = SampledRows(2, capacity=16)
    for i in range(rows):
        table.append((i, -i))
    kept, negated = table.columns()

    assert len(kept) <= 16
    assert kept == list(range(0, rows, table.stride))
    assert negated == [-i for i in kept]
    assert rows < 16 * table.stride


def test_quantiles_of_the_histogram_are_exact_to_one_percent() -> None:
    chance = random.Random(7)
    values = sorted(int(chance.lognormvariate(17, 1.5)) + 1 for _ in range(20_000))
    histogram = LogHistogram()
    for value in values:
        histogram.add(value)

    assert sum(histogram.counts.values()) == len(values)
    for share in (0.01, 0.1, 0.5, 0.9, 0.99, 0.999):
        rank = int(share * len(values))
        seen = 0
        for index in sorted(histogram.counts):
            seen += histogram.counts[index]
            if seen > rank:
                estimate = GROWTH ** (index + 0.5)
                break
        assert math.isclose(estimate, values[rank], rel_tol=0.0101)


def test_histogram_bins_hold_what_the_format_says() -> None:
    for value in (1, 2, 3, 10, 999, 10**6, 10**9, 10**12):
        histogram = LogHistogram()
        histogram.add(value)
        (index,) = histogram.counts
        assert GROWTH**index * 0.999999 <= value < GROWTH ** (index + 1) * 1.000001


def test_the_histogram_counts_impossible_values_too() -> None:
    histogram = LogHistogram()
    histogram.add(0)
    histogram.add(-5)
    assert histogram.counts == {0: 2}
