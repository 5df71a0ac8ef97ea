"""Many ranks are one job: who keeps whom waiting, and the same answer in any order."""

from __future__ import annotations

import gzip
import json
import random
from functools import reduce
from pathlib import Path

import msgspec
import pytest
from trace_documents import DATA, document, host, launch, step, work, write

from stepscope.advisor.advise import advise
from stepscope.advisor.rule_files import load_knowledge
from stepscope.advisor.traces import engines
from stepscope.advisor.traces.engines import load_ranks
from stepscope.advisor.traces.errors import TraceError
from stepscope.advisor.traces.ranks import job_of, merge, summarise

DLRM = DATA / "dlrm"
MANY, LATE = 64, 37


def test_the_rank_that_comes_last_is_named() -> None:
    profile = load_ranks(DLRM)
    assert profile.ranks is not None
    assert (profile.ranks.count, profile.ranks.missing) == (8, 0)
    assert (profile.ranks.stragglers[0].rank, profile.ranks.stragglers[0].collectives) == (7, 5)
    assert any("wait for rank 7" in problem for problem in profile.problems)
    advice = advise(profile, load_knowledge([]))
    shares = {line.cause: line.share for line in advice.breakdown}
    assert shares["communication.straggler"] > shares["communication.collective"] > 0
    assert sum(shares.values()) == pytest.approx(1)


def test_merging_does_not_depend_on_the_order() -> None:
    summaries = [summarise(path) for path in sorted(DLRM.iterdir())]
    halves = merge(reduce(merge, summaries[4:]), reduce(merge, summaries[:4]))
    shuffled = random.Random(0).sample(summaries, len(summaries))
    expected = job_of(reduce(merge, summaries))
    for other in (halves, reduce(merge, shuffled)):
        found = job_of(other)
        assert found.ranks == expected.ranks
        assert found.steady == expected.steady
        assert found.trace is not None
        assert expected.trace is not None
        assert found.trace.categories == expected.trace.categories


def test_a_trace_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    content = (DLRM / "dlrm_rank3.json.gz").read_bytes()
    for name in ("a.json.gz", "b.json.gz"):
        (tmp_path / name).write_bytes(content)
    assert load_ranks(tmp_path).ranks is None


def test_a_summary_does_not_grow_with_the_ranks() -> None:
    one = [summarise(path) for path in sorted(DLRM.iterdir())]
    sizes = []
    for ranks in (8, 256):
        several = []
        for i in range(ranks):
            copy = msgspec.json.decode(msgspec.json.encode(one[i % 8]), type=type(one[0]))
            copy.files = [(i, 0)]
            several.append(copy)
        sizes.append(len(msgspec.json.encode(reduce(merge, several))))
    assert sizes[1] < 1.1 * sizes[0]


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """64 ranks, each a few steps of the same work; one is late to every collective."""
    for rank in range(MANY):
        events = []
        for i in range(3):
            late = 300 if rank == LATE else 0
            start, number = 1000.0 * i, 10 * i + 1
            events += [
                step(i, start, 1000),
                host("aten::mm", start + 10, 90),
                launch(number, start + 20),
                work("ampere_sgemm_128x64_tn", number, start + 100, 300 + late),
                launch(number + 1, start + 60),
                work("ncclDevKernel_AllReduce", number + 1, start + 400 + late, 400 - late),
            ]
        info = {"rank": rank, "world_size": MANY, "backend": "nccl"}
        path = write(tmp_path / f"{rank}.json", document(events, distributedInfo=info))
        Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    return tmp_path


def check(folder: Path, engine: str) -> None:
    ranks = load_ranks(folder, engine).ranks
    assert ranks is not None
    assert ranks.count == MANY
    assert [straggler.rank for straggler in ranks.stragglers] == [LATE]
    assert ranks.stragglers[0].collectives == 3
    assert ranks.slowest == LATE
    assert ranks.transfer_ns == 3 * 100_000


def test_in_several_processes(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_WORTH_A_PROCESS", 1)
    monkeypatch.setattr(engines, "_processors", lambda: 2)
    check(many, "processes")


@pytest.mark.filterwarnings("ignore")  # of the cluster's own parts
def test_on_a_dask_cluster(many: Path) -> None:
    distributed = pytest.importorskip(
        "dask.distributed", reason="needs pip install 'stepscope[dask]'"
    )
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as cluster:
        check(many, f"dask={cluster.scheduler_address}")


@pytest.mark.parametrize("engine", ["spark", ""])
def test_an_unknown_engine_is_named(engine: str) -> None:
    with pytest.raises(TraceError, match="choose one of processes, dask"):
        load_ranks(DLRM, engine)


def test_a_missing_rank_is_told(tmp_path: Path) -> None:
    for rank in (0, 1):
        name = f"dlrm_rank{rank}.json.gz"
        (tmp_path / name).write_bytes((DLRM / name).read_bytes())
    (tmp_path / "other.json").write_text(json.dumps({"schema": "stepscope.profile/1"}))
    ranks = load_ranks(tmp_path).ranks
    assert ranks is not None
    assert (ranks.count, ranks.missing) == (2, 6)
