"""Summaries of ranks add up in any grouping and order to the same bytes, in bounded memory."""

from __future__ import annotations

import random
from functools import reduce
from pathlib import Path

import msgspec
import pytest
from builders import MS, a_histogram, a_profile, a_run, even_steps, some_steps

from stepscope.advisor.ranks.calls import calls_of, mean_calls
from stepscope.advisor.ranks.calls import joined as joined_calls
from stepscope.advisor.ranks.heat import COLUMNS, ROWS, heat_map
from stepscope.advisor.ranks.job import count_of, job_of
from stepscope.advisor.ranks.profiles import BINS, exchange_of, summary_of
from stepscope.advisor.ranks.sketches import added, counted, kept, middle
from stepscope.advisor.ranks.summary import Summary, merge
from stepscope.advisor.ranks.timeline import timeline_of
from stepscope.profiler.format import (
    Collective,
    CollectiveCalls,
    Environment,
    Meetings,
    Profile,
    Steps,
)


def a_rank(chance: random.Random, rank: int, world: int = 40) -> Profile:
    """A rank that has recorded some of the steps, in rows of one or several, and some signals."""
    first, count = chance.choice([(10, 50), (0, 700), (30, 3000)])
    width = chance.choice([1, 1, 4])
    own = [chance.randrange(MS, 9 * MS) for _ in range(count // width)]
    backward = [chance.randrange(MS, 9 * MS) for _ in own]
    wall = [a + b for a, b in zip(own, backward, strict=True)]
    steady = Steps(
        first=list(range(first, first + width * len(own), width)),
        count=[width] * len(own),
        wall_ns=wall,
        wall_max_ns=wall,
        run_delay_ns=chance.choice([None, [chance.randrange(MS) for _ in own]]),
        phases={"python": own, "backward": backward},
        calls={"checkpoints": [chance.randrange(2) for _ in own]},
    )
    exchange = Collective(
        gradient_bytes=100, buckets=1, communication_ns=MS, overlap_ns=0, backward_ns=MS
    )
    profile = a_run(
        {"python": 1.0},
        steady=steady,
        step_time=a_histogram(steady),
        collectives=chance.choice([[exchange], [exchange], []]),
        problems=chance.sample(["one", "two", "three"], chance.randrange(3)),
    )
    profile.environment.host = f"host{rank % 3}"
    profile.run.rank, profile.run.world_size = rank, world
    profile.run.job = chance.choice([None, "one", "two", "three"])
    profile.collective_calls = [
        CollectiveCalls(
            kind=kind,
            ranks=world,
            calls=chance.randrange(1, 100),
            bytes=chance.choice([None, chance.randrange(10**6)]),
            time_ns=chance.randrange(MS),
            median_ns=chance.choice([None, chance.randrange(MS)]),
            quick_ns=chance.choice([None, chance.randrange(MS)]),
        )
        for kind in chance.sample(["barrier", "all_reduce", "broadcast"], 2)
    ]
    met = sorted(chance.sample(range(first, first + count), 40))
    profile.meetings = Meetings(
        clock=f"clock{rank % 5}",
        origin_ns=chance.randrange(10**18),
        steps=met,
        ends_ns=sorted(chance.randrange(10**9) for _ in met),
    )
    return profile


def summary(profile: Profile, capacity: int = BINS) -> Summary:
    return summary_of(
        profile, profile.steady, exchange_of(profile, profile.steady), capacity=capacity
    )


def encoded(found: Summary) -> bytes:
    return msgspec.json.encode(found)


@pytest.mark.parametrize("seed", range(6))
def test_any_grouping_and_order_gives_the_same_bytes(seed: int) -> None:
    chance = random.Random(seed)
    ranks = chance.sample(range(40 if seed < 3 else 5000), 12)
    leaves = [summary(a_rank(chance, rank, 5000), capacity=64) for rank in ranks]
    expected = encoded(reduce(merge, leaves))
    for _ in range(4):
        parts = leaves.copy()
        while len(parts) > 1:  # any two, in any order
            chance.shuffle(parts)
            parts.append(merge(parts.pop(), parts.pop()))
        assert encoded(parts[0]) == expected


def test_a_summary_does_not_grow_with_the_ranks() -> None:
    chance = random.Random(1)
    profile = a_rank(chance, 0)
    sizes = []
    for ranks in (128, 512):
        whole: Summary | None = None
        for rank in range(ranks):
            profile.run.rank = rank
            leaf = summary(profile, 64)
            whole = leaf if whole is None else merge(whole, leaf)
        assert whole is not None
        sizes.append(len(encoded(whole)) - whole.ranks.bit_length() // 8)
    assert sizes[1] < 1.1 * sizes[0]


def test_collectives_are_means_of_the_ranks_and_as_quick_as_on_the_last_to_come() -> None:
    def a_row(kind: str, calls: int, time_ms: int, quick_ms: int) -> CollectiveCalls:
        return CollectiveCalls(
            kind=kind,
            ranks=4,
            device="cpu",
            calls=calls,
            bytes=1000 * calls,
            time_ns=time_ms * MS,
            median_ns=time_ms * MS // calls,
            quick_ns=quick_ms * MS,
        )

    tables = [calls_of([a_row("all_reduce", 10, 20, 1)]) for _ in range(3)]
    tables.append(calls_of([a_row("all_reduce", 10, 4, 0), a_row("broadcast", 1, 8, 8)]))
    reduced, sent = mean_calls(reduce(joined_calls, tables), 4)
    assert (reduced.calls, reduced.bytes, reduced.time_ns) == (10, 10_000, 16 * MS)
    assert (reduced.median_ns, reduced.quick_ns) == (1.6 * MS, 0)
    assert (sent.calls, sent.bytes, sent.time_ns) == (1, 1000, 2 * MS)


def test_names_that_stay_have_exact_sums() -> None:
    chance = random.Random(0)
    tables = [{f"n{chance.randrange(50)}": 1 for _ in range(20)} for _ in range(30)]

    def both(a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
        return kept({name: a.get(name, 0) + b.get(name, 0) for name in a | b}, 10)

    whole = reduce(both, tables)
    assert len(whole) == 10
    for name, count in whole.items():
        assert count == sum(table.get(name, 0) for table in tables)


def test_medians_are_known_to_one_percent() -> None:
    values = [random.Random(0).randrange(1000, 10**9) for _ in range(101)]
    found = middle(reduce(added, map(counted, values)))
    assert found == pytest.approx(sorted(values)[50], rel=0.011)
    assert middle({}) is None


def test_a_million_steps_fit_into_the_bins_and_add_up() -> None:
    steps = even_steps({"python": 1.0}, 4096)
    steps.first = [10 + 256 * i for i in range(4096)]
    steps.count = [256] * 4096
    found = timeline_of(steps, BINS)
    assert BINS / 2 < found.bins <= BINS
    assert sum(found.columns["steps"]) == 4096 * 256
    assert sum(found.columns["phases.python"]) == 4096 * MS


def test_of_thousands_of_ranks_a_slow_one_and_a_spike_stay_visible() -> None:
    whole: Summary | None = None
    for rank in range(1800, 2056):
        steps = even_steps({"python": 30.0 if rank == 1999 else 10.0}, 300, first=50)
        if rank == 2050:
            steps.wall_ns = steps.wall_ns.copy()
            steps.wall_ns[123] = 500 * MS
        profile = a_profile(steady=steps)
        profile.run.rank = rank
        leaf = summary_of(profile, steps, None, capacity=BINS)
        whole = leaf if whole is None else merge(whole, leaf)
    assert whole is not None
    found = heat_map(whole.heat, "step")
    assert found is not None
    assert len(found.mean_ns) <= ROWS * COLUMNS
    hottest = max(range(len(found.mean_ns)), key=lambda i: found.longest_ns[i] or 0)
    assert (found.longest_ns[hottest], found.longest_rank[hottest]) == (500 * MS, 2050)
    step = found.first_step + hottest % found.columns * found.steps_per_column
    assert step <= 50 + 123 < step + found.steps_per_column
    slow = [i for i, who in enumerate(found.longest_rank) if who == 1999]
    assert len(slow) >= found.columns - 1
    job = job_of(whole)
    assert job.ranks is not None
    assert (job.ranks.slowest, job.ranks.count) == (1999, 256)


def test_ranks_that_ended_early_and_other_hosts(tmp_path: Path) -> None:
    several = []
    for rank in range(4):
        profile = a_profile(steady=some_steps(20, 200 if rank else 50))
        profile.run.rank, profile.run.world_size = rank, 6
        profile.environment = Environment(
            python="3", torch="2", platform="x", host="slow" if rank < 2 else "fast"
        )
        several.append(summary_of(profile, profile.steady, None, capacity=BINS))
    job = job_of(reduce(merge, several))
    assert count_of(reduce(merge, several)) == 4
    assert job.steady.total == 200
    assert job.ranks is not None
    assert (job.ranks.missing, job.ranks.missing_ranks) == (2, [4, 5])
    assert {host.host: host.ranks for host in job.ranks.hosts} == {"slow": 2, "fast": 2}
    assert any("2 ranks of the job have no record here: 4, 5" in words for words in job.problems)
