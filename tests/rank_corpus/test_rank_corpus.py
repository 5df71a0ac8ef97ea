"""Real ranks over real links of known rates: a slow one is found, and nothing is left behind.

`bench/rank_accuracy.py` runs the whole corpus and compares gains with what was predicted.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from rank_corpus import judging, network
from rank_corpus.corpus import CASES
from rank_corpus.job import run
from stepscope.advisor.rule_files import load_knowledge

obstacle = network.obstacle()
needs_network = pytest.mark.skipif(obstacle is not None, reason=obstacle or "")


def ours() -> list[str]:
    """Namespaces of networks that this process has made."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return [line for line in listed.stdout.splitlines() if f"-{os.getpid()}-" in line]


@needs_network
def test_a_slow_link_is_found_and_its_rate_estimated(tmp_path: Path) -> None:
    case = CASES["one_slow_link_hidden"]

    run(case, tmp_path, seconds=1.0)

    found = judging.judge(case, tmp_path, load_knowledge())
    assert (found.cause, found.who) == ("communication.collective", "1")
    assert found.bits_per_s is not None
    assert 25e6 < found.bits_per_s < 60e6  # planted are 50; a busy machine takes from it
    assert found.predicted is not None
    assert found.predicted.speedup > 1.5
    assert ours() == []


def fail_inside() -> None:
    with network.network([network.both_ways(1e9)] * 2):
        assert len(ours()) == 3  # and the bridge's
        raise LookupError


@needs_network
def test_a_network_goes_where_its_ranks_fail() -> None:
    with pytest.raises(LookupError):
        fail_inside()

    assert ours() == []


def test_every_case_says_what_is_to_be_found() -> None:
    assert len(CASES) >= 20
    for case in CASES.values():
        assert case.program.__doc__
        assert 2 <= case.world <= 4
        assert case.rank is None or case.rank < case.world
        assert all(rank < case.world for rank in case.slow)
