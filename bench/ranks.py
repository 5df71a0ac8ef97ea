"""Runs of many ranks: made from recorded ones, and what it costs to judge them.

    python bench/ranks.py profiles FOLDER --ranks 4096 --rows 1000
    python bench/ranks.py traces FOLDER --ranks 64 --megabytes 50
    python bench/ranks.py run FOLDER [--engine dask]

The first simulates a data-parallel job: the recorded ranks of tests/advisor/recorded over and over,
with noise of their own in every step, a slow rank, a slow host, a spike, and some ranks missing; in
each step all wait for the slowest. The second repeats the recorded traces of eight ranks. The third
tells processor time of all processes, wall time, and the peak of their resident memory together
(shared pages counted in each).
"""

from __future__ import annotations

import argparse
import gzip
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from traces import make

from stepscope.profiler.format import Profile, Steps
from stepscope.profiler.storage import load, save

TESTS = Path(__file__).parents[1] / "tests" / "advisor"
RECORDED = TESTS / "recorded" / "ranks_data"
DLRM = TESTS / "traces" / "data" / "dlrm"
RANKS_OF_A_HOST = 8
MS = 1_000_000
TRANSFER_MS, ARITHMETIC_MS, NOISE = 6.0, 3.0, 0.03
ADVISE = "import sys; from stepscope.advisor.cli import main; main()"


def make_profiles(folder: Path, ranks: int, rows: int, per_row: int) -> None:
    """Write the profiles of a simulated job, and tell what was planted."""
    chance = np.random.default_rng(0)
    recorded = [load(RECORDED / f"profile.rank{rank}.json") for rank in (0, 1, 3)]
    late = load(RECORDED / "profile.rank2.json")
    own = 16.0 * chance.normal(1.0, NOISE, (ranks, rows)).clip(0.5, 2.0)
    straggler, spiky, missing = ranks // 3, ranks // 2, set(range(7, ranks, max(8, ranks // 4)))
    missing -= {straggler, spiky}
    own[straggler] += 40.0
    own[spiky, rows // 2] += 400.0
    slow_host = ranks * 3 // 4 // RANKS_OF_A_HOST * RANKS_OF_A_HOST
    own[slow_host : slow_host + RANKS_OF_A_HOST] += 4.0
    exchange = own.max(axis=0) - own + TRANSFER_MS
    folder.mkdir(parents=True, exist_ok=True)
    for rank in set(range(ranks)) - missing:
        profile = late if rank == straggler else recorded[rank % len(recorded)]
        profile.run.rank, profile.run.world_size = rank, ranks
        profile.environment.host = f"node{rank // RANKS_OF_A_HOST:04}"
        data = own[rank] - 15.0 if rank == straggler else np.full(rows, 0.5)
        profile.steady = _steps(own[rank], data, exchange[rank], profile, per_row)
        for each in profile.collectives:
            each.backward_ns = int(ARITHMETIC_MS * MS)
        save(profile, folder / f"profile.rank{rank}.json")
    print(
        f"{ranks - len(missing)} of {ranks} ranks; slow: {straggler} (its data), and host "
        f"node{slow_host // RANKS_OF_A_HOST:04}; a spike on {spiky}; missing: {len(missing)}"
    )


def _steps(
    own: np.ndarray, data: np.ndarray, exchange: np.ndarray, profile: Profile, per_row: int
) -> Steps:
    """Steps of one rank from milliseconds per step, each row standing for several."""

    def column(values: np.ndarray) -> list[int]:
        return np.rint(values * MS * per_row).astype(np.int64).tolist()

    phases = dict.fromkeys(profile.steady.phases, np.zeros(len(own)))
    phases |= {
        "data_wait": data,
        "forward": np.full(len(own), 1.0),
        "backward": exchange + ARITHMETIC_MS,
        "optimizer": np.full(len(own), 0.5),
        "python": own - data - ARITHMETIC_MS - 1.5,
    }
    columns = {name: column(values) for name, values in phases.items()}
    wall = [sum(row) for row in zip(*columns.values(), strict=True)]
    busy = column(own / 4)
    return Steps(
        first=[10 + per_row * i for i in range(len(own))],
        count=[per_row] * len(own),
        wall_ns=wall,
        wall_max_ns=[time // per_row for time in wall],
        cpu_ns=busy,
        process_cpu_ns=busy,
        run_delay_ns=column(np.full(len(own), 0.1)),
        wait_cpu_ns=column(np.full(len(own), 0.1)),
        wait_run_delay_ns=column(np.full(len(own), 0.02)),
        phases=columns,
        calls={"optimizer_steps": [per_row] * len(own)},
    )


def make_traces(folder: Path, ranks: int, megabytes: float) -> None:
    """Write traces of so many unpacked megabytes each, from the recorded ones of eight ranks."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        for number, source in enumerate(sorted(DLRM.iterdir())):
            size = len(gzip.decompress(source.read_bytes()))
            large = Path(temporary, "large.json")
            make(source, large, max(1, round(megabytes * 1e6 / size)))
            text = re.sub(r'("world_size": ?)\d+', rf"\g<1>{ranks}", large.read_text())
            for rank in range(number, ranks, 8):
                named = re.sub(r'("distributedInfo": ?\{[^}]*"rank": ?)\d+', rf"\g<1>{rank}", text)
                (folder / f"rank{rank}.json.gz").write_bytes(gzip.compress(named.encode(), 1))


def run(folder: Path, engine: str) -> None:
    """Judge a folder, and tell what it took."""
    with tempfile.TemporaryDirectory() as temporary:
        arguments = [str(folder), "--html", f"{temporary}/report.html", "--engine", engine]
        began = time.monotonic()
        process = psutil.Popen([sys.executable, "-c", ADVISE, *arguments], stdout=subprocess.PIPE)
        peak = 0
        used: dict[int, float] = {}
        while process.poll() is None:
            here = 0
            for each in [process, *process.children(recursive=True)]:
                try:
                    here += each.memory_info().rss
                    times = each.cpu_times()
                    used[each.pid] = times.user + times.system
                except psutil.Error:
                    continue
            peak = max(peak, here)
            time.sleep(0.1)
        wall = time.monotonic() - began
        assert process.stdout is not None
        print(process.stdout.read().decode())
        report = Path(temporary, "report.html")
        size = report.stat().st_size if report.exists() else 0
    print(
        f"{engine}: {sum(used.values()):.1f} CPU s, {wall:.1f} s, {peak / 1e6:.0f} MB at most, "
        f"report {size / 1e6:.2f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("profiles", "traces", "run"):
        command = commands.add_parser(name)
        command.add_argument("folder", type=Path)
        if name == "run":
            command.add_argument("--engine", default="processes")
            continue
        command.add_argument("--ranks", type=int, default=4096 if name == "profiles" else 64)
        if name == "profiles":
            command.add_argument("--rows", type=int, default=1000)
            command.add_argument("--steps-per-row", type=int, default=64)
        else:
            command.add_argument("--megabytes", type=float, default=50.0)
    arguments = parser.parse_args()
    if arguments.command == "profiles":
        make_profiles(arguments.folder, arguments.ranks, arguments.rows, arguments.steps_per_row)
    elif arguments.command == "traces":
        make_traces(arguments.folder, arguments.ranks, arguments.megabytes)
    else:
        run(arguments.folder, arguments.engine)


if __name__ == "__main__":
    main()
