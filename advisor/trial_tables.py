"""Rows of the report about the trial of the model: sizes of batch, threads, operators."""

from __future__ import annotations

from statistics import median
from typing import NamedTuple

from stepscope.advisor import wording
from stepscope.advisor.model_trial import batch_growth, model_trial, step_ratio, unscaled_operators
from stepscope.profiler.format import ModelTrial, Profile

_PREDICTED = (4, 8)
"""Times the batch, beyond what was tried."""


class BatchRow(NamedTuple):
    """Model and optimizer with one size of batch."""

    samples: str
    ratio: str
    rate: str
    how: str


class ThreadRow(NamedTuple):
    """Model and optimizer with one number of threads."""

    threads: str
    passes: str
    update: str
    speedup: str
    efficiency: str


class OperatorRow(NamedTuple):
    """One operator with one thread and with the most."""

    name: str
    calls: str
    one: str
    most: str
    speedup: str
    scales: bool


class TrialTables(NamedTuple):
    """All that the report shows of it."""

    batches: list[BatchRow]
    threads: list[ThreadRow]
    operators: list[OperatorRow]
    most: int
    """Threads that the operators had."""


def trial_tables(profile: Profile) -> TrialTables | None:
    """The tables; None where nothing was tried."""
    tried = model_trial(profile)
    if tried is None:
        return None
    most = max((row.threads for row in tried.threads), default=1)
    return TrialTables(_batches(profile, tried), _threads(tried), _operators(profile, tried), most)


def _batches(profile: Profile, tried: ModelTrial) -> list[BatchRow]:
    rows = []
    for factor in sorted(size.factor for size in tried.sizes):
        ratio = step_ratio(profile, factor)
        if ratio is not None:
            rows.append(_batch(tried.batch_size, factor, ratio, "tried"))
    twice = step_ratio(profile, 2.0)
    if batch_growth(profile) is not None and twice is not None:
        for factor in _PREDICTED:
            line = 1 + (factor - 1) * max(0.0, twice - 1)
            rows.append(_batch(tried.batch_size, factor, line, "predicted"))
    return rows


def _batch(samples: int, factor: float, ratio: float, how: str) -> BatchRow:
    return BatchRow(
        wording.number(samples * factor),
        wording.speedup(ratio),
        wording.speedup(factor / max(1e-9, ratio)),
        how,
    )


def _threads(tried: ModelTrial) -> list[ThreadRow]:
    times = {
        row.threads: (median(row.pass_ns), median(row.optimizer_ns or [0])) for row in tried.threads
    }
    rows = []
    for threads, (passes, update) in times.items():
        faster = sum(times[1]) / max(1, passes + update) if 1 in times else None
        rows.append(
            ThreadRow(
                str(threads),
                wording.duration(passes / 1e9),
                wording.duration(update / 1e9),
                "" if faster is None else wording.speedup(faster),
                "" if faster is None else wording.share(faster / threads),
            )
        )
    return rows


def _operators(profile: Profile, tried: ModelTrial) -> list[OperatorRow]:
    unscaled = {row.name for row in unscaled_operators(profile)}
    return [
        OperatorRow(
            row.name,
            wording.number(row.calls),
            wording.duration(row.one_ns / 1e9),
            wording.duration(row.most_ns / 1e9),
            wording.speedup(row.one_ns / max(1, row.most_ns)),
            row.name not in unscaled,
        )
        for row in tried.operators
    ]
