"""Judge what was recorded of the corpus: advise on each profile, compare with the truth."""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass
from pathlib import Path

from accuracy_plot import Point
from accuracy_run import Truth, median_step_seconds, read_truth
from ground_truth.loop import Loop
from rich.table import Table

from stepscope.advisor.advice import Prediction
from stepscope.advisor.advise import advise
from stepscope.advisor.bottleneck import bottleneck
from stepscope.advisor.measure import measure
from stepscope.advisor.outcome import Outcome
from stepscope.advisor.places import unnamed_python
from stepscope.advisor.predict import predict
from stepscope.advisor.rule_files import load_knowledge
from stepscope.profiler.storage import load

RESAMPLES = 1000
_UNNAMED = 0.03


@dataclass(frozen=True)
class Result:
    """One loop, judged."""

    loop: Loop
    step_seconds: float
    """Mean step time as planted, from the truth's segments."""
    true: Point
    """Speedup when the planted cause is removed (a healthy loop: when its data costs nothing)."""
    predicted: Prediction | None
    """None for a healthy loop."""
    named: str
    judgement: str
    """`right`, `wrong`, `abstained` (called healthy, for another cause), or `false alarm`."""
    host_python: float
    """Share of the step that ended in the cause of last resort."""
    unnamed: float
    """The part of it, of the step, of which not even the function is known."""
    profiled_seconds: float
    """Mean step time in the profile."""

    @property
    def ratio(self) -> float | None:
        """Predicted over true speedup."""
        return self.predicted.speedup / self.true.value if self.predicted else None

    @property
    def inside(self) -> bool:
        """Whether the true speedup lies in the predicted interval."""
        p = self.predicted
        return p is not None and p.low <= self.true.value <= p.high

    @property
    def overlaps(self) -> bool:
        """Whether the two intervals have a speedup in common."""
        p = self.predicted
        return p is not None and p.low <= self.true.high and self.true.low <= p.high

    @property
    def category_right(self) -> bool:
        """Whether at least the category was named."""
        right = (self.loop.cause or "", *self.loop.accepted)
        return self.named.partition(".")[0] in {cause.partition(".")[0] for cause in right}


def judge(loop: Loop, folder: Path) -> Result:
    """Advise on the loop's profile and compare with its truth."""
    profile = load(folder / f"{loop.name}.json")
    truth = read_truth(folder / f"{loop.name}.truth.json")
    measurement = measure(profile)
    named = bottleneck(measurement.stages)
    verdict = advise(profile, load_knowledge()).verdict
    predicted = None
    if loop.cause is None:
        judgement = "right" if verdict.healthy else "false alarm"
    else:
        right = named == loop.cause or named in loop.accepted
        cause = named if right else loop.cause
        gone = Outcome(lambda s: s.without(cause), "the cause is gone")
        predicted = predict(gone, lambda s: s, measurement)
        # A verdict that names the cause and has no exact remedy for it is right all the same.
        judgement = "right" if right else "abstained" if verdict.healthy else "wrong"
    python = measurement.breakdown.causes.get("host.python")
    return Result(
        loop=loop,
        step_seconds=median_step_seconds(truth.planted),
        true=true_speedup(truth),
        predicted=predicted,
        named=named,
        judgement=judgement,
        host_python=python.share if python else 0.0,
        unnamed=python.share * unnamed_python(profile) if python else 0.0,
        profiled_seconds=measurement.breakdown.step_seconds,
    )


def true_speedup(truth: Truth) -> Point:
    """Measured gain, with a 90 % interval from resampled segments."""
    chance = random.Random(0)

    def resampled() -> float:
        planted = chance.choices(truth.planted, k=len(truth.planted))
        removed = chance.choices(truth.removed, k=len(truth.removed))
        return median_step_seconds(planted) / median_step_seconds(removed)

    ratios = sorted(resampled() for _ in range(RESAMPLES))
    return Point(
        median_step_seconds(truth.planted) / median_step_seconds(truth.removed),
        ratios[round(0.05 * RESAMPLES)],
        ratios[round(0.95 * RESAMPLES) - 1],
    )


def table(results: list[Result]) -> Table:
    """One line for each loop."""
    lines = Table(box=None, pad_edge=False)
    for head in ("loop", "cause named"):
        lines.add_column(head, no_wrap=True)
    for head in ("T ms", "profiled", "true", "predicted", "ratio"):
        lines.add_column(head, justify="right", no_wrap=True)
    for head in ("inside", "judgement", "category", "python", "unnamed"):
        lines.add_column(head, no_wrap=True)
    for r in results:
        p = r.predicted
        lines.add_row(
            r.loop.name + (" *" if r.loop.held_out else ""),
            r.named,
            f"{1e3 * r.step_seconds:.2f}",
            f"{1e3 * r.profiled_seconds:.2f}",
            f"{r.true.value:.2f} [{r.true.low:.2f}, {r.true.high:.2f}]".replace("[", r"\["),
            f"{p.speedup:.2f} [{p.low:.2f}, {p.high:.2f}]".replace("[", r"\[") if p else "",
            f"{r.ratio:.2f}" if r.ratio is not None else "",
            ("yes" if r.inside else "touches" if r.overlaps else "no") if p else "",
            r.judgement,
            ("yes" if r.category_right else "no") if p else "",
            f"{r.host_python:.1%}",
            f"{r.unnamed:.1%}",
        )
    return lines


def summary(title: str, results: list[Result]) -> list[str]:
    """The figures that count, as lines of text; none where there is no result."""
    planted = [r for r in results if r.loop.cause]
    sound = [r for r in results if not r.loop.cause]
    lines = [f"{title}: {len(planted)} planted, {len(sound)} healthy"]
    if planted:
        errors = sorted(abs(r.ratio - 1) for r in planted if r.ratio is not None)
        noise = statistics.median((r.true.high - r.true.low) / 2 / r.true.value for r in planted)
        lines += [
            f"  cause named exactly      {_part([r.judgement == 'right' for r in planted])}",
            f"  category named           {_part([r.category_right for r in planted])}",
            f"  abstained                {_part([r.judgement == 'abstained' for r in planted])}",
            f"  |predicted / true - 1|   median {statistics.median(errors):.1%}, "
            f"p90 {errors[round(0.9 * (len(errors) - 1))]:.1%}",
            f"  true in 90 % interval    {_part([r.inside for r in planted])}",
            f"  intervals overlap        {_part([r.overlaps for r in planted])}",
            f"  noise of the truth       +-{noise:.1%} (median half-width)",
        ]
    if sound:
        alarms = [r.judgement == "false alarm" for r in sound]
        lines.append(f"  false alarms             {_part(alarms)} of healthy loops")
    if not results:
        return []
    unnamed = _part([r.unnamed > _UNNAMED for r in results])
    return [*lines, f"  unnamed above 3 %        {unnamed}"]


def _part(flags: list[bool]) -> str:
    return f"{sum(flags) / len(flags):6.1%} ({sum(flags)}/{len(flags)})"


def plotted(results: list[Result]) -> list[tuple[str, Point, Point]]:
    """Name, true and predicted speedup of every loop that has both."""
    return [
        (r.loop.name, r.true, Point(r.predicted.speedup, r.predicted.low, r.predicted.high))
        for r in results
        if r.predicted
    ]
