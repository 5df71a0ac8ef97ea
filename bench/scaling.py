"""Predicted against measured: what another link, smaller messages, accumulation, batch or number of
ranks do to the time of a sample, on real ranks over gloo whose links have a known rate.

    python bench/scaling.py run --out FOLDER [--only NAME]     # as root, about a minute a run
    python bench/scaling.py report FOLDER

Each program is recorded once, with two ranks; each change is made and its steps are timed by the
program's own clock. What exists in FOLDER is not run again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

from links import run_ranks

PROGRAM = Path(__file__).parent / "scaling_rank.py"
RANKS, MEGABITS, BATCH, STEPS = 2, 50.0, 8, 80


class Case(NamedTuple):
    """A program as it is, or with a change."""

    arguments: tuple[str, ...] = ()
    ranks: int = RANKS
    link: float = 1.0
    batch: int = BATCH
    change: tuple[str, ...] = ()
    """How `advise what-if` is asked for it."""


CHANGES = {
    "base": Case(),
    "link2": Case(link=2.0, change=("--link", "2")),
    "half": Case(("--half",), change=("--gradient-bytes", "0.5")),
    "accumulate4": Case(("--accumulate", "4"), change=("--accumulate", "4")),
    "batch2": Case(batch=2 * BATCH, change=("--batch", "2")),
    "weak4": Case(ranks=4, change=("--ranks", "4")),
    "strong4": Case(ranks=4, batch=BATCH // 2, change=("--ranks", "4", "--scaling", "strong")),
}
PROGRAMS = {
    "ddp": ("--program", "ddp"),
    "calls": ("--program", "calls"),
    "uneven": ("--program", "ddp", "--jitter-ms", "60"),
}
FASTER = {"uneven": 10.0}
"""Links of a program, over the usual ones: its ranks wait for each other rather than for bytes."""


def run(folder: Path, only: str | None) -> None:
    """Time all changes of all programs, and record them as they are."""
    for program, arguments in PROGRAMS.items():
        for name, case in CHANGES.items():
            place = folder / program / name
            if (only and only != f"{program}/{name}") or (place / "seconds.json").exists():
                continue
            place.mkdir(parents=True, exist_ok=True)
            rate = MEGABITS * FASTER.get(program, 1.0) * case.link
            options = [*arguments, *case.arguments, "--batch", str(case.batch)]
            options += ["--steps", str(STEPS)]
            if name == "base":
                recorded = [*options, "--profile", str(place / "profile.json")]
                run_ranks(PROGRAM, recorded, case.ranks, rate)
            seconds = float(run_ranks(PROGRAM, options, case.ranks, rate).split()[-1])
            (place / "seconds.json").write_text(json.dumps(seconds))
            print(f"{program}/{name}: {1e3 * seconds:.1f} ms a step", flush=True)


def main() -> None:
    """As the module says."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("--out", type=Path, required=True)
    running.add_argument("--only")
    options = parser.parse_args()
    run(options.out, options.only)


if __name__ == "__main__":
    main()
