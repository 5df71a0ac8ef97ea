"""Profiles of many ranks are one job: who keeps whom waiting, why, and what is not known."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import MS, a_run, even_samples
from click.testing import CliRunner, Result

from stepscope.advisor.advice import Advice
from stepscope.advisor.advise import advise
from stepscope.advisor.cli import cli
from stepscope.advisor.html import render
from stepscope.advisor.inputs import load_input, load_inputs
from stepscope.advisor.rank_tables import heat_picture, rank_table
from stepscope.advisor.ranks import engines
from stepscope.advisor.rule_files import load_knowledge
from stepscope.profiler.format import Collective, Meetings, Model, Profile, Ranks
from stepscope.profiler.storage import ProfileError, load, save

RECORDED = Path(__file__).parent / "recorded"
DATA, CROWDED = RECORDED / "ranks_data", RECORDED / "ranks_crowded"
SLOW = 2
MANY = 64


def ranks_of(profile: Profile) -> Ranks:
    assert profile.ranks is not None
    return profile.ranks


def judged(profile: Profile) -> Advice:
    return advise(profile, load_knowledge())


def copies(folder: Path, count: int, change: Callable[[Profile, int], None]) -> Path:
    """The recorded ranks over and over, as those of a larger job."""
    for rank in range(count):
        profile = load(DATA / f"profile.rank{(0, 1, 3)[rank % 3]}.json")
        profile.run.rank, profile.run.world_size = rank, count
        change(profile, rank)
        save(profile, folder / f"profile.rank{rank}.json")
    return folder


def test_the_slow_rank_is_named_with_its_cause() -> None:
    profile = load_input(DATA)

    ranks = ranks_of(profile)
    first = ranks.stragglers[0]
    assert (ranks.count, ranks.missing, ranks.persistent) == (4, 0, True)
    assert (first.rank, first.cause) == (SLOW, "data_loading.network")
    assert first.excess_ns == pytest.approx(40 * MS, rel=0.1)  # 8 samples, 5 ms each
    assert ranks.rows[0].rank == ranks.slowest == SLOW


def test_waiting_for_it_is_the_verdict_and_its_gain_is_what_it_takes_longer() -> None:
    advice = judged(load_input(DATA))

    assert advice.verdict.cause == "communication.straggler"
    assert "Rank 2 spends 40" in advice.verdict.sentence
    shares = {line.cause: line.share for line in advice.breakdown}
    assert sum(shares.values()) == pytest.approx(1)
    lost = shares["communication.straggler"] * advice.step_seconds
    assert lost == pytest.approx(0.040, rel=0.1)
    assert advice.plan[0].method == "sy-even-ranks"
    assert advice.plan[0].predicted.low < 65.8 / (65.8 - 40.3) < advice.plan[0].predicted.high
    assert next(f for f in advice.findings if f.rule == "straggler").role == "root"


def test_a_rank_without_cores_is_slow_for_that() -> None:
    first = ranks_of(load_input(CROWDED)).stragglers[0]

    assert (first.rank, first.cause) == (3, "cpu_preprocessing.core_starvation")


def test_where_nobody_is_slow_that_is_said(tmp_path: Path) -> None:
    rank0 = load(DATA / "profile.rank0.json")
    for rank in range(4):
        rank0.run.rank = rank
        save(rank0, tmp_path / f"profile.rank{rank}.json")

    profile = load_input(tmp_path)

    assert ranks_of(profile).waiting_ns == 0
    assert "No rank keeps the others waiting." in profile.problems
    assert judged(profile).facts["share.communication.straggler"] == 0


def test_what_comes_in_turn_is_no_straggler(tmp_path: Path) -> None:
    recorded = load(DATA / "profile.rank0.json")
    backward, python = (recorded.steady.phases[name].copy() for name in ("backward", "python"))
    for rank in range(4):
        recorded.run.rank = rank
        late = [min(40 * MS, spent) if i % 4 == rank else 0 for i, spent in enumerate(backward)]
        phases = recorded.steady.phases
        phases["backward"] = [b - x for b, x in zip(backward, late, strict=True)]
        phases["python"] = [p + x for p, x in zip(python, late, strict=True)]
        save(recorded, tmp_path / f"profile.rank{rank}.json")

    profile = load_input(tmp_path)

    assert not ranks_of(profile).persistent
    assert any("different ranks come last in turn" in words for words in profile.problems)
    fired = {finding.rule for finding in judged(profile).findings}
    assert "uneven_ranks" in fired
    assert "straggler" not in fired


def test_the_clock_of_a_slow_device_is_told(tmp_path: Path) -> None:
    model = Model(
        class_name="Net",
        parameters=1,
        parameter_bytes=4,
        trainable_parameters=1,
        devices=["cuda:0"],
    )
    for rank in range(4):
        slow = rank == 1
        waits = 2 if slow else 12
        profile = a_run(
            {"forward": 20.0 if slow else 10.0, "backward": 5.0 + waits},
            samples=even_samples(gpu0_sm_clock_mhz=900.0 if slow else 1800.0),
            collectives=[
                Collective(
                    gradient_bytes=10**6,
                    buckets=1,
                    communication_ns=waits * MS,
                    overlap_ns=0,
                    backward_ns=5 * MS,
                )
            ],
        )
        profile.configuration.models = [model]
        profile.run.rank, profile.run.world_size = rank, 4
        save(profile, tmp_path / f"profile.rank{rank}.json")

    ranks = ranks_of(profile := load_input(tmp_path))

    assert (ranks.stragglers[0].rank, ranks.stragglers[0].cause) == (1, "compute.arithmetic")
    assert any("its GPU runs at 900 MHz, the median one at 180" in w for w in profile.problems)


def test_a_clock_that_is_wrong_is_told_beside_its_host(tmp_path: Path) -> None:
    def on_two_hosts(profile: Profile, rank: int) -> None:
        host = rank // 4
        profile.environment.host = f"node{host}"
        ends = [step * 100 * MS + host * 90 * MS + rank * 1000 for step in range(50)]
        profile.meetings = Meetings(
            clock=f"c{host}", origin_ns=0, steps=list(range(50)), ends_ns=ends
        )

    profile = load_input(copies(tmp_path, 8, on_two_hosts))

    ahead = ranks_of(profile).clocks[0]
    assert (ahead.host, ahead.rank, ahead.ranks, ahead.offset_ns) == ("node1", 4, 4, 90_004_000)
    words = "The clock of host node1 is 90.0 ms ahead of the other's"
    assert any(problem.startswith(words) for problem in profile.problems)
    page = render(judged(profile), profile)
    assert "90.0 ms ahead" in page
    assert "the usual one" in page


def test_a_copy_made_during_the_run_is_told_to_be_one(tmp_path: Path) -> None:
    def killed(profile: Profile, rank: int) -> None:
        profile.run.ended = "running" if rank == 1 else "completed"

    profile = load_input(copies(tmp_path, 3, killed))

    assert any(words.startswith("On rank 1: this is a copy") for words in profile.problems)


def test_a_missing_rank_is_said_and_not_guessed(tmp_path: Path) -> None:
    for rank in (0, 1, 3):
        shutil.copy(DATA / f"profile.rank{rank}.json", tmp_path)

    profile = load_input(tmp_path)

    assert (ranks_of(profile).missing, ranks_of(profile).missing_ranks) == (1, [SLOW])
    assert any("1 rank of the job has no record here: 2." in words for words in profile.problems)


def test_a_file_that_cannot_be_read_is_left_out_and_said(tmp_path: Path) -> None:
    shutil.copytree(DATA, tmp_path, dirs_exist_ok=True)
    broken = tmp_path / "profile.rank1.json"
    broken.write_bytes(broken.read_bytes()[:1000])

    profile = load_input(tmp_path)

    assert ranks_of(profile).missing_ranks == [1]
    assert any("Left out" in words and "profile.rank1.json" in words for words in profile.problems)


def test_profiles_of_different_runs_are_refused(tmp_path: Path) -> None:
    shutil.copytree(DATA, tmp_path, dirs_exist_ok=True)
    other = load(DATA / "profile.rank1.json")
    other.run.started_at = "2026-01-01T00:00:00+00:00"
    save(other, tmp_path / "again.json")
    with pytest.raises(ProfileError, match=r"profile.rank1.json.* both of rank 1|again.json"):
        load_input(tmp_path)

    mine = load(DATA / "profile.rank1.json")
    for rank, job in ((0, "this"), (1, "another")):
        mine.run.rank, mine.run.job = rank, job
        save(mine, tmp_path / f"profile.rank{rank}.json")
    (tmp_path / "again.json").unlink()
    with pytest.raises(ProfileError, match=r"rank\d.json is older than profile.rank\d.json"):
        load_input(tmp_path)
    (tmp_path / "profile.rank0.json").unlink()

    other.run.rank, other.run.world_size = 5, 8
    save(other, tmp_path / "again.json")
    with pytest.raises(ProfileError, match="different runs, of 4, 8 ranks"):
        load_input(tmp_path)


def test_a_folder_with_one_profile_is_that_profile(tmp_path: Path) -> None:
    shutil.copy(RECORDED / "unstacked.json", tmp_path)

    assert load_input(tmp_path) == load(RECORDED / "unstacked.json")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_several_files_are_the_ranks_of_one_job(tmp_path: Path) -> None:
    shutil.copytree(DATA, tmp_path, dirs_exist_ok=True)

    done = run(*sorted(tmp_path.glob("*.json")))

    assert done.exit_code == 0, done.output
    assert "waiting for a slower rank" in done.output
    page = (tmp_path / "profile.html").read_text()
    assert 'data-heat="heat"' in page
    assert "All ranks" in page


def test_profiles_and_traces_together_are_refused(tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    trace.write_text('{"schemaVersion": 1, "traceEvents": []}')

    done = run(DATA / "profile.rank0.json", trace)

    assert done.exit_code == 2
    assert "mixes profiles and traces" in done.output


def test_the_picture_and_the_table_show_every_rank() -> None:
    profile = load_input(DATA)
    heat = ranks_of(profile).heat

    picture, table = heat_picture(heat), rank_table(profile.ranks)

    assert picture is not None
    assert table is not None
    assert (picture.rows, picture.ranks, picture.own) == (4, ["0", "1", "2", "3"], True)
    assert {cell.rank for cell in picture.hottest} == {str(SLOW)}
    assert table.lines[0].rank == SLOW
    assert sorted(line.rank for line in table.lines) == [0, 1, 2, 3]
    page = render(judged(profile), profile)
    assert page.count('<path class="h') == len(picture.shades)


def test_recording_reads_itself_back(tmp_path: Path) -> None:
    profile = load_input(DATA)
    save(profile, tmp_path / "job.json")

    assert load(tmp_path / "job.json").ranks == profile.ranks


def slow_one(profile: Profile, rank: int) -> None:
    """Rank 37 does 20 ms more in each step, for which the others wait."""
    if rank == 37:
        for name, more in (("python", 20 * MS), ("backward", -20 * MS)):
            column = profile.steady.phases[name]
            profile.steady.phases[name] = [value + more for value in column]


def check(profile: Profile) -> None:
    ranks = ranks_of(profile)
    assert (ranks.count, ranks.missing) == (MANY, 0)
    assert (ranks.stragglers[0].rank, ranks.stragglers[0].cause) == (37, "host.python")
    assert ranks.persistent


def test_in_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copies(tmp_path, MANY, slow_one)
    monkeypatch.setattr(engines, "_WORTH_A_PROCESS", 1)
    monkeypatch.setattr(engines, "_MOST_IN_A_JOB", 10)
    monkeypatch.setattr(engines, "_processors", lambda: 2)
    check(load_input(folder))
    twice = [*sorted(folder.iterdir()), folder / "profile.rank5.json"]
    check(load_inputs(twice))


@pytest.mark.filterwarnings("ignore")  # of the cluster's own parts
def test_on_a_dask_cluster(tmp_path: Path) -> None:
    distributed = pytest.importorskip(
        "dask.distributed", reason="needs pip install 'stepscope[dask]'"
    )
    folder = copies(tmp_path, MANY, slow_one)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as cluster:
        check(load_input(folder, f"dask={cluster.scheduler_address}"))


def test_on_devices_the_time_line_tells_the_exchange(tmp_path: Path) -> None:
    for rank in range(4):
        waits = 2 if rank == 1 else 12
        phases = {"arithmetic": 24.0 - waits, "collective": float(waits)}
        profile = a_run(phases)
        profile.run.rank, profile.run.world_size = rank, 4
        save(profile, tmp_path / f"profile.rank{rank}.json")

    profile = load_input(tmp_path)

    assert ranks_of(profile).stragglers[0].rank == 1
    assert sum(profile.steady.phases["collective"]) == pytest.approx(100 * 2 * MS, rel=0.01)
