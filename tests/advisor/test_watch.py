from __future__ import annotations

import io
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import a_data_bound_run, a_profile, an_advice, even_steps
from click.testing import CliRunner
from rich.console import Console

from stepscope.advisor.advice import Advice
from stepscope.advisor.cli import cli
from stepscope.advisor.measure import NoStepsError
from stepscope.advisor.watch import Watched, follow
from stepscope.profiler.format import Profile, Run
from stepscope.profiler.storage import save


def a_copy(steps: int = 200, ended: str = "running", **changes: object) -> Profile:
    run = Run(started_at="2026-01-15T10:00:00Z", wall_ns=10**9, ended=ended)  # type: ignore[arg-type]
    return a_profile(run=run, steady=even_steps({"forward": 50.0}, steps), **changes)


def judged(profile: Profile) -> Advice:
    if profile.steady.total < 3:
        raise NoStepsError("only 2 training steps were recorded")
    return an_advice()


def watched(path: Path, *events: Callable[[], object], terminal: bool = False) -> str:
    """What is shown while, second by second, the events happen."""
    text = io.StringIO()
    console = Console(file=text, width=100, force_terminal=terminal, color_system=None, height=60)
    waiting = iter(events)

    def sleep(_: float) -> None:
        next(waiting)()

    follow(Watched(path, judged), console, sleep)
    assert next(waiting, None) is None
    return text.getvalue()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "profile.json"


def test_in_a_pipe_each_copy_is_one_line_until_the_run_ends(path: Path) -> None:
    lines = watched(
        path,
        lambda: save(a_copy(2), path),
        lambda: save(a_copy(100), path),
        lambda: None,
        lambda: save(a_copy(150), path),
        lambda: save(a_copy(180, "completed"), path),
    ).splitlines()

    assert [line.removeprefix(f"{path}: ") for line in lines] == [
        "only 2 training steps were recorded",
        "100 steps, 48.2 ms each; the last 98: 50.0 ms: 56 % preparing samples (decode, augment, "
        "tokenise)",
        "150 steps, 48.2 ms each; the last 50: 50.0 ms: 56 % preparing samples (decode, augment, "
        "tokenise)",
        "180 steps, 48.2 ms each; the last 30: 50.0 ms: 56 % preparing samples (decode, augment, "
        "tokenise)",
    ]


def test_on_a_terminal_the_verdict_stays_in_place(path: Path) -> None:
    text = watched(
        path,
        lambda: save(a_copy(100), path),
        lambda: None,
        lambda: save(a_copy(150, "exception"), path),
        terminal=True,
    )

    assert "is not there yet" in text
    assert "100 steps, 48.2 ms each" in text
    assert "Where the step goes (48.2 ms)" in text
    assert "running; written" in text
    last = text[text.rindex("the run of 2026-01-15T10:00:00Z has ended") :]
    assert "six would make training about 1.84x as fast" in " ".join(last.split())
    assert "writes the report" in last


def test_a_file_that_is_half_written_or_goes_away_is_waited_for(path: Path) -> None:
    def half() -> None:
        path.write_bytes(path.read_bytes()[:500])

    text = watched(
        path,
        lambda: save(a_copy(100), path),
        half,
        path.unlink,
        lambda: save(a_copy(120, "completed"), path),
        terminal=True,
    )

    assert "ends in the middle of the document" in text
    assert "was removed; below: what was seen before" in text
    assert "has ended" in text


def test_a_run_that_writes_no_more_is_told(path: Path) -> None:
    save(a_copy(100), path)
    os.utime(path, (1, 1))

    text = watched(path, lambda: save(a_copy(100, "completed"), path), terminal=True)

    assert "the run hangs, or was killed" in text


def test_another_run_at_the_same_path_is_not_compared(path: Path) -> None:
    save(a_copy(100), path)
    other = a_copy(500, "completed")
    other.run.started_at = "2026-01-16T10:00:00Z"

    assert "the last" not in watched(path, lambda: save(other, path))


def test_a_directory_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["watch", str(tmp_path)])

    assert done.exit_code == 2
    assert "is a directory" in done.stderr


def test_ctrl_c_ends_the_watching_quietly(path: Path) -> None:
    profile = a_data_bound_run()
    profile.run.ended = "running"
    save(profile, path)
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", "from stepscope.advisor.cli import main; main()", "watch", path],
        stdout=theirs,
        stderr=theirs,
        stdin=subprocess.DEVNULL,
    )
    os.close(theirs)
    shown = b""
    while b"Where the step goes" not in shown:
        shown += os.read(ours, 4096)
    child.send_signal(signal.SIGINT)

    with os.fdopen(ours, "rb", buffering=0) as terminal:
        try:
            while more := terminal.read(4096):
                shown += more
        except OSError:  # how Linux tells that the other side has closed
            pass
    assert child.wait(timeout=30) == 0
    assert b"Traceback" not in shown
    assert shown.rstrip().endswith(b"\x1b[?25h")  # the cursor is back
