"""How the traces of many ranks are read: here, in several processes, or on a Dask cluster.

A new engine is a function from paths to summaries, in any order, and a row of `ENGINES`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import reduce
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from stepscope.advisor.inputs import traces_in
from stepscope.advisor.traces.errors import TraceError
from stepscope.advisor.traces.ranks import Summary, job_of, merge, summarise
from stepscope.profiler.format import Profile

_WORTH_A_PROCESS = 8 << 20
"""Bytes of traces: starting a process costs about as much as reading a few megabytes."""


def load_ranks(folder: Path, engine: str = "processes") -> Profile:
    """The profile of a job from a folder with the traces of its ranks.

    Args:
        folder: with one trace or more for each rank.
        engine: `processes`, `dask`, or `dask=ADDRESS` of a scheduler.

    Raises:
        TraceError: there is no such engine, it cannot be reached, or a trace cannot be read.
    """
    name, _, address = engine.partition("=")
    if name not in ENGINES:
        raise TraceError(f"--engine {engine}: choose one of {', '.join(ENGINES)}")
    paths = traces_in(folder)
    if not paths:
        raise TraceError(f"{folder}: holds no traces (*.json, *.json.gz, *.zip)")
    return job_of(reduce(merge, ENGINES[name](paths, address)))


def _processes(paths: Sequence[Path], address: str) -> Iterator[Summary]:
    size = sum(path.stat().st_size for path in paths)
    processes = min(_processors(), len(paths), 1 + size // _WORTH_A_PROCESS)
    if processes == 1:
        yield from map(summarise, paths, range(len(paths)))
        return
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        jobs = [pool.submit(summarise, path, i) for i, path in enumerate(paths)]
        while jobs:
            done = next(as_completed(jobs))
            jobs.remove(done)  # nor does its result stay here
            yield done.result()


def _dask(paths: Sequence[Path], address: str) -> Iterator[Summary]:
    try:
        distributed: Any = import_module("dask.distributed")  # an extra
    except ModuleNotFoundError as error:
        raise TraceError(
            f"--engine dask needs the package {error.name}; pip install 'stepscope[dask]'"
        ) from None
    try:
        client = distributed.Client(address or None)
    except (OSError, ValueError) as error:
        raise TraceError(f"--engine dask={address}: no scheduler answers ({error})") from None
    with client:
        ranks = range(len(paths))
        jobs = client.map(summarise, [path.absolute() for path in paths], ranks, pure=False)
        for job in distributed.as_completed(jobs):
            yield job.result()
            job.release()


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


ENGINES: dict[str, Callable[[Sequence[Path], str], Iterator[Summary]]] = {
    "processes": _processes,
    "dask": _dask,
}
