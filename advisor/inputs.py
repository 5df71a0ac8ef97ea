"""What `advise` takes: a profile of ours, a trace of torch.profiler, or those of many ranks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import structs

from stepscope.profiler.format import Profile
from stepscope.profiler.storage import ProfileError, load

if TYPE_CHECKING:
    from stepscope.advisor.ranks.engines import Everything

# Reading ranks is imported where it is used: most profiles are of one process.
# ruff: noqa: PLC0415

_ARCHIVES = (b"\x1f\x8b", b"PK\x03\x04")
_LOOK = 1 << 16
_SUFFIXES = (".json", ".gz", ".zip")
_OF_TRACE = (b'"traceEvents"', b'"deviceProperties"', b'"schemaVersion"', b'"distributedInfo"')
_OF_PROFILE = b'"stepscope.profile/'
_SHOWN = 3
_RANK_SUFFIX = re.compile(r"\.rank\d+$")


def load_input(path: Path, engine: str = "processes") -> Profile:
    """Read a profile, or make one from a trace, or from a folder with the files of many ranks.

    Args:
        path: a file, or a folder of profiles or traces.
        engine: what reads a folder; see :mod:`stepscope.advisor.ranks.engines`.

    Raises:
        ProfileError: it is none of them, or cannot be read; or what reads traces is missing.
    """
    return load_inputs([path], engine)


@contextmanager
def needs_traces(path: Path) -> Iterator[None]:
    """Where modules are imported that read traces.

    Raises:
        ProfileError: a package that they need is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ProfileError(
            f"{path}: reading a trace needs the package {error.name}; "
            "pip install 'stepscope[traces]'"
        ) from None


def load_inputs(paths: Sequence[Path], engine: str = "processes") -> Profile:
    """Read one input, or several files as the ranks of one job.

    Raises:
        ProfileError: as :func:`load_input`; or they are not of one job.
    """
    if len(paths) == 1:
        if not paths[0].is_dir():
            return _load_trace(paths[0]) if is_trace(paths[0]) else load(paths[0])
        files = ranks_in(paths[0])
        if not files:
            return load(paths[0])  # which says what is wrong
    else:
        files = list(paths)
    return _load_ranks(files, str(paths[0]) if len(paths) == 1 else f"{paths[0]} ...", engine)


def ranks_in(folder: Path) -> list[Path]:
    """The profiles that lie directly in a folder, or the traces, whichever are more."""
    files = sorted(file for file in folder.iterdir() if file.suffix in _SUFFIXES)
    profiles = [file for file in files if _is_profile(file)]
    traces = [file for file in files if is_trace(file)]
    return profiles if len(profiles) > len(traces) else traces


def _load_trace(path: Path) -> Profile:
    with needs_traces(path):
        from stepscope.advisor.traces.profile import load_trace
    return load_trace(path)


def _load_ranks(files: list[Path], source: str, engine: str) -> Profile:
    from stepscope.advisor.ranks import profiles
    from stepscope.advisor.ranks.engines import read_ranks
    from stepscope.advisor.ranks.job import count_of, job_of

    traces = [file for file in files if is_trace(file)]
    if traces and len(traces) < len(files):
        raise ProfileError(f"{source}: mixes profiles and traces; give those of one kind")
    if traces:
        with needs_traces(traces[0]):
            from stepscope.advisor.traces import ranks
    everything = read_ranks(files, ranks.summarise if traces else profiles.summarise, engine)
    summary = everything.summary
    if not traces:
        _check_one_job(everything, source)
    if count_of(summary) == 1:
        path = next(iter(everything.files.values()))
        alone = _load_trace(path) if traces else load(path)
        return structs.replace(alone, problems=alone.problems + _left_out(everything.failures))
    job = job_of(summary)
    return structs.replace(job, problems=job.problems + _left_out(everything.failures))


def _check_one_job(everything: Everything, source: str) -> None:
    """Refuse profiles that cannot be ranks of the same run."""
    sizes, files = everything.summary.world_sizes, everything.files
    if len(sizes) > 1:
        words = ", ".join(map(str, sizes))
        raise ProfileError(
            f"{source}: holds profiles of different runs, of {words} ranks; name the files of one"
        )
    if len(everything.summary.jobs) > 1:
        raise ProfileError(
            f"{source}: holds profiles of different runs, perhaps of ranks that are missing in the "
            f"last one: {_ages(list(files.values()))}; name the files of one"
        )
    of_rank: dict[int, Path] = {}
    for (rank, *_), path in files.items():
        if rank in of_rank:
            raise ProfileError(
                f"{source}: {of_rank[rank].name} and {path.name} are both of rank {rank}; name one "
                "of them, or those of the ranks of one run"
            )
        of_rank[rank] = path


def _ages(files: list[Path]) -> str:
    """The oldest of the files, which are of another run, and the newest."""
    oldest, *_, newest = sorted(files, key=lambda path: path.stat().st_mtime)
    return f"{oldest.name} is older than {newest.name}"


def _left_out(failures: list[str]) -> list[str]:
    shown = [f"Left out: {words}." for words in failures[:_SHOWN]]
    more = len(failures) - len(shown)
    return [*shown, f"{more} more files could not be read."] if more > 0 else shown


def _is_profile(path: Path) -> bool:
    return path.suffix == ".json" and _OF_PROFILE in _head(path)[:200]


def is_trace(path: Path) -> bool:
    """Whether a file looks like a trace; profiles are never packed and begin with their schema."""
    head = _head(path)
    return (
        head.startswith(_ARCHIVES)
        or head.lstrip()[:1] == b"["
        or (b'"stepscope.' not in head[:200] and any(key in head for key in _OF_TRACE))
    )


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_LOOK)
    except OSError:
        return b""


def stem(path: Path, *, ranks: bool = False) -> str:
    """Name of the report beside a file: `trace.json.gz` gives `trace`.

    Args:
        path: the file.
        ranks: it is the first of several; `profile.rank0.json` gives `profile` then.
    """
    name = Path(path.name.removesuffix(".gz").removesuffix(".zip")).stem
    return _RANK_SUFFIX.sub("", name) if ranks else name
