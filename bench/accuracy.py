"""How right the advice is, on the loops of known bottleneck in tests/ground_truth.

    python bench/accuracy.py run [NAME...] --out FOLDER [--held-out] [--seconds 7] [--again]
    python bench/accuracy.py report FOLDER [--plot accuracy.svg]

`run` records profiles and truths and keeps those that are there; `report` judges what is recorded,
so that a changed model is judged again without running anything.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
from accuracy_plot import calibration_plot
from accuracy_run import TESTS, run
from rich.console import Console

sys.path.insert(0, str(TESTS))
from ground_truth.corpus import LOOPS  # found through the line above


@click.group()
def cli() -> None:
    """Measure how right the advice is."""


@cli.command("run")
@click.argument("names", nargs=-1)
@click.option("--out", "folder", required=True, type=click.Path(path_type=Path))
@click.option("--held-out", is_flag=True, help="The held-out loops, not the others.")
@click.option("--seconds", default=7.0, show_default=True, help="Length of a profile.")
@click.option("--again", is_flag=True, help="Run what is there already, too.")
def run_command(
    names: tuple[str, ...], folder: Path, held_out: bool, seconds: float, again: bool
) -> None:
    """Record profiles and truths of the loops NAMES (all of the tuned ones if none is given)."""
    if unknown := [name for name in names if name not in LOOPS]:
        raise click.UsageError(f"no such loop: {', '.join(unknown)}")
    chosen = names or [loop.name for loop in LOOPS.values() if loop.held_out == held_out]
    run(list(chosen), folder, seconds, again=again)


@cli.command("report")
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--plot", type=click.Path(path_type=Path), help="Write predicted against true here.")
def report_command(folder: Path, plot: Path | None) -> None:
    """Judge all that FOLDER holds."""
    from accuracy_report import judge, plotted, summary, table  # noqa: PLC0415  # `run` needs none

    results = []
    for path in sorted(folder.glob("*.truth.json")):
        loop = LOOPS.get(path.name.removesuffix(".truth.json"))
        if loop is None or not (folder / f"{loop.name}.json").exists():
            print(f"{path.name}: no loop or no profile of that name")
            continue
        try:
            results.append(judge(loop, folder))
        except Exception as error:  # one unreadable profile must not hide the others
            print(f"{loop.name}: cannot be judged: {error!r}")
    results.sort(key=lambda r: (r.loop.held_out, r.loop.kind, r.loop.cause or "", r.loop.name))
    Console(width=172 if not sys.stdout.isatty() else None).print(table(results))
    tuned = [r for r in results if not r.loop.held_out]
    held_out = [r for r in results if r.loop.held_out]
    print("\n".join(["", *summary("tuned", tuned), *summary("held out (*)", held_out)]))
    if plot:
        plot.write_text(calibration_plot(plotted(tuned), plotted(held_out)), encoding="utf-8")


if __name__ == "__main__":
    cli()
