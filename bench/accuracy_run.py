"""Record the corpus: for each loop a profile, and the truth beside it.

The truth is what removing the planted cause gains in fact: segments of the loop as planted and with
the cause removed, in turn (ABBA), each in a fresh start, so that both sides meet the same machine.
Both run in processes of their own; this file is also the program of those processes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import psutil

TESTS = Path(__file__).resolve().parents[1] / "tests"
SKIPPED_STEPS = 25
"""Before anything counts: ten workers with two batches each, and five."""
LEAST_STEPS = 60
SEGMENTS_A_SIDE = 4
TIMEOUT_SECONDS = 120.0
_HEAVY = 10  # times the weight that other programs have


class Segment(msgspec.Struct):
    """One stretch of a loop."""

    step_seconds: float
    steps: int
    foreign_cores: float
    """Cores that were busy for others than the loop and its neighbours."""


class Truth(msgspec.Struct):
    """What the cause costs: the loop with it and without it."""

    loop: str
    planted: list[Segment]
    removed: list[Segment]


def run(names: list[str], folder: Path, seconds: float, *, again: bool) -> None:
    """Record every loop into `folder`; what is there already is kept unless `again`."""
    folder.mkdir(parents=True, exist_ok=True)
    with heavy_group() as group:
        if group is None:
            print("no writable cpu cgroup: other programs are not held back", flush=True)
        for name in names:
            begin = time.monotonic()
            results = []
            for role, path in (
                ("profile", folder / f"{name}.json"),
                ("truth", folder / f"{name}.truth.json"),
            ):
                if again or not path.exists():
                    results.append(_in_process(role, name, path, seconds, group))
            done = ", ".join(results) or "there already"
            print(f"{name:22} {done}  ({time.monotonic() - begin:.0f} s)", flush=True)


def _in_process(role: str, name: str, path: Path, seconds: float, group: Path | None) -> str:
    partial = path.with_name(f"{path.name}.partial")
    path.unlink(missing_ok=True)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH")))),
        "PYTHONWARNINGS": "ignore",
    }
    child = subprocess.Popen(
        [sys.executable, __file__, role, name, str(partial), str(seconds), str(group or "")],
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _, said = child.communicate(timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        said = f"timed out after {TIMEOUT_SECONDS:.0f} s"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        _end_all(group)
    if child.returncode != 0 or not partial.exists():
        partial.unlink(missing_ok=True)
        last = said.strip().splitlines()[-1:] or [f"exit status {child.returncode}"]
        return f"{role} FAILED: {last[0]}"
    partial.rename(path)
    return role if role == "profile" else _in_words(read_truth(path))


def _in_words(truth: Truth) -> str:
    with_cause, without = median_step_seconds(truth.planted), median_step_seconds(truth.removed)
    foreign = max(s.foreign_cores for s in truth.planted + truth.removed)
    return (
        f"truth {1e3 * with_cause:.2f} -> {1e3 * without:.2f} ms, x{with_cause / without:.2f}, "
        f"foreign cores up to {foreign:.1f}"
    )


def read_truth(path: Path) -> Truth:
    """What `path` holds."""
    return msgspec.json.decode(path.read_bytes(), type=Truth)


def median_step_seconds(segments: list[Segment]) -> float:
    """Step time of the median segment: what disturbs one of them disturbs no result."""
    return median(s.step_seconds for s in segments)


@contextmanager
def heavy_group() -> Iterator[Path | None]:
    """A control group that gets the processor before others; None where we may not make one."""
    made = None
    for parent, weight, value in (
        (Path("/sys/fs/cgroup/cpu"), "cpu.shares", 1024 * _HEAVY),
        (Path("/sys/fs/cgroup"), "cpu.weight", 100 * _HEAVY),
    ):
        group = parent / f"accuracy-{os.getpid()}"
        if made is None and (parent / "cgroup.procs").exists():
            with suppress(OSError):
                group.mkdir()
                try:
                    (group / weight).write_text(str(value))
                    made = group
                except OSError:
                    group.rmdir()
    try:
        yield made
    finally:
        if made is not None:
            _end_all(made)
            made.rmdir()


def _end_all(group: Path | None) -> None:
    """End what a loop has left behind in our own group."""
    for _ in range(100):
        left = (group / "cgroup.procs").read_text().split() if group else []
        if not left:
            return
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        time.sleep(0.05)


# What follows runs in the processes started above.


def _record(loop: Any, path: Path, seconds: float) -> None:
    from stepscope.profiler import profile  # noqa: PLC0415  # the truth's process needs no profiler

    step_seconds = _segment(loop, 1.0, seconds / 7).step_seconds
    steps = _whole_periods(loop, max(LEAST_STEPS, round(seconds / step_seconds)))
    skipped = _whole_periods(loop, SKIPPED_STEPS)
    # The loop's model outlives the recording, as it does in a script.
    with closing(loop.program(1.0)) as program, profile(path, warmup_steps=skipped) as prof:
        for _ in islice(program, skipped + steps):
            prof.step()
    if prof.path != path:  # of several ranks this one
        prof.path.rename(path)


def _measure_truth(loop: Any, path: Path, seconds: float) -> None:
    sides: dict[float, list[Segment]] = {1.0: [], 0.0: []}
    for _ in range(SEGMENTS_A_SIDE // 2):
        for severity in (1.0, 0.0, 0.0, 1.0):
            sides[severity].append(_segment(loop, severity, seconds / 5))
    path.write_bytes(msgspec.json.encode(Truth(loop.name, sides[1.0], sides[0.0])))


def _segment(loop: Any, severity: float, seconds: float) -> Segment:
    """Steps of a fresh start, for so long, in whole periods, after those that fill the queues."""
    with closing(loop.program(severity)) as program:
        _advance(program, _whole_periods(loop, SKIPPED_STEPS))
        busy, own = _busy_seconds(), _own_seconds()
        begin, steps = time.perf_counter(), 0
        while (passed := time.perf_counter() - begin) < seconds:
            _advance(program, loop.period)
            steps += loop.period
        foreign = (_busy_seconds() - busy - (_own_seconds() - own)) / passed
    foreign -= loop.neighbours * severity
    return Segment(passed / steps, steps, round(max(0.0, foreign), 3))


def _advance(program: Iterator[None], steps: int) -> None:
    for _ in islice(program, steps):
        pass


def _whole_periods(loop: Any, steps: int) -> int:
    return -(-steps // loop.period) * int(loop.period)


def _busy_seconds() -> float:
    """Processor seconds that the machine has spent on anything."""
    times = psutil.cpu_times()
    return sum(times[:3]) + sum(getattr(times, name, 0.0) for name in ("irq", "softirq", "steal"))


def _own_seconds() -> float:
    """Processor seconds of this process and all that descend from it."""
    own = sum(os.times()[:4])
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            own += sum(child.cpu_times()[:2])
    return own


def _main() -> None:
    from ground_truth.corpus import LOOPS  # noqa: PLC0415  # only these processes have the path

    role, name, path, seconds, group = sys.argv[1:]
    if group:
        Path(group, "cgroup.procs").write_text("0")
    task = {"profile": _record, "truth": _measure_truth}[role]
    task(LOOPS[name], Path(path), float(seconds))


if __name__ == "__main__":
    _main()
