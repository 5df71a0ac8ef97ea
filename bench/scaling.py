"""Predicted against measured: what another link, smaller messages, accumulation, batch or number of
ranks do to the time of a step, on real ranks over gloo whose links have a known rate.

    python bench/scaling.py run --out FOLDER [--only PROGRAM/CHANGE]   # as root, a minute a run
    python bench/scaling.py report FOLDER

Each program is recorded once, with two ranks; each change is made and its steps are timed by the
program's own clock. What exists in FOLDER is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from rank_corpus.network import DEVICE, both_ways, network  # found through the line above

from stepscope.advisor.inputs import load_input
from stepscope.advisor.scaling.answer import answer
from stepscope.advisor.scaling.forecast import Scenario

PROGRAM = Path(__file__).parent / "scaling_rank.py"
RANKS, MEGABITS, BATCH, STEPS = 2, 50.0, 8, 80


class Case(NamedTuple):
    """A program as it is, or with a change."""

    scenario: Scenario
    arguments: tuple[str, ...] = ()
    """Of the program, that make the change."""


CHANGES = {
    "base": Case(Scenario()),
    "link2": Case(Scenario(link=2)),
    "half": Case(Scenario(gradient_bytes=0.5), ("--half",)),
    "accumulate4": Case(Scenario(accumulate=4), ("--accumulate", "4")),
    "batch2": Case(Scenario(batch=2)),
    "weak4": Case(Scenario(ranks=4)),
    "strong4": Case(Scenario(ranks=4, scaling="strong")),
    "single": Case(Scenario(ranks=1)),
}
PROGRAMS = {
    "ddp": ("--program", "ddp"),
    "calls": ("--program", "calls"),
    "uneven": ("--program", "ddp", "--jitter-ms", "60"),
}
FASTER = {"uneven": 10.0}
"""Links of a program, over the usual ones: its ranks wait for each other rather than for bytes."""


def run_ranks(arguments: Sequence[str], ranks: int, megabits: float) -> float:
    """Seconds a step, as rank 0 of so many has timed them.

    Raises:
        RuntimeError: a rank has failed.
        OSError: no network can be built.
    """
    with network([both_ways(1e6 * megabits)] * ranks) as net:
        environment = {
            **os.environ,
            "MASTER_ADDR": net.address(0),
            "MASTER_PORT": "29400",
            "WORLD_SIZE": str(ranks),
            "GLOO_SOCKET_IFNAME": DEVICE,
            "OMP_NUM_THREADS": "1",
        }
        started = [
            subprocess.Popen(
                net.inside(rank, [sys.executable, str(PROGRAM), *arguments]),
                env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(ranks)
        ]
        outputs = [process.communicate() for process in started]
    for rank, (process, (_, errors)) in enumerate(zip(started, outputs, strict=True)):
        if process.returncode:
            raise RuntimeError(f"rank {rank} has failed: {errors.strip()[-2000:]}")
    return float(outputs[0][0].split()[-1])


def run(folder: Path, only: str | None) -> None:
    """Time all changes of all programs, and record them as they are."""
    for program, arguments in PROGRAMS.items():
        for name, (scenario, more) in CHANGES.items():
            place = folder / program / name
            if (only and only != f"{program}/{name}") or (place / "seconds.json").exists():
                continue
            place.mkdir(parents=True, exist_ok=True)
            ranks = scenario.ranks or RANKS
            batch = BATCH * scenario.batch
            if scenario.scaling == "strong":
                batch *= RANKS / ranks
            rate = MEGABITS * FASTER.get(program, 1.0) * scenario.link
            options = [*arguments, *more, "--batch", f"{batch:.0f}", "--steps", str(STEPS)]
            if name == "base":
                recorded = [*options, "--profile", str(place / "profile.json")]
                run_ranks(recorded, ranks, rate)
            seconds = run_ranks(options, ranks, rate)
            (place / "seconds.json").write_text(json.dumps(seconds))
            print(f"{program}/{name}: {1e3 * seconds:.1f} ms a step", flush=True)


def report(folder: Path) -> None:
    """A table of predicted and measured times of a step."""
    print("| program | change | now | predicted | 90 % interval | measured | off by |")
    print("|---|---|---|---|---|---|---|")
    errors, inside = [], 0
    for program in PROGRAMS:
        base = folder / program / "base"
        if not (base / "seconds.json").exists():
            continue
        profile, now = load_input(base), _seconds(base)
        for name, (scenario, _) in CHANGES.items():
            if name == "base" or not (folder / program / name / "seconds.json").exists():
                continue
            found, measured = (
                answer(profile, scenario, str(base)),
                _seconds(folder / program / name),
            )
            times: list[Any] = [now, found.predicted_step_seconds, found.step_low, found.step_high]
            now_, predicted, low, high = (f"{1e3 * x:.0f}" for x in times)
            error = found.predicted_step_seconds / measured - 1
            errors.append(abs(error))
            inside += found.step_low <= measured <= found.step_high
            print(
                f"| {program} | {name} | {now_} ms | {predicted} ms | {low} to {high} | "
                f"{1e3 * measured:.0f} ms | {error:+.0%} |"
            )
    print(f"\n{inside} of {len(errors)} inside the interval; median error {median(errors):.1%}")


def _seconds(place: Path) -> float:
    return float(json.loads((place / "seconds.json").read_text()))


def main() -> None:
    """As the module says."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("--out", type=Path, required=True)
    running.add_argument("--only")
    commands.add_parser("report").add_argument("out", type=Path)
    options = parser.parse_args()
    if options.command == "run":
        run(options.out, options.only)
    else:
        report(options.out)


if __name__ == "__main__":
    main()
