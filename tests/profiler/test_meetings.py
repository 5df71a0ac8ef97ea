"""The clocks of machines are compared by the ends of collectives that all ranks have seen."""

from __future__ import annotations

import platform
import random
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rank_processes import run_ranks
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from stepscope.advisor.inputs import load_input
from stepscope.advisor.ranks.clocks import Clocks, clocks_of, joined, offsets
from stepscope.profiler import machine, meetings, profile
from stepscope.profiler.format import Clock, Meetings
from stepscope.profiler.meetings import MOST, MeetingLog

MS = 1_000_000
STEPS = 60
AHEAD = {1: 2500 * MS, 2: -400 * MS}


def as_on_hosts_of_their_own(rank: int) -> None:
    """Each rank seems to have a machine whose clock is set otherwise."""
    real = time.time_ns
    meetings.time = SimpleNamespace(  # type: ignore[assignment, attr-defined]
        time_ns=lambda: real() + AHEAD.get(rank, 0), perf_counter_ns=time.perf_counter_ns
    )
    machine.identity = lambda: f"clock{rank}"
    platform.node = lambda: f"host{rank}"


def train_with_ddp(rank: int) -> None:
    """Gradients are all that is exchanged; rank 1 is late in each step."""
    as_on_hosts_of_their_own(rank)
    distributed.init_process_group("gloo")
    model = DistributedDataParallel(nn.Linear(64, 64))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with profile("ddp/", operator_steps=0) as prof:
        for x in prof.steps(torch.ones(STEPS, 16, 64)):
            model(x).sum().backward()
            optimizer.step()
            if rank == 1:
                time.sleep(0.005)
    with profile("called/", operator_steps=0) as prof:
        for x in prof.steps(torch.ones(STEPS, 16)):
            distributed.broadcast(x, 0)  # the sender leaves it first
            distributed.all_reduce(x)
    distributed.destroy_process_group()


@pytest.mark.skipif(not distributed.is_available(), reason="no torch.distributed")
def test_clocks_of_real_ranks_are_found_to_be_set_as_they_are(tmp_path: Path) -> None:
    codes, stderr = run_ranks(train_with_ddp, 3, tmp_path)

    assert codes == [0, 0, 0], stderr
    for name in ("ddp", "called"):
        job = load_input(tmp_path / name)
        assert job.ranks is not None
        found = {clock.rank: clock for clock in job.ranks.clocks}
        assert {clock.host for clock in found.values()} == {"host0", "host1", "host2"}
        assert found[0].meetings == STEPS - 10
        for rank in range(3):  # the usual one is that of rank 0, in the middle
            off = found[rank].offset_ns - AHEAD.get(rank, 0)
            assert abs(off) < 50 * MS, (name, rank, off)  # the cores may be busy with others
        assert any("The clock of host host1 is 2." in words for words in job.problems)
        assert any("ahead of the others'" in words for words in job.problems)


def a_clock(rank: int, ahead: float, drift: float = 0.0, scatter: float = 0.0) -> Clocks:
    """The clock of a machine, in milliseconds and in seconds per second."""
    chance = random.Random(rank)
    at = [(step, step * 100 * MS) for step in range(200)]
    ends = [round(t * (1 + drift) + (ahead + chance.expovariate(1) * scatter) * MS) for _, t in at]
    first = 1_700_000_000 * 1000 * MS
    steps = [step for step, _ in at]
    told = Meetings(clock=f"c{rank}", origin_ns=first, steps=steps, ends_ns=ends)
    return clocks_of(told, rank, f"host{rank}")


def compared(*clocks: Clocks) -> dict[int, Clock]:
    whole: Clocks = {}
    for clock in clocks:
        whole = joined(whole, clock)
    return {clock.rank: clock for clock in offsets(whole)}


def test_the_clock_that_differs_is_the_wrong_one_even_if_it_is_the_first() -> None:
    found = compared(a_clock(0, 500, scatter=0.2), a_clock(1, 0, scatter=0.2), a_clock(2, 1))
    assert found[0].offset_ns == pytest.approx(499 * MS, abs=0.3 * MS)
    assert abs(found[2].offset_ns) < 0.3 * MS
    assert 0.05 * MS < found[0].uncertainty_ns < 0.6 * MS
    assert all(clock.drift is None for clock in found.values())


def test_drift_is_told_from_scatter() -> None:
    found = compared(a_clock(0, 0, scatter=0.1), a_clock(1, 3, drift=1e-4, scatter=0.1))
    assert found[1].drift == pytest.approx(1e-4, rel=0.1)
    assert found[1].uncertainty_ns < 0.5 * MS  # around the line
    assert found[1].offset_ns == pytest.approx(4 * MS, abs=0.3 * MS)  # in the middle of 20 s


def test_ranks_of_one_machine_are_one_clock_and_the_earliest_of_them_counts() -> None:
    late, early = a_clock(1, 30, scatter=5), a_clock(2, 0)
    late["c2"] = late.pop("c1")
    whole = joined(joined(early, late), a_clock(3, 0))
    found = {clock.rank: clock for clock in offsets(whole)}
    assert found[1].ranks == 2
    assert abs(found[1].offset_ns - found[3].offset_ns) < 0.1 * MS
    assert compared(early) == {}


def test_what_is_kept_is_bounded_and_the_same_on_all_ranks() -> None:
    one, other = MeetingLog(0), MeetingLog(0)
    for step in range(5000):
        one.called(step)
        one.called(step)  # the first of a step counts
        one.exchanged(step)
        if step % 7:
            other.exchanged(step)
            other.called(step)
    here, there = one.result("a"), other.result("b")
    assert here is not None
    assert there is not None
    assert MOST / 2 < len(here.steps) == len(here.ends_ns) <= MOST
    assert set(here.steps) & set(there.steps) == {step for step in here.steps if step % 7}
    assert here.ends_ns == sorted(here.ends_ns)
    one.clear()
    assert one.result("a") is None
