"""Intervals, nesting and the spool against the obvious way to compute the same."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest

from stepscope.advisor.traces.columns import RECORD, Records
from stepscope.advisor.traces.intervals import EMPTY, Intervals, divide, merged
from stepscope.advisor.traces.launches import Launches
from stepscope.advisor.traces.nesting import inherited, innermost, nested
from stepscope.advisor.traces.spool import Spool

SPAN = 400


def some_intervals(random_: random.Random, count: int) -> Intervals:
    starts = np.array([random_.randrange(SPAN) for _ in range(count)], np.int64)
    lengths = np.array([random_.randrange(1, 30) for _ in range(count)], np.int64)
    return merged(starts, starts + lengths)


def moments(intervals: Intervals) -> set[int]:
    return {
        t
        for a, b in zip(intervals.start, intervals.end, strict=True)
        for t in range(int(a), int(b))
    }


@pytest.mark.parametrize("seed", range(20))
def test_each_moment_goes_to_the_first_layer_that_covers_it(seed: int) -> None:
    random_ = random.Random(seed)
    layers = {name: some_intervals(random_, random_.randrange(12)) for name in "abcd"}
    bounds = [50, *sorted(random_.sample(range(51, 300), random_.randrange(6))), 300]
    parts = divide(layers, np.array(bounds, np.int64))
    left = set(range(50, 300))
    for name, intervals in layers.items():
        mine = left & moments(intervals)
        assert parts[name].tolist() == [len(mine & {*range(a, b)}) for a, b in pairwise(bounds)]
        left -= mine


@pytest.mark.parametrize("seed", range(10))
def test_intervals_are_sets_of_moments(seed: int) -> None:
    random_ = random.Random(seed)
    one, other = some_intervals(random_, 15), some_intervals(random_, 9)
    assert moments(one | other) == moments(one) | moments(other)
    assert one.total == len(moments(one))
    assert moments(one.between(20, 200)) == set(range(20, 200)) - moments(one)
    assert moments(one.clipped(20, 200)) == moments(one) & set(range(20, 200))


def test_gaps_up_to_the_slack_are_closed() -> None:
    found = merged(np.array([0, 15, 40]), np.array([10, 20, 50]), slack=5)
    assert list(zip(*found, strict=True)) == [(0, 20), (40, 50)]
    assert merged(EMPTY.start, EMPTY.end) == EMPTY


@pytest.mark.parametrize("seed", range(20))
def test_the_parent_is_the_innermost_event_around(seed: int) -> None:
    random_ = random.Random(seed)
    events: list[tuple[int, int]] = []

    def grow(a: int, b: int, depth: int) -> None:
        events.append((a, b))
        while depth and b - a > 4:
            c = random_.randrange(a, b - 1)
            d = random_.randrange(c + 1, b)
            grow(c, d, depth - 1)
            a = d + 1

    grow(0, 500, 5)
    events.sort(key=lambda e: (e[0], -e[1]))
    start, end = (np.array(column, np.int64) for column in zip(*events, strict=True))
    forest = nested(start, end)
    for i, (a, b) in enumerate(events):
        around = [j for j in range(i) if events[j][0] <= a and b <= events[j][1]]
        assert forest.parent[i] == (around[-1] if around else -1)
        inside = sum(end[j] - start[j] for j in np.flatnonzero(forest.parent == i))
        assert forest.self_time[i] == b - a - inside
    own = np.array([random_.choice([0, 0, 1, 2]) for _ in events], np.int64)
    for i, value in enumerate(inherited(own, forest)):
        j = i
        while own[j] == 0 and forest.parent[j] >= 0:
            j = int(forest.parent[j])
        assert value == own[j]
    course = innermost(start, end, np.arange(len(events)))
    times = np.arange(-2, 503)
    for time, value in zip(times, course.at(times), strict=True):
        around = [j for j, (a, b) in enumerate(events) if a <= time < b]
        assert value == (around[-1] if around else -1)


def some_records(random_: random.Random, count: int) -> Records:
    records = np.zeros(count, RECORD)
    records["start"] = [random_.randrange(10_000) for _ in range(count)]
    records["end"] = records["start"] + [random_.randrange(700) for _ in range(count)]
    records["name"] = range(count)
    return records


def test_windows_hold_what_overlaps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepscope.advisor.traces.spool.RUN", 900)
    random_ = random.Random(1)
    records = some_records(random_, 5000)
    spool = Spool()
    for part in np.array_split(records, 17):
        spool.add(part)
    edges = [500, 900, 4000, 4001, 9000, 20_000]
    seen = list(spool.windows(edges))
    spool.close()
    assert [number for number, *_ in seen] == list(range(len(edges) - 1))
    for number, begin, end, window in seen:
        assert (begin, end) == (edges[number], edges[number + 1])
        inside = records[(records["start"] >= begin) | (records["end"] > begin)]
        inside = inside[inside["start"] < end]
        assert sorted(window["name"]) == sorted(inside["name"])


def test_a_crowded_window_comes_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepscope.advisor.traces.spool._MOST", 1000)
    records = some_records(random.Random(2), 5000)
    spool = Spool()
    spool.add(records)
    pieces = list(spool.windows([0, 10_000]))
    spool.close()
    assert len(pieces) >= 5
    assert {number for number, *_ in pieces} == {0}
    assert [a for _, a, _, _ in pieces[1:]] == [b for _, _, b, _ in pieces[:-1]]
    fresh = sum(int((window["start"] >= begin).sum()) for _, begin, _, window in pieces)
    assert fresh == 5000


def test_calls_are_found_by_correlation_in_later_windows() -> None:
    launches, calls = Launches(), np.zeros(4, RECORD)
    calls["correlation"] = [5, 0, 9, 3]
    calls["start"] = [1, 2, 3, 10]
    tags = np.array([7, 8, 9, 12])
    launches.add(calls[:3], tag=tags[:3])
    launches.add(calls[3:], tag=tags[3:], frame=tags[3:])
    found = launches.of(np.array([9, 3, 0, 8], np.int64))
    assert found["tag"].tolist() == [9, 12, -1, -1]
    assert found["frame"].tolist() == [-1, 12, -1, -1]
    assert found["start"].tolist() == [3, 10, -1, -1]
    assert found["start"].tolist() == [3, 10, -1, -1]
