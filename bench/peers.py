"""Other tools on our corpus: what each says about loops whose bottleneck we planted.

TraceML, gpuprof and train-doctor each run every loop of `tests/ground_truth` as their own
documentation wants a plain PyTorch loop to be run, one process per tool and loop, and are read
through their own machine-readable output. `peer_labels.py` says what counts as right, in their
favour where a label leaves it open. They need an environment apart with torch, stepscope's
requirements and

    pip install traceml-ai==0.5.0 gpuprof==0.7.1 psutil train-doctor==0.2.0

    python bench/peers.py run --out FOLDER --python ENVIRONMENT/bin/python [NAME ...]
    python bench/peers.py report FOLDER [--ours FOLDER_OF_ACCURACY]

`run` does what FOLDER does not hold yet, and what went wrong, again; nothing else should run on the
machine meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from peer_labels import Finding, Verdict, outcome, verdict
from peer_loop import LOOPS, Loop, least_steps

OUTCOMES = (
    "exact",
    "category",
    "wrong",
    "abstained",
    "false alarm",
    "quiet",
    "could not run",
)
LOOP_SCRIPT = str(Path(__file__).resolve().with_name("peer_loop.py"))


@dataclass(frozen=True)
class Call:
    """One loop for one tool."""

    loop: str
    folder: Path
    """Empty at the start; everything that the tool writes goes here."""
    python: Path
    """Interpreter of the environment that the tool is installed in."""
    seconds: float
    timeout_s: float

    def script(self, mode: str, seconds: float) -> list[str]:
        """Arguments of `peer_loop.py`."""
        return [mode, self.loop, str(seconds), str(self.folder)]

    def command(self, name: str) -> str:
        """A command of that environment."""
        return str(self.python.parent / name)


def traceml(call: Call) -> list[Finding]:
    """The primary diagnosis, then those of the sections."""
    options = ["--logs-dir", str(call.folder), "--run-name", "run"]
    script = call.script("traceml", call.seconds)
    run(call, [call.command("traceml"), "run", LOOP_SCRIPT, *options, "--args", *script])
    summary = json.loads((call.folder / "run" / "final_summary.json").read_text())
    sections = (summary[name] for name in ("step_time", "step_memory", "process", "system"))
    said = [summary["primary_diagnosis"], *(section["diagnosis"] for section in sections)]
    grave = {"info": 0, "warn": 1, "crit": 2}
    return [Finding(d["kind"], grave[d["severity"]]) for d in said if d]


def gpuprof(call: Call) -> list[Finding]:
    """Insights as `gpuprof insights --json` lists them."""
    run(call, [str(call.python), LOOP_SCRIPT, *call.script("gpuprof", call.seconds)])
    database = str(call.folder / "gpuprof.db")
    told = run(call, [call.command("gpuprof"), "insights", database, "--json"])
    grave = {"low": 0, "medium": 1, "high": 2}
    return [Finding(i["title"], grave[i["severity"]]) for i in json.loads(told)["insights"]]


def train_doctor(call: Call) -> list[Finding]:
    """Findings by score. Those within 20 % of the first stand beside it; priors only inform."""
    options = ["--seconds", str(call.seconds), "--timeout", str(call.timeout_s - 20)]
    options += ["--steps", str(least_steps(LOOPS[call.loop]))]
    # The loop shall outlast the window: train-doctor stops it.
    script = [str(call.python), LOOP_SCRIPT, *call.script("train-doctor", call.timeout_s)]
    profile = [call.command("train-doctor"), "profile", "--json", "--out", str(call.folder)]
    report = json.loads(run(call, [*profile, *options, "--", *script]))
    evidence = json.loads((Path(report["run_dir"]) / "evidence.json").read_text())
    if report["error"] or evidence["source"] == "none":
        raise RuntimeError(report["next_step"])
    measured = [f["score"] for f in report["findings"] if "prior" not in f["score_basis"]]
    findings = []
    for f in report["findings"]:
        beside = f["score"] >= 0.8 * max(measured, default=0)
        severity = 0 if "prior" in f["score_basis"] else 2 if beside else 1
        bound = re.match(r"At most ([\d.]+)x", f["expected_effect"])
        findings.append(Finding(f["id"], severity, float(bound[1]) if bound else None))
    return findings


TOOLS: dict[str, Callable[[Call], list[Finding]]] = {
    "TraceML": traceml,
    "gpuprof": gpuprof,
    "train-doctor": train_doctor,
}


def run(call: Call, command: list[str]) -> str:
    """Standard output of `command`; both streams are kept in the folder.

    Raises RuntimeError with its last words if it fails or outlasts `timeout_s`; nothing that it
    started, in whatever process group, outlives this call.
    """
    out, err = call.folder / "stdout", call.folder / "stderr"
    environment = {**os.environ, "PATH": f"{call.python.parent}:{os.environ['PATH']}"}
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = psutil.Popen(
            command,
            cwd=call.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
        try:
            status = process.wait(call.timeout_s)
        except psutil.TimeoutExpired:
            raise RuntimeError(f"not done after {call.timeout_s:.0f} s") from None
        finally:
            end_all(process)
    if status:
        last = (err.read_text(errors="replace").strip() or "no message").splitlines()[-1]
        raise RuntimeError(f"exit status {status}: {last}")
    return out.read_text(errors="replace")


def end_all(process: psutil.Popen) -> None:
    """Kill a process, its descendants and whoever else is left of its session."""
    family = [process, *process.children(recursive=True)] if process.is_running() else []
    family += [p for p in psutil.process_iter() if _session(p.pid) == process.pid]
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=10)


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def run_all(names: list[str], out: Path, python: Path, seconds: float, timeout_s: float) -> None:
    """Every tool on every loop named, or on all; one JSON file each."""
    for name in names or sorted(LOOPS):
        for tool, diagnose in TOOLS.items():
            result = out / tool / f"{name}.json"
            if result.exists() and not json.loads(result.read_text())["problem"]:
                continue
            folder = result.with_suffix("")
            # A first try may have been interrupted: TraceML wants a folder of its own.
            folder = next(f for i in range(1000) if not (f := folder / str(i)).exists())
            folder.mkdir(parents=True)
            said: dict[str, Any]
            try:
                call = Call(name, folder, python.absolute(), seconds, timeout_s)
                said = {"findings": [asdict(f) for f in diagnose(call)], "problem": None}
            except Exception as error:  # whatever goes wrong is the tool's result
                said = {"findings": [], "problem": f"{type(error).__name__}: {error}"}
            result.write_text(json.dumps(said, indent=1))
            print(f"{name:30} {tool:13} {cell(LOOPS[name], tool, said)[1]}", flush=True)


def accepted(loop: Loop) -> tuple[str, ...]:
    """The causes that count as right; none for a healthy loop."""
    return (loop.cause, *loop.accepted) if loop.cause else ()


def cell(loop: Loop, tool: str, said: dict[str, Any]) -> tuple[str, str]:
    """Outcome, and the text of the table's cell."""
    if said["problem"]:
        return "could not run", f"could not run: {said['problem']}"
    return judged(loop, verdict(tool, (Finding(**f) for f in said["findings"])))


def judged(loop: Loop, said: Verdict | None) -> tuple[str, str]:
    """Outcome and text of a verdict."""
    result = outcome(accepted(loop), said)
    if said is None:
        return result, result
    gain = f", at most {said.gain:.2f}x" if said.gain else ""
    return result, f"{result}: {said.label}{gain}"


Cells = dict[str, tuple[str, str]]
"""Outcome and text of a column, by loop."""


def peer_cells(out: Path, tool: str) -> Cells:
    """What `run` left of `tool`."""
    files = ((name, out / tool / f"{name}.json") for name in LOOPS)
    return {
        name: cell(LOOPS[name], tool, json.loads(file.read_text()))
        for name, file in files
        if file.exists()
    }


def our_cells(folder: Path) -> Cells:
    """What bench/accuracy.py judges of its recordings: strictly, "healthy" is never half right."""
    from accuracy_report import judge  # noqa: PLC0415 - the other commands do without stepscope

    cells: Cells = {}
    for name, loop in LOOPS.items():
        if not (folder / f"{name}.truth.json").exists() or not (folder / f"{name}.json").exists():
            continue
        result = judge(loop, folder)
        gain = f", {result.predicted.speedup:.2f}x" if result.predicted else ""
        is_right = "exact" if loop.cause else "quiet"
        word = {"right": is_right, "wrong": "category" if result.category_right else "wrong"}
        said = word.get(result.judgement, result.judgement)
        cells[name] = said, f"{said}: {result.named}{gain}"
    return cells


def report(columns: dict[str, Cells]) -> Iterator[str]:
    """Lines of two Markdown tables, tuned and held-out loops, each with its totals."""
    for held_out in (False, True):
        loops = [loop for loop in LOOPS.values() if loop.held_out == held_out]
        if not loops:
            continue
        loops.sort(key=lambda loop: (loop.cause or "~", loop.name))
        yield f"## {'Held-out' if held_out else 'Tuned'} loops\n"
        yield from rows(["loop", "truth", *columns])
        for loop in loops:
            texts = [cells.get(loop.name, ("", ""))[1] for cells in columns.values()]
            yield row([loop.name, loop.cause or "healthy", *texts])
        yield ""
        yield from rows(["tool", *OUTCOMES, "of planted", "of healthy"])
        for tool, cells in columns.items():
            seen = [loop for loop in loops if loop.name in cells]
            counts = Counter(cells[loop.name][0] for loop in seen)
            planted = sum(loop.kind == "planted" for loop in seen)
            numbers = [*(counts[result] for result in OUTCOMES), planted, len(seen) - planted]
            yield row([tool, *map(str, numbers)])
        yield ""


def row(texts: list[str]) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(text.replace('|', '/') for text in texts)} |"


def rows(titles: list[str]) -> list[str]:
    """The head of a Markdown table."""
    return [row(titles), row(["---"] * len(titles))]


def main() -> None:
    """Read the command line and act."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("names", nargs="*", metavar="NAME")
    running.add_argument("--out", type=Path, required=True)
    running.add_argument("--python", type=Path, required=True)
    running.add_argument(
        "--seconds", type=float, default=8.0, help="of training (at least 50 steps)"
    )
    running.add_argument("--timeout", type=float, default=180.0, help="seconds for one tool's run")
    reporting = commands.add_parser("report")
    reporting.add_argument("folder", type=Path)
    reporting.add_argument("--ours", type=Path, help="what bench/accuracy.py recorded")
    args = parser.parse_args()
    if args.command == "run":
        run_all(args.names, args.out.absolute(), args.python, args.seconds, args.timeout)
        return
    columns = {"stepscope": our_cells(args.ours)} if args.ours else {}
    columns |= {tool: peer_cells(args.folder, tool) for tool in TOOLS}
    print("\n".join(report(columns)))


if __name__ == "__main__":
    main()
