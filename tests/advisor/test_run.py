"""`advise run` with real programs, each in processes of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from stepscope.profiler.format import Profile
from stepscope.profiler.storage import load

pytest.importorskip("torch")

ADVISE = "from stepscope.advisor.cli import main; main()"
TRAIN = """
    import sys
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    def train(steps=30, workers=0):
        model = torch.nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        data = TensorDataset(torch.ones(4 * steps, 4))
        loader = DataLoader(
            data, batch_size=4, num_workers=workers,
            multiprocessing_context="spawn" if workers else None,
        )
        for (x,) in loader:
            optimizer.zero_grad()
            model(x).sum().backward()
            optimizer.step()
"""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("PYTHONPATH", raising=False)


def write(name: str, *parts: str) -> str:
    Path(name).write_text("\n".join(textwrap.dedent(part) for part in parts), encoding="utf-8")
    return name


def advise_run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", ADVISE, "run", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def steps(profile: Profile) -> int:
    window = profile.window.recorded_steps if profile.window else 0
    return profile.warmup.total + profile.steady.total + window


def files() -> set[str]:
    return {path.name for path in Path().iterdir()} - {"__pycache__"}


def only_line(text: str) -> str:
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    return lines[0]


# The program is as it was -------------------------------------------------------------------------


def test_a_script_is_profiled_and_nothing_of_it_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("site").mkdir()
    write("site/sitecustomize.py", "import sys", "sys.theirs = __file__")
    monkeypatch.setenv("PYTHONPATH", str(Path("site").absolute()))
    script = write(
        "train.py",
        TRAIN,
        """
        train()
        print("out", sys.argv[1:], sys.stdin.read())
        import sitecustomize
        ours = [p for p in sys.path if "launch" in p]
        print("err", ours, sitecustomize.__file__ == sys.theirs, file=sys.stderr)
        sys.exit(7)
        """,
    )

    done = advise_run("--", sys.executable, script, "--lr", "0.1", "--out=x", stdin="typed")

    assert done.returncode == 7
    assert done.stdout == "out ['--lr', '0.1', '--out=x'] typed\n"
    assert done.stderr.startswith("err [] True\n")
    assert "profile.html" in done.stderr
    profile = load(Path("profile.json"))
    assert (steps(profile), profile.run.steps_by) == (29, "optimizer")
    assert profile.run.ended == "completed"
    assert profile.run.argv == ["train.py", "--lr", "0.1", "--out=x"]
    assert not [name for name in profile.environment.variables if "STEPSCOPE" in name]
    assert Path("profile.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert files() == {"profile.html", "profile.json", "train.py", "site"}


def test_a_module_is_profiled() -> None:
    Path("package").mkdir()
    write("package/__init__.py")
    write("package/fit.py", TRAIN, "if __name__ == '__main__': train(60)")

    done = advise_run("--out", "deep/fit.json", "--", "-m", "package.fit")

    assert done.returncode == 0, done.stderr
    assert steps(load(Path("deep/fit.json"))) == 59
    assert Path("deep/fit.html").is_file()


def test_a_console_script_is_profiled() -> None:
    write("train.py", TRAIN)
    script = Path(write("fit", f"#!{sys.executable}", "import train", "train.train()"))
    script.chmod(0o755)

    assert advise_run("./fit").returncode == 0
    assert steps(load(Path("profile.json"))) == 29


def test_an_exception_is_told_and_the_profile_kept() -> None:
    script = write("train.py", TRAIN, "train()", "raise LookupError('no such file')")

    done = advise_run(script)

    assert done.returncode == 1
    assert "LookupError: no such file" in done.stderr
    profile = load(Path("profile.json"))
    assert (profile.run.ended, profile.run.exception) == ("exception", "LookupError")


def test_the_status_of_a_killed_program_is_a_shells() -> None:
    script = write("train.py", "import os, signal", "os.kill(os.getpid(), signal.SIGKILL)")

    assert advise_run(script).returncode == 128 + signal.SIGKILL


@pytest.mark.skipif(os.name == "nt", reason="needs process groups")
def test_ctrl_c_ends_the_program_and_is_advised_on() -> None:
    script = write("train.py", TRAIN, "train()", "print('ready', flush=True)", "input()")
    with subprocess.Popen(
        [sys.executable, "-c", ADVISE, "run", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        guard = threading.Timer(120, process.kill)
        guard.start()
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, signal.SIGINT)
        errors = process.stderr.read()
        assert process.wait() == 128 + signal.SIGINT
        guard.cancel()
    assert "profile.html" in errors
    assert load(Path("profile.json")).run.exception == "KeyboardInterrupt"


# What is profiled, and what is not ----------------------------------------------------------------


def test_spawned_workers_are_not_profiled() -> None:
    script = write("train.py", TRAIN, "if __name__ == '__main__': train(12, workers=2)")

    done = advise_run(script)

    assert done.returncode == 0
    assert "profiles were written" not in done.stderr
    profile = load(Path("profile.json"))
    assert steps(profile) == 11
    assert {worker.id for worker in profile.loaders[0].workers} == {0, 1}
    assert files() == {"profile.html", "profile.json", "train.py"}


def test_a_launcher_is_not_profiled_but_what_it_starts() -> None:
    write("train.py", TRAIN, "train(40)")
    script = write(
        "launch.py",
        """
        import subprocess, sys
        import torch
        torch.ones(1, requires_grad=True).sum().backward()
        sys.exit(subprocess.run([sys.executable, "train.py"]).returncode)
        """,
    )

    done = advise_run(script)

    assert done.returncode == 0
    found = [load(path) for path in Path().glob("profile*.json")]
    assert [steps(profile) for profile in found] == [39]


def test_each_rank_of_torchrun_is_profiled() -> None:
    script = write(
        "train.py",
        TRAIN,
        """
        torch.distributed.init_process_group("gloo")
        train()
        torch.distributed.destroy_process_group()
        """,
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]

    done = advise_run("--", *torchrun, "--nproc-per-node", "2", script)

    assert done.returncode == 0, done.stderr
    found = [load(Path(f"profile.rank{rank}.json")) for rank in (0, 1)]
    assert [(p.run.rank, p.run.world_size, steps(p)) for p in found] == [(0, 2, 29), (1, 2, 29)]
    assert Path("profile.html").is_file()
    assert not Path("profile.json").exists()


def test_ranks_spawned_by_multiprocessing_are_profiled() -> None:
    script = write(
        "train.py",
        TRAIN,
        """
        def rank(number, folder):
            torch.distributed.init_process_group(
                "gloo", f"file://{folder}/meeting", rank=number, world_size=2
            )
            train()
            torch.distributed.destroy_process_group()

        if __name__ == "__main__":
            import os
            torch.multiprocessing.spawn(rank, (os.getcwd(),), nprocs=2)
        """,
    )

    done = advise_run(script)

    assert done.returncode == 0, done.stderr
    found = [load(Path(f"profile.rank{rank}.json")) for rank in (0, 1)]
    assert [(p.run.rank, steps(p)) for p in found] == [(0, 29), (1, 29)]


def test_recording_stops_after_so_many_steps() -> None:
    script = write("train.py", TRAIN, "train(80)", "print('trained')")

    done = advise_run("--steps", "20", "--", sys.executable, script)

    assert done.stdout == "trained\n"
    assert load(Path("profile.json")).steady.total == 20


def test_a_probe_tries_each_half_of_an_unmarked_loop() -> None:
    script = write("script.py", TRAIN, "train(100)")

    done = advise_run("--probe", "--", sys.executable, script)

    assert done.returncode == 0
    recorded = load(Path("profile.json"))
    assert recorded.ceilings is not None, recorded.problems
    assert len(recorded.ceilings.model_step_ns) == 8
    assert recorded.ceilings.loader_batch_ns


@pytest.mark.parametrize("before", ["", "for _ in DataLoader(range(9)): pass"])
def test_a_profile_of_the_programs_own_goes_first(before: str) -> None:
    script = write(
        "train.py",
        TRAIN,
        before,
        """
        from stepscope.profiler import profile
        with profile("mine.json"):
            train()
        """,
    )

    done = advise_run(script)

    assert done.returncode == 0
    assert "records a profile itself" in only_line(done.stderr)
    assert "mine.json" in done.stderr
    assert steps(load(Path("mine.json"))) == 29
    assert not Path("profile.json").exists()


# Nothing to profile -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "program", "reason"),
    [
        ([], "print(1)", "the program did not import torch"),
        ([], "import torch; print(1)", "no two optimizer steps"),
        (["-I"], "print(1)", "python -I, -E, -S?"),
    ],
)
def test_a_program_without_steps_is_explained_in_a_line(
    options: list[str], program: str, reason: str
) -> None:
    script = write("program.py", program)
    Path("profile.json").write_text("of an earlier run", encoding="utf-8")

    done = advise_run("--", sys.executable, *options, script)

    assert (done.returncode, done.stdout) == (0, "1\n")
    assert reason in only_line(done.stderr)
    assert Path("profile.json").read_text(encoding="utf-8") == "of an earlier run"


def test_a_program_where_stepscope_is_missing_is_explained_in_a_line() -> None:
    script = write(
        "train.py",
        "import sys",
        "sys.modules['stepscope.profiler.launch'] = None",
        TRAIN,
        "train()",
    )

    done = advise_run(script)

    assert done.returncode == 0
    assert "pip install 'stepscope[torch]'" in only_line(done.stderr)


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        ([], 2, "name the program"),
        (["--out", ".", "true"], 2, "is a directory"),
        (["--out", "x.html", "true"], 2, "profile itself"),
        (["no-such-program-xyz"], 127, "cannot be started"),
        (["./not-executable"], 126, "cannot be started"),
    ],
)
def test_a_call_that_is_wrong_is_told_in_a_line(
    arguments: list[str], status: int, reason: str
) -> None:
    write("not-executable", "text")

    done = advise_run(*arguments)

    assert done.returncode == status
    assert reason in only_line(done.stderr)
