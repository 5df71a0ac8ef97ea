"""How long a person waits for the advice: whole processes, medians of several runs.

    python bench/advise_speed.py [PROFILE]

Without PROFILE, one of 1,000,000 steps is synthesised.
"""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from stepscope.profiler import profile

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


def main() -> None:
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
