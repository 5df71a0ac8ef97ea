"""How far the numbers of one run can be trusted, in rows of a table."""

from __future__ import annotations

from typing import NamedTuple

from stepscope.advisor import wording
from stepscope.advisor.advice import Advice
from stepscope.advisor.samples import mean_of, others_cores
from stepscope.profiler.format import Profile


class NoiseRow(NamedTuple):
    """One source of noise: how large it was in this run, and what that means."""

    name: str
    value: str
    meaning: str


def noise(advice: Advice, profile: Profile) -> list[NoiseRow]:
    """What is known of the noise in this run; what was not measured is left out."""
    rows = [
        NoiseRow(
            "Steps that count",
            f"{profile.steady.total:,}",
            "Warm-up and the operator window are kept out. 100 are enough for most shares, "
            "rare events such as checkpoints need several of them.",
        )
    ]
    if advice.breakdown:
        widest = max(advice.breakdown, key=lambda line: line.high - line.low)
        rows.append(
            NoiseRow(
                "Least certain share",
                wording.share_interval(widest),
                f"{wording.cause_label(widest.cause)}: 90 % of bootstrap samples over steps.",
            )
        )
    meaning = "They took this of the cores that the job may use; alone it would be faster."
    rows += _mean("Other programs, mean", others_cores(profile.samples), meaning)
    stolen = profile.samples.columns.get("steal_cores", [])
    rows += _mean("Taken by the hypervisor, mean", stolen, "Other tenants of the same host.")
    lost = sum(worker.lost for loader in profile.loaders for worker in loader.workers)
    if lost:
        rows.append(
            NoiseRow("Batch records lost", f"{lost:,}", "Workers were faster than their reader.")
        )
    background = profile.overhead.background_cpu_ns / max(1, profile.run.wall_ns)
    rows.append(
        NoiseRow(
            "Profiler's own thread",
            f"{wording.share(background)} of one core",
            "What recording took away from the job besides the step itself.",
        )
    )
    return rows


def _mean(name: str, cores: list[float | None], meaning: str) -> list[NoiseRow]:
    mean = mean_of(cores)
    return [] if mean is None else [NoiseRow(name, wording.fact(mean, "cores"), meaning)]
