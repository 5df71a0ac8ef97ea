"""What exporting costs: processor time and peak memory of the whole command, for each format.

python bench/export_speed.py PROFILE_OR_TRACE... [--rounds 3]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from stepscope.advisor.export.registry import format_names

COMMAND = "from stepscope.advisor.cli import main; main()"


def measured(path: Path, name: str) -> tuple[float, float]:
    """Processor seconds and peak MB."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["export", str(path), "--to", name, "--out", str(Path(folder) / "out")]
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *arguments], stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{path} --to {name} failed")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for path in options.paths:
        for name in format_names():
            found = [measured(path, name) for _ in range(options.rounds)]
            seconds, megabytes = (statistics.median(column) for column in zip(*found, strict=True))
            print(f"{path.name:32} {name:12} {seconds:6.2f} CPU s {megabytes:6.0f} MB", flush=True)


if __name__ == "__main__":
    main()
