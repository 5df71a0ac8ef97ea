"""`advise run`: profile a program as it is, then judge the profile.

The program runs as it would without us: its own streams, exit status and signals. What we add are
two environment variables, which let `stepscope.profiler.launch` wake up inside it.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click

from stepscope.advisor.command import Refused, check_outputs, fail, judge, say, write

_CLAIM = "profile-"
_PASSED_ON = ("SIGTERM", "SIGHUP")


class Written(NamedTuple):
    """A profile that a process of the program has written."""

    rank: int
    path: Path


@click.command("run", context_settings={"allow_interspersed_args": False})
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("profile.json"),
    show_default=True,
    help="Profile to write; the report goes beside it.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    help="Stop recording after so many steps beyond warm-up; the program goes on.",
)
@click.option(
    "--probe",
    is_flag=True,
    help="After about 40 steps, try the model without its loader and the loader without its model. "
    "The program repeats an iteration ten times; its state is put back bit for bit, but what "
    "the loop counts, prints or saves meanwhile stays.",
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[--] PROGRAM [ARGUMENTS]...")
def run(out: Path, steps: int | None, probe: bool, command: Sequence[str]) -> None:
    """Run PROGRAM unchanged, profile its training steps, and judge them when it ends.

    \b
    advise run -- python train.py --epochs 1
    advise run --steps 200 -- torchrun --nproc-per-node 2 train.py

    Steps are found by themselves. Standard output and the exit status are the program's own; the
    verdict goes to standard error.
    """  # noqa: D301  # click takes the character, not its name
    if not command:
        fail("run: name the program, as in `advise run -- python train.py`")
    if out.is_dir():
        fail(f"{out}: is a directory; name a file in it")
    check_outputs([out], [_report_of([out])])
    if command[0] == "-m" or command[0].endswith(".py"):
        command = [sys.executable, *command]
    with tempfile.TemporaryDirectory(prefix="stepscope-run-") as folder:
        began_ns = time.time_ns()
        settings: dict[str, object] = {"out": str(out.absolute()), "folder": folder}
        settings |= {"steps": steps, "probe": probe}
        status = _execute(command, _environment(settings))
        written = _written(Path(folder), began_ns)
        if written:
            _judge(written)
        else:
            say(_why_none(Path(folder)))
    sys.exit(status)


def _environment(settings: dict[str, object]) -> dict[str, str]:
    import stepscope.profiler

    launch = Path(stepscope.profiler.__file__).parent / "launch"
    search = [str(launch), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(search),
        "STEPSCOPE_RUN": json.dumps(settings),
    }


def _execute(command: Sequence[str], environment: dict[str, str]) -> int:
    """Run a program to its end; its exit status as a shell tells it."""
    with _signals() as children:
        try:
            child = subprocess.Popen(command, env=environment)
        except OSError as error:
            say(f"{shlex.quote(command[0])}: cannot be started ({error.strerror})")
            sys.exit(127 if isinstance(error, FileNotFoundError) else 126)
        children.append(child)
        status = child.wait()
    return 128 - status if status < 0 else status


@contextmanager
def _signals() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Outlive what ends the program.

    Ctrl-C reaches it without us, being of our group; what is sent to us alone is passed on.
    """
    children: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _: Any) -> None:
        for child in children:
            child.send_signal(number)

    handlers: dict[int, Any] = {signal.SIGINT: lambda *_: None}
    handlers |= {getattr(signal, name): pass_on for name in _PASSED_ON if hasattr(signal, name)}
    # What we were told to ignore (nohup), the program ignores too.
    handlers = {n: h for n, h in handlers.items() if signal.getsignal(n) is not signal.SIG_IGN}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield children
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _written(folder: Path, began_ns: int) -> list[Written]:
    """The profiles that the program has left, rank by rank."""
    found = []
    for claim in sorted(folder.glob(f"{_CLAIM}*")):
        rank = int(claim.name.removeprefix(_CLAIM).partition("-")[0])
        path = Path(claim.read_text("utf-8"))
        if path.is_file() and path.stat().st_mtime_ns >= began_ns:  # not one of an earlier run
            found.append(Written(rank, path))
    return found


def _why_none(folder: Path) -> str:
    """One line on why there is no profile, from what the program's interpreters have left."""

    def left(name: str) -> str | None:
        return (folder / name).read_text("utf-8") if (folder / name).is_file() else None

    if (own := left("own")) is not None:
        return f"the program records a profile itself; judge it with `advise {shlex.quote(own)}`"
    if (missing := left("missing")) is not None:
        return f"could not profile: {missing}; there, pip install 'stepscope[torch]'"
    if left("python") is None:
        return "could not profile: no Python was started that reads PYTHONPATH (python -I, -E, -S?)"
    if left("torch") is None:
        return "no training step was found: the program did not import torch"
    return (
        "no training step was found: no two optimizer steps, backward passes or DataLoader "
        "batches were seen in any process before it ended"
    )


def _judge(written: list[Written]) -> None:
    """Say what holds the program back, all ranks together; our troubles are none of its."""
    from stepscope.profiler.storage import ProfileError

    try:
        paths = [_longest(written, rank) for rank in sorted({found.rank for found in written})]
        others = ", ".join(w.path.name for w in written if w.path not in paths)
        if others:
            shown = f"{paths[0]}" if len(paths) == 1 else f"those of {len(paths)} ranks"
            say(f"{len(written)} profiles were written; judged is {shown}, not {others}")
        write(judge(paths), _report_of(paths), err=True)
    except (ProfileError, Refused) as error:
        say(str(error))


def _longest(written: list[Written], rank: int) -> Path:
    """Of a rank's profiles the one with the most steps."""
    from stepscope.profiler.storage import load

    def steps(path: Path) -> int:
        profile = load(path)
        return profile.steady.total + profile.warmup.total

    paths = [found.path for found in written if found.rank == rank]
    return max(paths, key=steps) if len(paths) > 1 else paths[0]


def _report_of(paths: list[Path]) -> Path:
    from stepscope.advisor.inputs import stem

    return paths[0].parent / f"{stem(paths[0], ranks=len(paths) > 1)}.html"
