"""At the end of a run rank 0 has the profiles of all ranks, or says whose are missing."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch
from rank_processes import run_ranks
from torch import distributed

from stepscope.advisor.inputs import load_input
from stepscope.profiler import gathering, launch, profile
from stepscope.profiler.ranks import RankedFile
from stepscope.profiler.storage import load

pytestmark = pytest.mark.skipif(not distributed.is_available(), reason="no torch.distributed")


def some_steps(prof: profile) -> None:
    parameter = torch.ones(4, requires_grad=True)
    for x in prof.steps(torch.ones(20, 4)):
        (parameter * x).sum().backward()


def told(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith("stepscope: profiles of")]


def train_apart(rank: int) -> None:
    """Each rank has a folder of its own; the group is gone before the recordings end."""
    with profile(f"host{rank}/", operator_steps=0) as prof:
        distributed.init_process_group("gloo")
        some_steps(prof)
        distributed.destroy_process_group()
        time.sleep(0.2 * rank)


def test_ranks_that_share_no_folder_send_their_profiles_to_rank_0(tmp_path: Path) -> None:
    codes, stderr = run_ranks(train_apart, 3, tmp_path)

    assert codes == [0, 0, 0], stderr
    assert [told(each) for each in stderr] == [
        ["stepscope: profiles of 3 of 3 ranks: advise host0/profile.rank*.json"],
        [],
        [],
    ]
    gathered = [load(tmp_path / f"host0/profile.rank{rank}.json") for rank in range(3)]
    assert [profile.run.rank for profile in gathered] == [0, 1, 2]
    assert {profile.run.ended for profile in gathered} == {"completed"}
    assert len({profile.run.job for profile in gathered}) == 1
    for rank in (1, 2):  # they keep their own
        name = f"profile.rank{rank}.json"
        sent = (tmp_path / "host0" / name).read_bytes()
        assert sent == (tmp_path / f"host{rank}" / name).read_bytes()
    job = load_input(tmp_path / "host0")
    assert job.ranks is not None
    assert (job.ranks.count, job.ranks.missing) == (3, 0)


def launched(rank: int) -> None:
    """As `advise run` starts it on several hosts: recorded to the end of the process."""
    Path(f"run{rank}").mkdir()
    launch.watch({"out": f"{rank}/p.json", "steps": None, "folder": f"run{rank}", "probe": False})
    distributed.init_process_group("gloo")
    parameter = torch.ones(4, requires_grad=True)
    for _ in range(20):
        parameter.sum().backward()  # type: ignore[no-untyped-call]
    distributed.destroy_process_group()


def test_advise_run_on_the_host_of_rank_0_learns_of_what_it_was_sent(tmp_path: Path) -> None:
    codes, stderr = run_ranks(launched, 2, tmp_path)

    assert codes == [0, 0], stderr
    assert [told(each) for each in stderr] == [[], []]  # it tells itself
    claims = {path.name: path.read_text() for path in (tmp_path / "run0").glob("profile-*")}
    assert claims == {"profile-000000-01": "0/p.rank0.json", "profile-000001-01": "0/p.rank1.json"}
    assert [path.name for path in (tmp_path / "run1").glob("profile-*")] == ["profile-000001-01"]


def lose_a_rank(rank: int) -> None:
    """Rank 2 is killed; later only rank 0 records."""
    gathering._PATIENCE = 1.0
    distributed.init_process_group("gloo")
    with profile("all.json", operator_steps=0) as prof:
        some_steps(prof)
        distributed.barrier()
        if rank == 2:
            os._exit(1)
    with profile("first.json", operator_steps=0, enabled=rank == 0) as prof:
        some_steps(prof)


def test_ranks_that_are_gone_or_do_not_record_are_told_by_their_numbers(tmp_path: Path) -> None:
    codes, stderr = run_ranks(lose_a_rank, 3, tmp_path, torchrun=False)

    assert codes == [0, 0, 1], stderr
    assert told(stderr[0]) == [
        "stepscope: profiles of 2 of 3 ranks (rank 2 did not end the recording): "
        "advise all.rank*.json",
        "stepscope: profiles of 1 of 3 ranks (ranks 1, 2 did not record): advise first.rank0.json",
    ]
    assert told(stderr[1]) == []


def without_a_store(rank: int) -> None:
    """The group is gone, and with it the store, which rank 0 has kept."""
    gathering._WITHOUT_STORE = 30.0
    if rank == 0:  # of another run
        Path("profile.rank1.json").write_text('{"run": {}}', encoding="utf-8")
        os.utime("profile.rank1.json", (0, 0))
    with profile("profile.json", operator_steps=0) as prof:
        distributed.init_process_group("gloo")
        some_steps(prof)
        distributed.barrier()
        distributed.destroy_process_group()


def test_without_a_store_rank_0_looks_into_the_folder(tmp_path: Path) -> None:
    codes, stderr = run_ranks(without_a_store, 2, tmp_path, torchrun=False)

    assert codes == [0, 0], stderr
    assert told(stderr[0]) == ["stepscope: profiles of 2 of 2 ranks: advise profile.rank*.json"]


def test_a_folder_holds_a_file_for_each_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert RankedFile(tmp_path).path == tmp_path / "profile.json"
    assert RankedFile(f"{tmp_path}/new/").path == tmp_path / "new" / "profile.json"
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert RankedFile(tmp_path).path == tmp_path / "profile.rank3.json"
