"""How long a person waits for the advice: whole processes, and the rules alone; medians.

    python bench/advise_speed.py [PROFILE]

Without PROFILE, one of 1,000,000 steps is synthesised.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from stepscope.advisor.engine import judge
from stepscope.advisor.facts import facts_of
from stepscope.advisor.measure import measure
from stepscope.advisor.rule_files import load_knowledge
from stepscope.profiler import profile
from stepscope.profiler.storage import load

RUNS = 9


def wall_seconds(command: list[str]) -> float:
    """Median wall time of a command over `RUNS` runs, after one that warms the caches."""
    times = []
    for _ in range(RUNS + 1):
        begin = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:])


def long_profile(path: Path, steps: int = 1_000_000) -> None:
    """A recording of `steps` empty steps with plausible columns."""
    with profile(path, operator_steps=0) as prof:
        recorder = prof._recording.recorder
        chance = random.Random(0)
        for _ in range(steps):
            recorder.end_step()
            recorder.spent[recorder.wait] += chance.randrange(1000)


def cpu_seconds(call: Callable[[], object]) -> float:
    """Median processor time of a call in this process, which a busy machine stretches less."""
    times = []
    for _ in range(RUNS + 1):
        begin = time.process_time()
        call()
        times.append(time.process_time() - begin)
    return statistics.median(times[1:])


def rules_alone() -> None:
    """Loading and evaluating everything, with what was parsed before and without."""
    recorded = Path(__file__).parents[1] / "tests" / "advisor" / "recorded" / "jpeg_decode.json"
    run = load(recorded)
    facts = facts_of(run, measure(run))
    rules = load_knowledge().rules.values()
    loading = cpu_seconds(load_knowledge)
    judging = cpu_seconds(lambda: [judge(rule, facts) for rule in rules])
    with tempfile.NamedTemporaryFile() as no_folder:
        os.environ["XDG_CACHE_HOME"] = no_folder.name
        parsing = cpu_seconds(load_knowledge)
        del os.environ["XDG_CACHE_HOME"]
    print(f"load all rules      {loading * 1e3:7.0f} ms (the first time {parsing * 1e3:.0f} ms)")
    print(f"judge all rules     {judging * 1e3:7.0f} ms")


def main() -> None:
    rules_alone()
    advise = [sys.executable, "-c", "from stepscope.advisor.cli import main; main()"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder, "long.json")
        if len(sys.argv) == 1:
            long_profile(path)
        html = Path(folder, "report.html")
        print(f"python -c pass      {wall_seconds([sys.executable, '-c', 'pass']) * 1e3:7.0f} ms")
        print(f"advise --help       {wall_seconds([*advise, '--help']) * 1e3:7.0f} ms")
        command = [*advise, str(path), "--html", str(html)]
        print(f"advise profile.json {wall_seconds(command) * 1e3:7.0f} ms")
        print(
            f"profile {path.stat().st_size / 1e6:.2f} MB, report {html.stat().st_size / 1e6:.2f} MB"
        )


if __name__ == "__main__":
    main()
