"""How the files of many ranks are read: here, in several processes, or on a Dask cluster.

A new engine is a function from jobs to their parts, in any order, and a row of `ENGINES`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from stepscope.advisor.ranks.summary import Summary, merge
from stepscope.profiler.storage import ProfileError

Summarise = Callable[[Path, int], Summary]
"""From a file and its number to the summary of its rank."""
_WORTH_A_PROCESS = 8 << 20
"""Bytes: starting a process costs about as much as reading a few megabytes."""
_JOB = 4 << 20
"""Bytes of small files that are read and merged in one go."""
_MOST_IN_A_JOB = 64


class File(NamedTuple):
    """A file of one rank."""

    number: int
    path: Path


class Part(NamedTuple):
    """What a job gives."""

    files: list[tuple[tuple[int, ...], File]]
    """Those that were read, each with what tells it from any other: rank and first step."""
    summary: Summary | None
    failures: list[str]


class Job(NamedTuple):
    """Some files, to be read and merged by one process."""

    summarise: Summarise
    files: list[File]


class Everything(NamedTuple):
    """All ranks together."""

    summary: Summary
    files: dict[tuple[int, ...], Path]
    failures: list[str]
    """Files that could not be read, and why."""


def read_ranks(paths: Sequence[Path], summarise: Summarise, engine: str) -> Everything:
    """Read and merge the files of all ranks; a file that is there twice counts once.

    Args:
        paths: one file or more for each rank.
        summarise: what reads one.
        engine: `processes`, `dask`, or `dask=ADDRESS` of a scheduler.

    Raises:
        ProfileError: there is no such engine, it cannot be reached, or no file can be read.
    """
    name, _, address = engine.partition("=")
    if name not in ENGINES:
        raise ProfileError(f"--engine {engine}: choose one of {', '.join(ENGINES)}")
    whole: Summary | None = None
    read: dict[tuple[int, ...], Path] = {}
    failures: list[str] = []
    for found in ENGINES[name](_jobs(paths, summarise), address):
        part = _without(found, read, summarise)
        read |= {key: file.path for key, file in part.files}
        failures += part.failures
        if part.summary is not None:
            whole = part.summary if whole is None else merge(whole, part.summary)
    if whole is None:
        raise ProfileError(sorted(failures)[0])
    return Everything(whole, read, sorted(failures))


def read(job: Job) -> Part:
    """Read and merge the files of a job."""
    files: dict[tuple[int, ...], File] = {}
    failures = []
    whole: Summary | None = None
    for file in job.files:
        try:
            summary = job.summarise(file.path, file.number)
        except ProfileError as error:
            failures.append(str(error))
            continue
        key = summary.base_key[1:]
        if key not in files:
            files[key] = file
            whole = summary if whole is None else merge(whole, summary)
    return Part(list(files.items()), whole, failures)


def _without(part: Part, known: dict[tuple[int, ...], Path], summarise: Summarise) -> Part:
    """A part without the files that others have already brought; rarely there are any."""
    fresh = [file for key, file in part.files if key not in known]
    if len(fresh) == len(part.files):
        return part
    return read(Job(summarise, fresh))._replace(failures=part.failures)


def _jobs(paths: Sequence[Path], summarise: Summarise) -> list[Job]:
    """The files, small ones several at a time."""
    jobs: list[Job] = []
    size = 0
    for file in (File(*each) for each in enumerate(paths)):
        if not jobs or size > _JOB or len(jobs[-1].files) == _MOST_IN_A_JOB:
            jobs.append(Job(summarise, []))
            size = 0
        jobs[-1].files.append(file)
        size += _size(file.path)
    return jobs


def _processes(jobs: Sequence[Job], address: str) -> Iterator[Part]:
    size = sum(_size(file.path) for job in jobs for file in job.files)
    processes = min(_processors(), len(jobs), 1 + size // _WORTH_A_PROCESS)
    if processes == 1:
        yield from map(read, jobs)
        return
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        waiting = list(reversed(jobs))
        running = {
            pool.submit(read, waiting.pop()) for _ in range(min(len(waiting), 2 * processes))
        }
        while running:
            done = next(as_completed(running))
            running.remove(done)  # nor does its result stay here
            if waiting:
                running.add(pool.submit(read, waiting.pop()))
            yield done.result()


def _dask(jobs: Sequence[Job], address: str) -> Iterator[Part]:
    try:
        distributed: Any = import_module("dask.distributed")  # an extra
    except ModuleNotFoundError as error:
        raise ProfileError(
            f"--engine dask needs the package {error.name}; pip install 'stepscope[dask]'"
        ) from None
    try:
        client = distributed.Client(address or None)
    except (OSError, ValueError) as error:
        raise ProfileError(f"--engine dask={address}: no scheduler answers ({error})") from None
    with client:
        tasks = client.map(
            read,
            [
                job._replace(files=[f._replace(path=f.path.absolute()) for f in job.files])
                for job in jobs
            ],
            pure=False,
        )
        for task in distributed.as_completed(tasks):
            yield task.result()
            task.release()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # reading it will tell
        return 0


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


ENGINES: dict[str, Callable[[Sequence[Job], str], Iterator[Part]]] = {
    "processes": _processes,
    "dask": _dask,
}
