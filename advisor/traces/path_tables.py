"""Critical paths and replays as a profile tells them."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np

from stepscope.advisor.traces.load import Analysed, analyse
from stepscope.advisor.traces.names import CATEGORY_NAMES
from stepscope.advisor.traces.replay import Replays
from stepscope.advisor.traces.scenarios import Scenario
from stepscope.profiler.format import CriticalPath, PathKernel, PathOperator, Replayed

_MOST = 50


def critical_path(trace: Analysed) -> CriticalPath:
    """The sums over the paths of a trace, and its replays."""
    paths, names = trace.sums.paths, trace.sums.names
    total = sum(paths.owners, Counter())
    host, device = paths.operators.sums["host"], paths.operators.sums["device"]
    time = paths.kernels.sums["time"]
    return CriticalPath(
        owners={name: [step[name] for step in paths.owners] for name, _ in total.most_common()},
        operators=[
            PathOperator(name=names.text[i], host_ns=int(host[i]), device_ns=int(device[i]))
            for i in _largest(host + device)
        ],
        kernels=[
            PathKernel(
                name=names.text[i],
                category=CATEGORY_NAMES[names.category[i]],
                calls=int(paths.kernels.calls[i]),
                time_ns=int(time[i]),
            )
            for i in _largest(time)
        ],
        replayed=[each for each in _replayed(trace) if each.wall_ns != each.recorded_ns],
    )


def replay(path: Path, scenario: Scenario, title: str) -> Replayed:
    """What the steps of a trace would take.

    Args:
        path: the trace.
        scenario: what is different.
        title: what to call it.

    Raises:
        TraceError: the file cannot be read as a trace, or has not what the scenario names.
    """
    (found,) = _replayed(analyse(path, partial(Replays, scenario=scenario)))
    found.scenario = title
    return found


def _replayed(trace: Analysed) -> list[Replayed]:
    found = []
    for replays in trace.sums.watchers:
        if isinstance(replays, Replays) and replays.steps:
            for name, each in replays.by_name.items():
                owners = sum(each.paths.owners[: replays.steps], Counter())
                found.append(
                    Replayed(
                        scenario=name,
                        steps=replays.steps,
                        recorded_ns=trace.times[replays.steps] - trace.times[0],
                        wall_ns=owners.total(),
                        owners=dict(owners.most_common()),
                    )
                )
    return found


def _largest(amounts: np.typing.NDArray[np.int64]) -> list[int]:
    used = np.flatnonzero(amounts)
    order = used[np.argsort(-amounts[used], kind="stable")]
    return [int(i) for i in order[:_MOST]]
