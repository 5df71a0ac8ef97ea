"""What reading a large trace costs, beside HolisticTraceAnalysis and torch-tb-profiler.

    python bench/traces.py make TRACE.json.gz LARGE.json --times 20
    python bench/traces.py run LARGE.json --rounds 3 [--peers PYTHON]

The first repeats a recorded trace, later and later, with correlations and step numbers of its own.
The second runs each tool in a process of its own, in turn, and tells processor time and peak memory
(of the process and of its children). PYTHON is an interpreter that has the other tools.
"""

from __future__ import annotations

import argparse
import gzip
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OURS = """
import sys
from pathlib import Path
from stepscope.advisor.advise import advise
from stepscope.advisor.inputs import load_input
from stepscope.advisor.rule_files import load_knowledge
advice = advise(load_input(Path(sys.argv[1])), load_knowledge([]))
print(advice.verdict.sentence)
"""
HTA = """
import sys, gzip, shutil, os, tempfile
from hta.trace_analysis import TraceAnalysis
folder = tempfile.mkdtemp()
path = os.path.join(folder, "rank0.json")
os.symlink(os.path.abspath(sys.argv[1]), path)
analysis = TraceAnalysis(trace_files={0: path}, trace_dir=folder)
print(analysis.get_temporal_breakdown(visualize=False).to_dict())
"""
TENSORBOARD = """
import sys, os, tempfile
from torch_tb_profiler.profiler.loader import RunLoader
from torch_tb_profiler import io
folder = tempfile.mkdtemp()
os.symlink(os.path.abspath(sys.argv[1]), os.path.join(folder, "worker0.pt.trace.json"))
caches = io.Cache(tempfile.mkdtemp())
loader = RunLoader("run", folder, caches)
run = loader.load()
print(next(iter(run.profiles.values())).overview["steps"]["rows"][:1] if run.profiles else run)
"""


def make(source: Path, target: Path, times: int) -> None:
    """Write `source` `times` times behind each other, as one trace."""
    content = source.read_bytes()
    text = (gzip.decompress(content) if source.suffix == ".gz" else content).decode()
    begin = re.search(r'"traceEvents"\s*:\s*\[', text)
    assert begin is not None
    end = text.rindex("]")
    head, body, tail = text[: begin.end()], text[begin.end() : end].strip(), text[end:]
    stamps = [float(t) for t in re.findall(r'"ts": ?(\d+(?:\.\d+)?)', body)]
    span = int(max(stamps) - min(stamps)) + 1000
    identifiers = 1 + max(int(i) for i in re.findall(r'"(?:correlation|id)": ?(\d+)', body))
    steps = 1 + max((int(n) for n in re.findall(r"ProfilerStep#(\d+)", body)), default=0)
    pattern = re.compile(r'("(?:ts|correlation|External id|id)": ?|ProfilerStep#)(\d+)')

    with target.open("w") as out:
        out.write(head)
        for i in range(times):
            shift = {'"ts":': i * span, "ProfilerStep#": i * steps}

            def moved(found: re.Match[str], i: int = i, shift: dict[str, int] = shift) -> str:
                key, value = found.groups()
                return f"{key}{int(value) + shift.get(key.rstrip(), i * identifiers)}"

            out.write((",\n  " if i else "\n  ") + pattern.sub(moved, body))
        out.write(tail)


def measured(python: str, code: str, trace: Path) -> tuple[float, float, float, str]:
    """Processor seconds, wall seconds, peak MB, and the last line printed."""
    with tempfile.NamedTemporaryFile("w+") as output:
        started = time.monotonic()
        process = subprocess.Popen(
            [python, "-c", code, str(trace)], stdout=output, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - started
        output.seek(0)
        lines = output.read().strip().splitlines() or [""]
    if status:
        return float("nan"), wall, float("nan"), lines[-1]
    return usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / 1000, lines[-1]


def run(trace: Path, rounds: int, peers: str | None) -> None:
    """Measure all tools in turn and print the medians."""
    tools = {"stepscope, to advice": (sys.executable, OURS)}
    if peers:
        tools["HTA, load + breakdown"] = (peers, HTA)
        tools["torch-tb-profiler"] = (peers, TENSORBOARD)
    seen: dict[str, list[tuple[float, float, float, str]]] = {name: [] for name in tools}
    for _ in range(rounds):
        for name, (python, code) in tools.items():
            seen[name].append(measured(python, code, trace))
            print(name, *seen[name][-1], flush=True)
    megabytes = trace.stat().st_size / 1e6
    print(f"{trace.name}: {megabytes:.0f} MB, {rounds} rounds, medians")
    for name, results in seen.items():
        cpu, wall, peak = (statistics.median(r[i] for r in results) for i in range(3))
        print(
            f"{name:24} {cpu:8.1f} CPU s {wall:8.1f} s {peak:8.0f} MB {megabytes / cpu:6.0f} MB/s"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make")
    making.add_argument("source", type=Path)
    making.add_argument("target", type=Path)
    making.add_argument("--times", type=int, default=20)
    running = commands.add_parser("run")
    running.add_argument("trace", type=Path)
    running.add_argument("--rounds", type=int, default=3)
    running.add_argument("--peers", help="interpreter with HolisticTraceAnalysis and the plugin")
    arguments = parser.parse_args()
    if arguments.command == "make":
        make(arguments.source, arguments.target, arguments.times)
    else:
        run(arguments.trace, arguments.rounds, arguments.peers)


if __name__ == "__main__":
    main()
