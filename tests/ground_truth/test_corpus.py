"""Every loop runs, with its cause and without, and leaves nothing behind; never how quickly."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import islice

import psutil
import pytest
import torch

from ground_truth.corpus import LOOPS, Loop
from ground_truth.loop import planted
from ground_truth.neighbours import busy_neighbours
from stepscope.advisor.causes import CAUSES

TUNED = [loop for loop in LOOPS.values() if not loop.held_out]


def test_the_corpus_is_large_enough_to_judge_by() -> None:
    assert sum(loop.kind == "planted" for loop in TUNED) >= 32
    assert sum(loop.kind == "healthy" for loop in TUNED) >= 6


@pytest.mark.parametrize("loop", LOOPS.values(), ids=lambda loop: loop.name)
def test_its_causes_are_leaves_of_the_tree(loop: Loop) -> None:
    named = [*loop.accepted, *([loop.cause] if loop.cause else [])]

    assert set(named) <= set(CAUSES)
    assert len(set(named)) == len(named)
    assert loop.period >= 1


def test_two_loops_of_one_name_are_refused() -> None:
    def gemm(severity: float) -> Iterator[None]:
        yield

    with pytest.raises(ValueError, match="two loops are called gemm"):
        planted("compute.arithmetic")(gemm)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("severity", [1.0, 0.0])
@pytest.mark.parametrize("loop", LOOPS.values(), ids=lambda loop: loop.name)
def test_it_steps_and_leaves_nothing_behind(loop: Loop, severity: float) -> None:
    threads, arithmetic = threading.enumerate(), torch.get_num_threads()
    before = psutil.Process().children(recursive=True)  # of other tests in this process
    program = loop.program(severity)

    steps = list(islice(program, 3))
    descendants = [p for p in psutil.Process().children(recursive=True) if p not in before]
    program.close()  # type: ignore[attr-defined]

    assert len(steps) == 3
    assert torch.get_num_threads() == arithmetic
    assert [thread for thread in threading.enumerate() if lives_on(thread, threads)] == []
    assert still_there(descendants) == []


def test_neighbours_are_nobodys_children_and_end() -> None:
    with busy_neighbours(2) as pids:
        processes = [psutil.Process(pid) for pid in pids]

        assert len(processes) == 2
        assert not set(pids) & {p.pid for p in psutil.Process().children(recursive=True)}

    assert still_there(processes) == []


def lives_on(thread: threading.Thread, known: list[threading.Thread]) -> bool:
    """Whether a new thread has not ended after ten seconds; queues end theirs a little later."""
    if thread not in known:
        thread.join(10)
    return thread not in known and thread.is_alive()


def still_there(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended after ten seconds."""
    left = psutil.wait_procs([p for p in processes if alive(p)], timeout=10)[1]
    return [p for p in left if alive(p)]


def alive(process: psutil.Process) -> bool:
    """False for a zombie too: it waits for whoever adopted it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
