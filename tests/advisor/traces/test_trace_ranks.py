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
from stepscope.advisor.inputs import load_input
from stepscope.advisor.messages import bus_factor
from stepscope.advisor.ranks import engines
from stepscope.advisor.ranks.summary import merge
from stepscope.advisor.rule_files import load_knowledge
from stepscope.advisor.traces.ranks import summarise
from stepscope.profiler.storage import ProfileError

DLRM = DATA / "dlrm"
MANY, LATE = 64, 37


def test_the_rank_that_comes_last_is_named() -> None:
    profile = load_input(DLRM)
    assert profile.ranks is not None
    assert (profile.ranks.count, profile.ranks.missing) == (8, 0)
    assert (profile.ranks.stragglers[0].rank, profile.ranks.stragglers[0].collectives) == (7, 5)
    assert any("wait for rank 7" in problem for problem in profile.problems)
    advice = advise(profile, load_knowledge([]))
    shares = {line.cause: line.share for line in advice.breakdown}
    assert shares["communication.straggler"] > shares["communication.collective"] > 0
    assert sum(shares.values()) == pytest.approx(1)


def test_any_grouping_and_order_gives_the_same_bytes() -> None:
    summaries = [summarise(path) for path in sorted(DLRM.iterdir())]
    expected = msgspec.json.encode(reduce(merge, summaries))
    halves = merge(reduce(merge, summaries[4:]), reduce(merge, summaries[:4]))
    shuffled = random.Random(0).sample(summaries, len(summaries))
    assert msgspec.json.encode(halves) == expected
    assert msgspec.json.encode(reduce(merge, shuffled)) == expected


def test_a_trace_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    content = (DLRM / "dlrm_rank3.json.gz").read_bytes()
    for name in ("a.json.gz", "b.json.gz"):
        (tmp_path / name).write_bytes(content)
    assert load_input(tmp_path).ranks is None


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
    ranks = load_input(folder, engine).ranks
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
    with pytest.raises(ProfileError, match="choose one of processes, dask"):
        load_input(DLRM, engine)


def test_a_missing_rank_is_told(tmp_path: Path) -> None:
    for rank in (0, 1):
        name = f"dlrm_rank{rank}.json.gz"
        (tmp_path / name).write_bytes((DLRM / name).read_bytes())
    (tmp_path / "other.json").write_text(json.dumps({"schema": "stepscope.profile/1"}))
    ranks = load_input(tmp_path).ranks
    assert ranks is not None
    assert (ranks.count, ranks.missing) == (2, 6)


def exchanging(rank: int, slow: tuple[int, ...]) -> list[dict[str, object]]:
    """Three steps with an all-reduce of 4 MB in the rank's pair, which takes a slow one longer."""
    first = rank // 2 * 2
    events = []
    for i in range(3):
        start, number = 1000.0 * i, 10 * i + 1
        kernel = work("ncclDevKernel_AllReduce_Sum_f32_RING_LL", number, start + 100, 100)
        # The second of the pair comes 50 us late.
        kernel["ts"] = start + 100 + 50 * (rank % 2)
        kernel["dur"] = (400 if first in slow else 100) + 50 * (1 - rank % 2)
        kernel["args"] |= {
            "Collective name": "allreduce",
            "In msg nelems": 1 << 20,
            "Out msg nelems": 1 << 20,
            "Group size": 2,
            "dtype": "Float",
            "Process Group Name": str(first),
            "Process Group Ranks": f"[{first}, {first + 1}]",
        }
        events += [step(i, start, 1000), host("aten::mm", start + 10, 90)]
        events += [launch(number, start + 20), kernel]
    return events


@pytest.mark.parametrize("slow", [(), (4,)])
def test_a_slow_link_is_named_with_its_bandwidth(tmp_path: Path, slow: tuple[int, ...]) -> None:
    for rank in range(8):
        info = {"rank": rank, "world_size": 8, "backend": "nccl"}
        name = f"node{rank // 4}_{rank}.123.pt.trace.json"
        write(tmp_path / name, document(exchanging(rank, slow), distributedInfo=info))

    profile = load_input(tmp_path)

    assert profile.ranks is not None
    links = profile.ranks.links
    assert len(links) == 4
    usual = (4 << 20) / 100e-6  # and for two ranks the bus carries as much
    assert links[-1].bus_bytes_per_s == pytest.approx(usual)
    named = [words for words in profile.problems if words.startswith("Slow link")]
    if slow:
        assert (links[0].ranks, links[0].hosts, links[0].calls) == ([4, 5], ["node1"], 3)
        assert links[0].bus_bytes_per_s == pytest.approx(usual / 4)
        assert "allreduce of ranks 4 to 5 on node1 moves 10.5 GB/s" in named[0]
    else:
        assert named == []


@pytest.mark.parametrize(
    ("collective", "ranks", "factor"),
    [
        ("allreduce", 4, 1.5),
        ("_reduce_scatter_base", 4, 0.75),
        ("all_gather_into_tensor_coalesced", 8, 0.875),
        ("all_to_allv", 2, 0.5),
        ("broadcast", 8, 1.0),
        ("send", 2, 1.0),
    ],
)
def test_bus_bandwidth_is_that_of_nccl_tests(collective: str, ranks: int, factor: float) -> None:
    assert bus_factor(collective, ranks) == factor
