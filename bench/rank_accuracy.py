"""How right the advice on jobs of several ranks is, on the corpus in tests/rank_corpus.

    python bench/rank_accuracy.py run [NAME...] --out FOLDER [--seconds 4] [--again]
    python bench/rank_accuracy.py report FOLDER

`run` needs root, for network namespaces. It records each rank's profile and the truth: the job with
the cause and with it really removed, in turn. `report` judges what is recorded.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click
from accuracy_run import TESTS, heavy_group
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(TESTS))
from rank_corpus import cores, job, judging, network, truth  # found through the line above
from rank_corpus.case import Case
from rank_corpus.corpus import CASES

from stepscope.advisor.advice import Prediction
from stepscope.advisor.rule_files import load_knowledge

SEGMENTS_A_SIDE = 4


@dataclass(frozen=True)
class Result:
    """One case, judged."""

    case: Case
    found: judging.Found
    true: truth.Gain
    step_seconds: float

    @property
    def error(self) -> float | None:
        """Predicted over measured gain, minus one."""
        return self.found.predicted and self.found.predicted.speedup / self.true.value - 1

    @property
    def covered(self) -> bool:
        """Whether the measured gain lies in the predicted interval."""
        p = self.found.predicted
        return p is not None and p.low <= self.true.value <= p.high

    @property
    def link_error(self) -> float | None:
        """Estimated over planted rate of the slowest link, minus one."""
        slow, rate = self.case.slow, self.found.bits_per_s
        if not slow or rate is None or self.case.cause is None:
            return None
        return rate / min(min(link.up, link.down) for link in slow.values()) - 1


@click.group()
def cli() -> None:
    """Measure how right the advice on several ranks is."""


@cli.command("run")
@click.argument("names", nargs=-1)
@click.option("--out", "folder", required=True, type=click.Path(path_type=Path))
@click.option("--seconds", default=4.0, show_default=True, help="Length of a profile.")
@click.option("--again", is_flag=True, help="Run what is there already, too.")
def run_command(names: tuple[str, ...], folder: Path, seconds: float, again: bool) -> None:
    """Record profiles and truths of the cases NAMES (all if none is given)."""
    if unknown := [name for name in names if name not in CASES]:
        raise click.UsageError(f"no such case: {', '.join(unknown)}")
    if missing := network.obstacle() or cores.obstacle():
        raise click.ClickException(missing)
    with heavy_group() as group:
        _enter(group)
        try:
            _record(names or tuple(CASES), folder, seconds, again)
        finally:
            _enter(group and group.parent)


def _enter(group: Path | None) -> None:
    """Our place, and that of all ranks started from here."""
    if group is not None:
        (group / "cgroup.procs").write_text("0")


def _record(names: tuple[str, ...], folder: Path, seconds: float, again: bool) -> None:
    for name in names:
        place, begin = folder / name, time.monotonic()
        if (place / truth.FILE).exists() and not again:
            continue
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        try:
            job.run(CASES[name], place, seconds, SEGMENTS_A_SIDE)
            gain = truth.read(place).gain()
            done = f"x{gain.value:.2f} [{gain.low:.2f}, {gain.high:.2f}]"
        except job.JobError as error:
            done = f"FAILED: {error}"
        print(f"{name:24} {done}  ({time.monotonic() - begin:.0f} s)", flush=True)


@cli.command("report")
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
def report_command(folder: Path) -> None:
    """Judge all that FOLDER holds."""
    knowledge = load_knowledge()
    results = []
    for case in CASES.values():
        place = folder / case.name
        if (place / truth.FILE).exists():
            measured = truth.read(place)
            results.append(
                Result(
                    case,
                    judging.judge(case, place, knowledge),
                    measured.gain(),
                    statistics.median(measured.planted),
                )
            )
    Console(width=160 if not sys.stdout.isatty() else None).print(table(results))
    print("\n".join(["", *summary(results)]))


def table(results: list[Result]) -> Table:
    """One line for each case."""
    lines = Table(box=None, pad_edge=False)
    for head in ("case", "named", "who"):
        lines.add_column(head, no_wrap=True)
    for head in ("T ms", "measured", "predicted", "error", "link"):
        lines.add_column(head, justify="right", no_wrap=True)
    for head in ("covered", "right"):
        lines.add_column(head, no_wrap=True)
    for r in results:
        p = r.found.predicted
        lines.add_row(
            r.case.name,
            r.found.cause,
            r.found.who,
            f"{1e3 * r.step_seconds:.1f}",
            _interval(r.true),
            _interval(p) if p else "",
            "" if r.error is None else f"{r.error:+.0%}",
            "" if r.link_error is None else f"{r.link_error:+.0%}",
            "" if p is None else "yes" if r.covered else "no",
            "yes" if r.found.right else "NO",
        )
    return lines


def _interval(gain: truth.Gain | Prediction) -> str:
    value = gain.value if isinstance(gain, truth.Gain) else gain.speedup
    return f"{value:.2f} \\[{gain.low:.2f}, {gain.high:.2f}]"


def summary(results: list[Result]) -> list[str]:
    """The figures that count."""
    planted = [r for r in results if r.case.cause]
    errors = sorted(abs(r.error) for r in planted if r.error is not None)
    links = sorted(abs(r.link_error) for r in results if r.link_error is not None)
    noise = [(r.true.high - r.true.low) / 2 / r.true.value for r in planted]
    lines = [
        f"{len(planted)} planted, {len(results) - len(planted)} healthy",
        f"  right cause and rank     {_part([r.found.right for r in planted])}",
        f"  healthy left alone       {_part([r.found.right for r in results if not r.case.cause])}",
    ]
    if errors:
        lines += [
            f"  |predicted / true - 1|   median {statistics.median(errors):.1%}, "
            f"p90 {_p90(errors)}",
            f"  within 15 %              {_part([error <= 0.15 for error in errors])}",
            f"  true in 90 % interval    {_part([r.covered for r in planted])}",
            f"  noise of the truth       +-{statistics.median(noise):.1%} (median half-width)",
        ]
    if links:
        lines += [
            f"  |estimated / planted rate - 1|  median {statistics.median(links):.1%}, "
            f"p90 {_p90(links)}",
            f"  within 20 %              {_part([error <= 0.20 for error in links])}",
        ]
    return lines


def _p90(ordered: list[float]) -> str:
    return f"{ordered[round(0.9 * (len(ordered) - 1))]:.1%}"


def _part(flags: list[bool]) -> str:
    return f"{sum(flags)}/{len(flags)}" if flags else "none"


if __name__ == "__main__":
    cli()
