"""Whose link is slow, from connections that both ends have counted."""

from __future__ import annotations

from itertools import permutations

import pytest
from builders import MS, a_run

from stepscope.advisor.advise import advise
from stepscope.advisor.facts import facts_of
from stepscope.advisor.link_rates import with_link
from stepscope.advisor.measure import measure
from stepscope.advisor.ranks.connections import (
    HEADER_BYTES,
    Connections,
    connections_of,
    joined,
    rank_links,
)
from stepscope.advisor.rule_files import load_knowledge
from stepscope.profiler.format import Connection, Profile, RankLink, Ranks

STEPS, SEGMENT = 100, 1448
BYTES = STEPS * 1000 * SEGMENT
FAST_MS, SLOW_MS = 2.0, 40.0


def rank_in_ring(rank: int, world: int, busy_ms: float, *, filled: float = 1.0) -> Profile:
    """It sends to the next rank, and is sent as much by the one before."""
    profile = a_run({"backward": 10.0})
    profile.run.rank, profile.run.world_size = rank, world

    def port(sender: int, at: int) -> str:
        return f"10.0.0.{at}:{7000 + sender}"

    following, before = (rank + 1) % world, (rank - 1) % world
    profile.connections = [
        Connection(
            local=port(rank, rank),
            peer=port(rank, following),
            steps=STEPS,
            sent_bytes=round(BYTES * filled),
            received_bytes=5000,
            busy_ns=round(busy_ms * MS * STEPS),
            segments=BYTES // SEGMENT,
            segment_bytes=SEGMENT,
        ),
        Connection(
            local=port(before, rank),
            peer=port(before, before),
            steps=STEPS,
            sent_bytes=5000,
            received_bytes=BYTES,
            busy_ns=MS,
            segments=100,
            segment_bytes=SEGMENT,
        ),
    ]
    return profile


def links(profiles: list[Profile]) -> list[RankLink]:
    whole: Connections = {}
    for profile in profiles:
        whole = joined(whole, connections_of(profile))
    return rank_links(whole)


def ring(world: int, slow: int | None) -> list[Profile]:
    """What goes to a rank behind a slow link, and what comes from it, takes long."""
    return [
        rank_in_ring(rank, world, SLOW_MS if slow in (rank, (rank + 1) % world) else FAST_MS)
        for rank in range(world)
    ]


@pytest.mark.parametrize("world", [3, 4, 8])
def test_the_rank_is_named_whose_every_exchange_is_slow(world: int) -> None:
    found = links(ring(world, slow=1))

    slow = [link for link in found if link.usual_bytes_per_s is not None]
    assert [link.rank for link in slow] == [1]
    carried = (BYTES + BYTES // SEGMENT * HEADER_BYTES) / STEPS
    assert slow[0].bytes_per_s == pytest.approx(carried / (SLOW_MS / 1e3))
    assert slow[0].usual_bytes_per_s == pytest.approx(carried / (FAST_MS / 1e3))
    assert slow[0].busy_ns == SLOW_MS * MS


def test_links_alike_are_nobodys_fault() -> None:
    assert all(link.usual_bytes_per_s is None for link in links(ring(4, slow=None)))


def test_of_two_ranks_nobody_can_tell_whose_link_it_is() -> None:
    found = links([rank_in_ring(0, 2, SLOW_MS), rank_in_ring(1, 2, SLOW_MS)])

    assert [link.rank for link in found] == [0, 1]
    assert all(link.usual_bytes_per_s is None for link in found)


def test_small_messages_tell_nothing_of_bandwidth() -> None:
    assert links([rank_in_ring(rank, 4, SLOW_MS, filled=0.1) for rank in range(4)]) == []


def test_what_one_rank_has_with_others_than_ranks_is_no_link() -> None:
    assert links([rank_in_ring(0, 4, SLOW_MS)]) == []


def test_any_order_gives_the_same() -> None:
    profiles = ring(4, slow=2)
    expected = links(profiles)

    assert all(links(list(order)) == expected for order in permutations(profiles))


def test_loopback_of_different_hosts_is_not_the_same() -> None:
    profiles = [rank_in_ring(rank, 2, SLOW_MS) for rank in range(2)]
    for profile, host in zip(profiles, ("a", "b"), strict=True):
        profile.environment.host = host
        for each in profile.connections:
            each.local = "127.0.0.1:1" if profile is profiles[0] else "127.0.0.1:2"
            each.peer = "127.0.0.1:2" if profile is profiles[0] else "127.0.0.1:1"

    assert links(profiles) == []


def job(exposed_ms: float) -> Profile:
    """A step of 20 ms and what nothing hides of an exchange that takes 40 ms."""
    profile = a_run({"forward": 20.0, "collective": exposed_ms})
    profile.run.world_size = 4
    profile.ranks = Ranks(count=4, rank_links=links(ring(4, slow=1)))
    return profile


@pytest.mark.parametrize(
    ("exposed", "left"),
    [
        (40.0, 4.0),  # all of it is waited for, and ten times as fast
        (60.0, 24.0),  # 20 ms of it are not the link's
        (10.0, 1.0),  # the rest is hidden, and stays so
    ],
)
def test_a_faster_link_shortens_what_is_on_its_way(exposed: float, left: float) -> None:
    profile = job(exposed)
    stages = measure(profile).stages
    link = links(ring(4, slow=1))[0]

    after = with_link(stages, link, 10 * link.bytes_per_s)

    assert after.main["communication.collective"] == pytest.approx(left / 1e3)
    assert after.seconds() == pytest.approx((20 + left) / 1e3, rel=0.01)


def test_the_slow_link_is_said_and_its_mending_comes_first() -> None:
    profile = job(40.0)

    advice = advise(profile, load_knowledge())

    facts = facts_of(profile, measure(profile))
    assert (facts["ranks.slow_link"], facts["ranks.slow_links"]) == ("1", 1)
    assert advice.verdict.cause == "communication.collective"
    assert "The link of rank 1 carries 303 Mbit/s, those of the others 6.06 Gbit/s." in (
        advice.verdict.sentence
    )
    assert advice.plan[0].method == "sy-even-links"
    assert advice.plan[0].predicted.speedup == pytest.approx(60 / 22, rel=0.02)
    assert "slow_link" in {finding.rule for finding in advice.findings}
