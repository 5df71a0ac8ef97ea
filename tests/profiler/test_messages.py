"""Collectives by kind and size, alone and between two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from loops import record, run_steps
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from stepscope.advisor.inputs import load_input
from stepscope.profiler import messages
from stepscope.profiler.flight import flight_recorder
from stepscope.profiler.format import CollectiveCalls, Profile
from stepscope.profiler.messages import Messages
from stepscope.profiler.storage import load

pytestmark = pytest.mark.skipif(not distributed.is_available(), reason="no torch.distributed")
KIB = 1024


@pytest.fixture
def _alone() -> Iterator[None]:
    store = distributed.HashStore()  # type: ignore[attr-defined]
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def floats(kib: float) -> torch.Tensor:
    return torch.ones(int(kib * KIB / 4))


@pytest.mark.usefixtures("_alone")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_calls_are_told_by_kind_and_size(tmp_path: Path) -> None:
    def step() -> None:
        distributed.all_reduce(floats(4))
        distributed.all_reduce(floats(5), group=distributed.group.WORLD)
        distributed.broadcast(torch.ones(KIB, dtype=torch.bfloat16), src=0)
        distributed.all_gather([floats(8)], floats(8))
        distributed.all_gather_into_tensor(floats(9), floats(9))
        distributed.gather(floats(1), [floats(1)], dst=0)
        distributed.reduce(tensor=floats(2), dst=0)
        distributed.barrier()
        distributed.all_gather_object([None], {"loss": torch.ones(4)})

    result = record(tmp_path / "p.json", lambda prof: run_steps(prof, step, 5), warmup_steps=2)

    rows = result.collective_calls
    assert sorted((row.kind, row.calls, row.bytes or -1) for row in rows) == [
        ("all_gather", 6, 3 * (8 + 9) * KIB),  # of three steady steps
        ("all_gather_object", 3, -1),
        ("all_reduce", 6, 3 * (4 + 5) * KIB),
        ("barrier", 3, -1),
        ("broadcast", 3, 3 * 2 * KIB),
        ("gather", 3, 3 * KIB),
        ("reduce", 3, 3 * 2 * KIB),
    ]
    for row in rows:
        assert (row.ranks, row.asynchronous) == (1, False)
        assert row.device == (None if row.bytes is None else "cpu")
        assert row.time_ns is not None
        assert row.quick_ns is not None
        assert 0 < row.quick_ns < row.time_ns


@pytest.mark.usefixtures("_alone")
def test_waiting_for_handles_belongs_to_what_was_begun(tmp_path: Path) -> None:
    def step() -> None:
        first = distributed.all_reduce(floats(16), async_op=True)
        second = distributed.broadcast(floats(1), 0, async_op=True)
        distributed.all_reduce(floats(64), async_op=True)  # nobody waits for this one
        assert first is not None
        assert second is not None
        second.wait()
        first.wait()

    result = record(tmp_path / "p.json", lambda prof: run_steps(prof, step, 4))

    assert {
        (row.kind, row.bytes): (row.asynchronous, row.calls, row.waits)
        for row in result.collective_calls
    } == {
        ("all_reduce", 4 * 16 * KIB): (True, 4, 4),
        ("broadcast", 4 * KIB): (True, 4, 4),
        ("all_reduce", 4 * 64 * KIB): (True, 4, 0),
    }


def test_the_table_is_bounded_and_sizes_share_rows() -> None:
    table = Messages()
    table._world = 2
    note = table.noting("all_reduce")
    for size in range(1, 5000):
        note((torch.empty(size, dtype=torch.uint8),), {}, None, size)
    rows = table.as_list()
    assert len(rows) == 13
    assert sum(row.calls for row in rows) == 4999
    largest = max(row.bytes or 0 for row in rows)
    assert largest == sum(range(2048, 4096))

    for kind in range(300):
        table.noting(f"kind {kind}")((torch.ones(1),), {}, None, 1)
    assert len(table.as_list()) == 200


def test_a_tenth_of_the_calls_is_quick() -> None:
    table = Messages()
    table._world = 2
    for spent in [1_000_000] * 20 + [50_000_000] * 80:  # late ranks
        table.noting("all_reduce")((torch.ones(1),), {}, None, spent)
    [row] = table.as_list(40)
    assert row.quick_ns == pytest.approx(1_000_000, rel=0.02)
    assert row.median_ns == pytest.approx(50_000_000, rel=0.02)
    usual = (20 * 1_000_000 + 40 * 50_000_000) / 60  # without the longest, one a step
    assert row.usual_ns == pytest.approx(usual, rel=0.02)
    assert table.as_list(100)[0].usual_ns is None


def test_how_sure_that_tenth_is() -> None:
    table = Messages()
    table._world = 2
    for spent in range(1_000_000, 11_000_000, 10_000):
        table.noting("all_reduce")((torch.ones(1),), {}, None, spent)
    # Of 1,000 calls 9.5 more or fewer are below it, 10 us apart; edges of bins are 40 us apart.
    assert table.as_list()[0].quick_error_ns == pytest.approx(95_000, abs=40_000)


@pytest.mark.usefixtures("_alone")
def test_what_cannot_be_sized_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_size(values: Iterable[Any]) -> tuple[int, str | None]:
        raise RuntimeError("no size")

    monkeypatch.setattr(messages, "_size", no_size)
    result = record(
        tmp_path / "p.json",
        lambda prof: run_steps(prof, lambda: distributed.all_reduce(floats(1))),
    )
    assert result.collective_calls == []
    assert "some collectives are not counted" in "".join(result.problems)


@pytest.mark.usefixtures("_alone")
def test_what_ddp_was_told_and_how_it_buckets(tmp_path: Path) -> None:
    layers = [nn.Linear(256, 256, bias=False) for _ in range(8)]
    model = DistributedDataParallel(
        nn.Sequential(*layers), bucket_cap_mb=0.5, gradient_as_bucket_view=True
    )

    def step() -> None:
        model(torch.ones(2, 256)).sum().backward()

    result = record(tmp_path / "p.json", lambda prof: run_steps(prof, step, 12))

    [exchange] = result.collectives
    assert exchange.bucket_cap_bytes == KIB * KIB // 2
    assert exchange.buckets == len(exchange.bucket_bytes) == 4
    assert sum(exchange.bucket_bytes) == exchange.gradient_bytes == 8 * 256 * KIB
    assert exchange.rebuilt is True
    assert exchange.gradient_as_bucket_view is True
    assert exchange.static_graph is False
    assert exchange.first_bucket_ns is not None
    assert exchange.first_bucket_ns > 0


# The flight recorder ------------------------------------------------------------------------------


def entry(name: str, *, duration_ms: float | None = None, **changes: Any) -> dict[str, Any]:
    """As `_dump_nccl_trace_json` writes it."""
    found = {
        "profiling_name": name,
        "process_group": ["1", "data"],
        "input_sizes": [[256, 1024]],
        "input_dtypes": ["BFloat16"],
        "output_sizes": [[512, 1024]],
        "output_dtypes": ["BFloat16"],
        "time_created_ns": 5_000_000_000,
        "time_discovered_completed_ns": 0,
        "state": "completed",
        "is_p2p": False,
    }
    return found | changes | ({} if duration_ms is None else {"duration_ms": duration_ms})


@pytest.mark.usefixtures("_alone")
def test_what_nccl_has_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dump is made up here: it takes several devices to have a real one."""
    dump = {
        "version": "2.10",
        "pg_config": {"1": {"name": "1", "desc": "data", "ranks": "[0, 1, 2, 3]"}},
        "entries": [
            entry("nccl:_all_gather_base", duration_ms=2.0),
            entry("nccl:_all_gather_base", duration_ms=4.0, time_created_ns=6_000_000_000),
            entry("nccl:_all_gather_base"),  # still under way
            entry("nccl:all_reduce", time_created_ns=1),  # before the recording
            entry("nccl:send 0->1", duration_ms=1.0, input_dtypes=["Float"]),
        ],
    }
    boundary = torch._C._distributed_c10d
    monkeypatch.setattr(
        boundary, "_dump_nccl_trace_json", lambda: json.dumps(dump).encode(), raising=False
    )
    monkeypatch.setattr(boundary, "_dump_fr_trace_json", lambda: b"{}", raising=False)

    found = flight_recorder(2_000_000_000)

    assert found is not None
    assert (found.entries, found.span_ns) == (4, 1_000_000_000)
    made: dict[str, Any] = {"ranks": 4, "device": "cuda", "asynchronous": True}
    assert found.calls == [
        CollectiveCalls(kind="all_gather", calls=2, bytes=2 << 20, time_ns=6_000_000, **made),
        CollectiveCalls(kind="send", calls=1, bytes=1 << 20, time_ns=1_000_000, **made),
        CollectiveCalls(kind="all_gather", calls=1, bytes=1 << 20, **made),
    ]


def test_without_a_group_nothing_is_recorded() -> None:
    assert flight_recorder(0) is None


# Several processes --------------------------------------------------------------------------------

TRAIN = """
    import torch
    from torch import distributed, nn
    from torch.nn.parallel import DistributedDataParallel
    from stepscope.profiler import profile

    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    pair = distributed.new_group([0, 1])

    def train(enabled):
        torch.manual_seed(rank)
        model = DistributedDataParallel(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 8)))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        received = torch.zeros(1024)
        with profile("profile.json", operator_steps=0, enabled=enabled) as prof:
            for x in prof.steps(torch.randn(30, 16, 64)):
                optimizer.zero_grad()
                loss = model(x).square().mean()
                loss.backward()
                optimizer.step()
                distributed.all_reduce(loss.detach())
                parts = torch.randn(2 * 32 * 1024)
                if hasattr(distributed, "reduce_scatter_single"):  # older gloo has none
                    distributed.reduce_scatter_single(torch.empty(32 * 1024), parts, group=pair)
                distributed.all_to_all_single(torch.empty(4096), parts[:4096])
                if rank:
                    distributed.recv(received, src=0)
                else:
                    distributed.send(parts[:1024], dst=1)
                works = distributed.batch_isend_irecv([
                    distributed.P2POp(distributed.isend, torch.ones(2048), 1 - rank),
                    distributed.P2POp(distributed.irecv, torch.empty(2048), 1 - rank),
                ])
                for work in works:
                    work.wait()
        return [*model.parameters(), received]

    pairs = zip(train(True), train(False), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs), "not bit-identical"
    distributed.destroy_process_group()
"""


def test_each_rank_of_torchrun_tells_its_collectives(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(TRAIN))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", str(script)),
        ],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.glob("*.json")) == [
        "profile.rank0.json",
        "profile.rank1.json",
    ]
    for rank in range(2):
        result = load(tmp_path / f"profile.rank{rank}.json")
        assert (result.run.rank, result.run.world_size) == (rank, 2)
        assert_told(result, rank)
    job = load_input(tmp_path)
    assert job.ranks is not None
    assert (job.ranks.count, job.ranks.missing) == (2, 0)
    one_sided = {"send": 10, "recv": 10}  # means of the ranks
    assert {row.kind: row.calls for row in job.collective_calls} == {
        row.kind: one_sided.get(row.kind, 20) for row in job.collective_calls
    }
    assert one_sided.keys() < {row.kind for row in job.collective_calls}
    assert "profiles of 2 of 2 ranks: advise profile.rank*.json" in done.stderr


def assert_told(result: Profile, rank: int) -> None:
    assert result.problems == []
    rows = {row.kind: row for row in result.collective_calls}
    scattered = {"reduce_scatter": (20, 20 * 256 * KIB)}
    if not hasattr(distributed, "reduce_scatter_single"):
        scattered = {}
    assert {kind: (row.calls, row.bytes) for kind, row in rows.items()} == scattered | {
        "all_reduce": (20, 20 * 4),
        "all_to_all": (20, 20 * 16 * KIB),
        "recv" if rank else "send": (20, 20 * 4 * KIB),
        "send_recv": (20, 20 * 16 * KIB),
    }
    assert {row.ranks for row in rows.values()} == {2}
    assert rows["send_recv"].asynchronous
    assert rows["send_recv"].waits == 40
    if result.flight_recorder is not None:  # where this PyTorch records gloo
        recorded = {row.kind for row in result.flight_recorder.calls}
        assert {"all_reduce", "all_to_all"} <= recorded
