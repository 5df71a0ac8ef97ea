from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import textwrap
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from loops import MS, Net, Points, all_steps, assert_exclusive, calls, record, run_steps, spent
from torch.utils.data import DataLoader

from stepscope.profiler import machine, metrics, profile
from stepscope.profiler.format import Profile
from stepscope.profiler.storage import load

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def count(recorded: Profile) -> int:
    return sum(steps.total for steps in all_steps(recorded))


def run_script(script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


# The loop is the same with and without ------------------------------------------------------------


def losses(seed: int, workers: int, path: Path | None) -> list[float]:
    """Train for two epochs; recorded into `path` if there is one."""
    torch.manual_seed(seed)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    loader = DataLoader(Points(24), batch_size=4, shuffle=True, num_workers=workers)
    values: list[float] = []
    with profile(path or "unused", enabled=path is not None, warmup_steps=0) as prof:
        for _ in range(2):
            for x, y in prof.steps(loader):
                optimizer.zero_grad()
                loss = torch.nn.functional.mse_loss(model(x), y)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                prof.log(loss=loss)
                values.append(loss.item())
    return values


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_losses_are_bit_identical(tmp_path: Path, seed: int, workers: int) -> None:
    plain = losses(seed, workers, None)
    recorded = losses(seed, workers, tmp_path / "profile.json")

    assert recorded == plain
    assert len(plain) == 12
    assert len(set(plain)) > 6
    assert load(tmp_path / "profile.json").metrics["loss"].value == plain


# Ways of writing the loop -------------------------------------------------------------------------


def test_steps_is_as_long_as_the_loader(tmp_path: Path) -> None:
    def body(prof: profile) -> None:
        loader = DataLoader(Points(10), batch_size=4)
        steps = prof.steps(loader)
        assert len(steps) == 3
        assert [i for i, _ in enumerate(steps)] == [0, 1, 2]
        assert [i for i, _ in zip(range(2), prof.steps("abc"), strict=False)] == [0, 1]
        assert list(prof.steps(character for character in "xyz")) == ["x", "y", "z"]
        with pytest.raises(TypeError):
            len(prof.steps(iter("abc")))

    result = record(tmp_path / "profile.json", body)
    assert count(result) == 3 + 1 + 3  # `zip` has not come back for the end of its second
    assert_exclusive(result)


def test_a_break_leaves_a_profile_of_the_finished_steps(tmp_path: Path) -> None:
    def body(prof: profile) -> None:
        for number, _ in enumerate(prof.steps(DataLoader(Points(40), batch_size=4))):
            if number == 4:
                break
        for _ in prof.steps(DataLoader(Points(8), batch_size=4)):
            pass

    result = record(tmp_path / "profile.json", body)
    assert count(result) == 4 + 2
    assert result.run.ended == "completed"
    assert_exclusive(result)


def test_a_loop_without_a_loader_calls_step(tmp_path: Path) -> None:
    result = record(
        tmp_path / "profile.json", lambda prof: run_steps(prof, lambda: time.sleep(0.005), 4)
    )
    assert count(result) == 4
    assert result.loaders == []
    assert spent(result, "python") >= 4 * 5 * MS
    assert spent(result, "data_wait") == 0


def test_a_loader_of_another_kind_is_waited_for(tmp_path: Path) -> None:
    def slowly() -> Any:
        for _ in range(4):
            time.sleep(0.01)
            yield torch.ones(6, 2), "label"

    def body(prof: profile) -> None:
        for _ in prof.steps(slowly()):
            time.sleep(0.002)

    result = record(tmp_path / "profile.json", body)
    assert spent(result, "data_wait") >= 4 * 10 * MS
    assert spent(result, "python") >= 4 * 2 * MS
    assert (result.configuration.batch_size, result.configuration.batch_bytes) == (6, 48)


def test_a_batch_is_not_kept_alive(tmp_path: Path) -> None:
    alive: list[int] = []
    references: list[weakref.ref[torch.Tensor]] = []

    def batches() -> Any:
        for _ in range(4):
            alive.append(sum(reference() is not None for reference in references))
            tensor = torch.ones(3)
            references.append(weakref.ref(tensor))
            yield tensor
            del tensor

    def body(prof: profile) -> None:
        for batch in prof.steps(batches()):
            del batch

    record(tmp_path / "profile.json", body)
    assert alive == [0, 0, 0, 0]


def test_warm_up_is_apart(tmp_path: Path) -> None:
    result = record(
        tmp_path / "profile.json", lambda prof: run_steps(prof, list, 12), warmup_steps=5
    )
    assert result.warmup.first == list(range(5))
    assert result.steady.first == list(range(5, 12))
    assert sum(result.step_time.counts) == 7


def test_phases_are_the_users_to_name(tmp_path: Path) -> None:
    def body(prof: profile) -> None:
        with prof.phase("augment"):
            time.sleep(0.01)
            with prof.phase("mixup"):
                time.sleep(0.02)
        prof.step()

    result = record(tmp_path / "profile.json", body)
    assert spent(result, "augment") >= 10 * MS
    assert spent(result, "mixup") >= 20 * MS
    assert [mark.kind for mark in result.marks] == ["mixup", "augment"]
    assert_exclusive(result)


def test_names_made_up_in_a_loop_are_bounded(tmp_path: Path) -> None:
    def body(prof: profile) -> None:
        for i in range(200):
            with prof.phase(f"phase {i}" + "x" * 100):
                pass
        prof.step()

    result = record(tmp_path / "profile.json", body)
    assert len(result.steady.phases) == 64
    assert max(len(name) for name in result.steady.phases) == 80
    assert result.problems == ["only the first 64 phases are told apart"]


# Endings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_goes_on_and_the_profile_is_written(
    tmp_path: Path, kind: type[BaseException]
) -> None:
    raised = kind("in the loop")

    def body(prof: profile) -> None:
        for number, _ in enumerate(prof.steps(DataLoader(Points(20), batch_size=4))):
            if number == 3:
                raise raised

    with pytest.raises(kind, match="in the loop") as caught:
        record(tmp_path / "profile.json", body)
    assert caught.value is raised
    result = load(tmp_path / "profile.json")
    assert (result.run.ended, result.run.exception) == ("exception", kind.__name__)
    assert count(result) == 3


def test_an_inner_profile_does_nothing_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outer, inner = tmp_path / "outer.json", tmp_path / "inner.json"

    def body(prof: profile) -> None:
        with profile(inner) as nested:
            for _ in nested.steps([1, 2]):
                nested.log(loss=1.0)
                with nested.phase("x"):
                    pass
            nested.step()
        run_steps(prof, list, 3)

    result = record(outer, body)
    assert capsys.readouterr().err == (
        f"stepscope: {outer} is being recorded; {inner} inside it is not\n"
    )
    assert not inner.exists()
    assert count(result) == 3
    assert result.metrics == {}


def test_a_disabled_profile_does_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save = torch.save
    with profile(tmp_path / "profile.json", enabled=False) as prof:
        assert torch.save is save
        assert list(prof.steps([1, 2, 3])) == [1, 2, 3]
        with prof.phase("x"):
            prof.step()
        prof.log(loss=1.0)
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")


def test_a_second_profile_may_follow(tmp_path: Path) -> None:
    first = record(tmp_path / "1.json", lambda prof: run_steps(prof, list, 2))
    second = record(tmp_path / "2.json", lambda prof: run_steps(prof, list, 3))
    assert (count(first), count(second)) == (2, 3)


def test_no_steps_at_all_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = record(tmp_path / "profile.json", lambda prof: None)
    assert "stepscope: no step was recorded: iterate over `prof.steps(loader)`" in (
        capsys.readouterr().err
    )
    assert len(result.problems) == 1
    assert "no two optimizer steps, backward passes or DataLoader batches" in result.problems[0]
    assert count(result) == 0


def test_a_path_that_cannot_be_written_is_said_and_the_loop_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    script = """
        import sys
        from stepscope.profiler import profile
        seen = []
        with profile(sys.argv[1]) as prof:
            for item in prof.steps([1, 2, 3]):
                seen.append(item)
                prof.log(loss=item)
        print(seen)
    """
    (tmp_path / "profile.json").mkdir()  # the name of the file in a folder
    for path in (tmp_path / "file" / "profile.json", tmp_path):
        done = run_script(script, str(path))
        assert (done.returncode, done.stdout) == (0, "[1, 2, 3]\n")
        (line,) = done.stderr.splitlines()
        assert line.startswith("stepscope: ")
        assert str(path) in line


def test_a_recording_that_cannot_start_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("stepscope.profiler.recording.Sampler.start", fail)
    folders = set(shared_folders())
    save = torch.save
    with profile(tmp_path / "profile.json") as prof:
        assert torch.save is save
        run_steps(prof, list)
    assert set(shared_folders()) <= folders
    assert "training goes on without" in capsys.readouterr().err
    assert not (tmp_path / "profile.json").exists()


@pytest.mark.parametrize("closed", [True, False])
def test_a_program_without_standard_error_is_not_harmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: bool
) -> None:
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr(sys, "stderr", stream if closed else None)
    result = record(tmp_path / "profile.json", lambda prof: None)
    assert result.run.ended == "completed"


def test_an_error_of_ours_ends_the_recording_not_the_loop(tmp_path: Path) -> None:
    def body(prof: profile) -> None:
        assert prof._recording is not None
        recorder = prof._recording.recorder

        def fail() -> bool:
            if recorder.step_index == 3:
                raise RuntimeError("ours")
            return False

        recorder.on_step.append(fail)
        assert list(prof.steps(range(6))) == list(range(6))

    result = record(tmp_path / "profile.json", body)
    assert count(result) == 3
    assert result.problems == ["recording stopped at 3: RuntimeError('ours')"]


def test_a_forked_child_leaves_the_file_to_its_parent(tmp_path: Path) -> None:
    script = """
        import os, sys
        from stepscope.profiler import profile
        with profile(sys.argv[1]) as prof:
            prof.step()
            child = os.fork()
            if child == 0:
                sys.exit(0)  # leaves the context
            os.waitpid(child, 0)
            if os.path.exists(sys.argv[1]):  # on a slow machine: what the parent has so far
                assert '"completed"' not in open(sys.argv[1]).read()
            prof.step()
    """
    done = run_script(script, str(tmp_path / "profile.json"))
    assert (done.returncode, done.stderr) == (0, "")
    result = load(tmp_path / "profile.json")
    assert result.run.ended == "completed"
    assert count(result) == 2


def shared_folders() -> list[Path]:
    return [*Path("/dev/shm").glob("stepscope-*")]


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs /dev/shm")
def test_a_killed_run_leaves_a_readable_profile(tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    script = """
        import sys, time
        from stepscope.profiler import profile
        with profile(sys.argv[1], operator_steps=0) as prof:
            while True:
                time.sleep(0.01)
                prof.log(loss=1.0)
                prof.step()
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script), str(file)])
    try:
        deadline = time.monotonic() + 90
        while not file.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        folders = [*Path("/dev/shm").glob(f"stepscope-{process.pid}-*")]
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    result = load(file)

    assert result.run.ended == "running"
    assert count(result) > 5
    assert len(result.metrics["loss"].value) > 5
    assert_exclusive(result)
    assert len(folders) == 1
    assert folders[0].is_dir()
    os.utime(folders[0], (0, 0))  # left alone for long, so of no other container's run either

    own: list[Path] = []
    record(
        tmp_path / "next.json",
        lambda prof: own.extend(Path("/dev/shm").glob(f"stepscope-{os.getpid()}-*")),
    )
    assert not folders[0].exists()
    assert len(own) == 1
    assert not own[0].exists()


# Quality metrics ----------------------------------------------------------------------------------


def test_metrics_are_kept_with_their_step(tmp_path: Path) -> None:
    def body(prof: profile) -> None:
        running = torch.zeros(())
        for i in range(4):
            running += 1
            prof.log(loss=torch.tensor(0.5 * i, requires_grad=True), running=running, plain=i)
            prof.step()

    found = record(tmp_path / "profile.json", body).metrics
    assert found["loss"].value == [0.0, 0.5, 1.0, 1.5]
    assert found["running"].value == [1, 2, 3, 4]
    assert found["plain"].step == [0, 1, 2, 3]
    assert found["plain"].time_ns == sorted(found["plain"].time_ns)


def test_values_that_are_no_numbers_do_not_spoil_the_profile(tmp_path: Path) -> None:
    def body(prof: profile) -> None:
        prof.log(a=float("nan"), b=torch.tensor(float("inf")))
        prof.log(c=torch.ones(3))
        prof.log(c="text")
        prof.log(c=None)
        prof.log(d=1)
        prof.step()

    found = record(tmp_path / "profile.json", body).metrics
    assert {name: metric.value for name, metric in found.items()} == {
        "a": [None],
        "b": [None],
        "d": [1.0],
    }


def test_metrics_are_bounded(tmp_path: Path) -> None:
    def body(prof: profile) -> None:
        for i in range(5000):
            prof.log(loss=float(i))
        for i in range(100):
            prof.log(**{f"metric{i}": 1.0})
        prof.step()

    found = record(tmp_path / "profile.json", body).metrics
    assert len(found) == 50
    assert len(found["loss"].value) <= 1024
    assert found["loss"].value == [float(i) for i in range(0, 5000, found["loss"].stride)]


def test_a_name_that_appears_while_a_copy_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = metrics.Metrics(0)
    kept.add(0, {"a": 1.0, "b": 2.0})
    original = metrics._metric

    def meanwhile(table: Any, final: bool) -> Any:
        kept.add(1, {f"new{len(kept._tables)}": 1.0})
        return original(table, final)

    monkeypatch.setattr(metrics, "_metric", meanwhile)
    assert set(kept.result(final=False)) >= {"a", "b"}


# The operator window ------------------------------------------------------------------------------


def test_the_window_is_recorded_once_and_kept_apart(tmp_path: Path) -> None:
    model = Net()

    def step() -> None:
        model(torch.ones(2, 4)).sum().backward()

    result = record(
        tmp_path / "profile.json",
        lambda prof: run_steps(prof, step, 30),
        warmup_steps=2,
        operator_steps=3,
    )
    assert result.problems == []
    assert result.window is not None
    assert (result.window.first_step, result.window.steps) == (12, 3)
    assert result.warmup.first == [0, 1]
    assert result.steady.first == [*range(2, 12), 15, *range(17, 30)]
    assert sum(result.step_time.counts) == 24
    by_name = {operator.name: operator for operator in result.window.operators}
    assert by_name["aten::addmm"].calls == 2 * 3
    assert all(operator.self_cpu_ns >= 0 for operator in result.window.operators)
    phases = result.window.phases
    assert sum(phase.wall_ns for phase in phases.values()) <= result.window.wall_ns
    assert {"python", "forward", "backward"} <= set(phases)
    assert all(p.operator_ns + p.gap_ns <= p.wall_ns for p in phases.values())
    assert phases["forward"].operator_ns > 0
    assert phases["forward"].calls >= 3 * 3
    assert phases["backward"].calls > 0
    assert result.overhead.window_ns > 0


def test_steps_that_end_inside_an_annotation_harm_nothing(tmp_path: Path) -> None:
    # PyTorch writes the end of one into the recording that it began in, which has to be there.
    script = """
        import sys
        import torch
        from stepscope.profiler import profile

        for _ in range(4):
            with profile(sys.argv[1], warmup_steps=0, operator_steps=2) as prof:
                for _ in range(16):
                    with torch.profiler.record_function("outer"):
                        with torch.profiler.record_function("inner"):
                            torch.ones(8, 8, requires_grad=True).square().sum().backward()
                            prof.step()
                    blocks = [torch.ones(n) for n in range(200)]  # where freed memory was
    """
    done = run_script(script, str(tmp_path / "profile.json"))
    assert done.returncode == 0, done.stderr
    result = load(tmp_path / "profile.json")
    assert result.window is not None
    assert result.window.counted is not None
    assert result.window.counted.first_step > result.window.first_step + result.window.steps


def test_where_annotations_span_steps_shapes_are_left_out(tmp_path: Path) -> None:
    def body(prof: profile) -> None:
        for _ in range(10):
            with torch.profiler.record_function("several"):
                for _ in range(3):
                    torch.ones(2).sum()
                    prof.step()

    result = record(tmp_path / "profile.json", body, warmup_steps=0, operator_steps=4)
    assert result.window is not None
    assert result.window.counted is None
    assert result.problems == ["annotations last for several steps: operators' work is not counted"]


def test_operators_are_told_apart_by_phase(recorded: Profile) -> None:
    assert recorded.window is not None
    names: dict[str, set[str]] = {}
    for row in recorded.window.operators:
        names.setdefault(row.phase, set()).add(row.name)
    assert any("_foreach" in name or "addcdiv" in name for name in names["optimizer"])
    assert "aten::addmm" in names["forward"]
    assert "aten::mse_loss" in names["after_forward"]
    assert any("AddmmBackward" in name for name in names["backward"])
    others = ("optimizer", "backward", "after_forward")
    assert not any("aten::addmm" in names[phase] for phase in others)
    every = set().union(*names.values())
    assert not any(name.startswith(("Optimizer.", "stepscope")) for name in every)


def test_a_loop_that_ends_inside_the_window_has_none(tmp_path: Path) -> None:
    result = record(
        tmp_path / "profile.json", lambda prof: run_steps(prof, list, 11), operator_steps=4
    )
    assert result.window is None
    assert count(result) == 10
    assert not torch.autograd._profiler_enabled()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("start", "stop"), [(5, 8), (5, 12), (5, 25), (11, 12), (12, 25)])
def test_a_profiler_of_the_users_own_goes_first(tmp_path: Path, start: int, stop: int) -> None:
    theirs = torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True
    )

    def body(prof: profile) -> None:
        for i in range(30):
            if i == start:
                theirs.start()
            if i == stop:
                theirs.stop()
            torch.mm(torch.ones(2, 2), torch.ones(2, 2))
            prof.step()

    result = record(tmp_path / "profile.json", body, operator_steps=4)
    events: Any = theirs.events()  # type: ignore[no-untyped-call]
    products = [event for event in events if event.name == "aten::mm"]
    assert len(products) == stop - start
    if stop > 10:
        assert result.window is None
        assert result.problems == ["the program uses torch.profiler itself: no operator table"]
        assert count(result) == 30
    else:
        assert result.window is not None


# Other processes ----------------------------------------------------------------------------------


RANKED = """
    import os, sys, warnings
    import torch
    from torch.nn.parallel import DistributedDataParallel
    from stepscope.profiler import profile

    rank = int(os.environ["RANK"])
    torch.distributed.init_process_group(
        "gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2
    )
    torch.manual_seed(0)
    model = DistributedDataParallel(torch.nn.Sequential(torch.nn.Linear(64, 64)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with profile(sys.argv[1], warmup_steps=1, operator_steps=0) as prof:
        for x in prof.steps(torch.ones(6, 8, 64)):
            optimizer.zero_grad()
            model(x).sum().backward()
            optimizer.step()
    torch.distributed.destroy_process_group()
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_every_rank_has_a_file_of_its_own(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(RANKED)]
    command += [str(tmp_path / "profile.json"), str(tmp_path / "store")]
    ranks = [
        subprocess.Popen(
            command,
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], errors
    assert not (tmp_path / "profile.json").exists()

    for rank in range(2):
        result = load(tmp_path / f"profile.rank{rank}.json")
        assert (result.run.rank, result.run.world_size) == (rank, 2)
        assert count(result) == 6
        (model,) = result.configuration.models
        assert model.distributed == "DistributedDataParallel"
        (exchange,) = result.collectives
        assert exchange.backend == "gloo"
        assert exchange.gradient_bytes == 4 * (64 * 64 + 64)
        assert exchange.buckets == 1
        assert exchange.communication_ns > 0
        assert exchange.backward_ns > 0


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("profile.json", "profile.rank1.json"),
        ("out.d/run.v2.json", "out.d/run.v2.rank1.json"),
        ("profile", "profile.rank1"),
    ],
)
def test_the_rank_stands_before_the_suffix(
    monkeypatch: pytest.MonkeyPatch, path: str, expected: str
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert profile(path).path == Path(expected)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert profile(path).path == Path(path)
    monkeypatch.setenv("WORLD_SIZE", "nonsense")
    assert profile(path).path == Path(path)


def test_reading_needs_no_torch() -> None:
    done = run_script("""
        import sys
        sys.modules["torch"] = None
        import stepscope.profiler, stepscope.profiler.storage, stepscope.profiler.format
        try:
            from stepscope.profiler import profile
        except ImportError as error:
            print(error)
    """)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "stepscope needs PyTorch to record a profile: pip install 'stepscope[torch]'\n"
    )

    done = run_script("""
        import sys
        import stepscope.profiler, stepscope.profiler.storage
        print("torch" in sys.modules)
    """)
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_an_unknown_name_is_an_attribute_error() -> None:
    package = sys.modules["stepscope.profiler"]
    with pytest.raises(AttributeError, match="no attribute 'profil'"):
        _ = package.profil


def test_a_forgotten_path_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        profile(3)  # type: ignore[arg-type]


# The document as a whole --------------------------------------------------------------------------


def test_the_parts_of_a_recorded_profile_agree(recorded: Profile) -> None:
    assert recorded.run.ended == "completed"
    assert recorded.window is not None
    assert count(recorded) + recorded.window.recorded_steps == 30
    assert_exclusive(recorded)
    for steps in all_steps(recorded):
        assert sum(steps.wall_ns) <= recorded.run.wall_ns
        assert steps.cpu_ns is not None
        assert steps.wait_cpu_ns is not None
        assert all(cpu >= 0 for cpu in steps.cpu_ns)
        assert all(wait <= cpu for wait, cpu in zip(steps.wait_cpu_ns, steps.cpu_ns, strict=True))
    assert sum(worker.totals.batches for worker in recorded.loaders[0].workers) == 30
    assert len(recorded.metrics["loss"].value) == 30
    assert sorted(mark.kind for mark in recorded.marks) == ["checkpoint", "validation"]
    assert [optimizer.class_name for optimizer in recorded.configuration.optimizers] == ["AdamW"]
    assert recorded.configuration.batch_size == 4
    assert recorded.configuration.batch_bytes == 4 * (4 + 1) * 4
    assert calls(recorded, "log_calls") == count(recorded)
    assert recorded.environment.calibration is not None
    assert recorded.overhead.setup_ns > 0
    assert recorded.problems == []


def test_a_calibration_that_fails_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("no bf16 here")

    monkeypatch.setattr(machine, "calibrate", fail)
    result = record(tmp_path / "profile.json", lambda prof: run_steps(prof, list))
    assert result.environment.calibration is None
    assert count(result) == 3
