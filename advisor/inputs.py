"""What `advise` takes: a profile of ours, a trace of torch.profiler, or a folder of traces."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stepscope.profiler.format import Profile
from stepscope.profiler.storage import ProfileError, load

_ARCHIVES = (b"\x1f\x8b", b"PK\x03\x04")
_LOOK = 1 << 16
_SUFFIXES = (".json", ".gz", ".zip")
_OF_TRACE = (b'"traceEvents"', b'"deviceProperties"', b'"schemaVersion"', b'"distributedInfo"')


def load_input(path: Path, engine: str = "processes") -> Profile:
    """Read a profile, or make one from a trace, or from a folder with the traces of many ranks.

    Args:
        path: a file, or a folder of traces.
        engine: what reads the traces of a folder; see :mod:`stepscope.advisor.traces.engines`.

    Raises:
        ProfileError: it is none of them, or cannot be read; or what reads traces is missing.
    """
    folder = path.is_dir() and bool(traces_in(path))
    if not folder and not is_trace(path):
        return load(path)
    with needs_traces(path):
        from stepscope.advisor.traces.engines import load_ranks  # noqa: PLC0415  # costs numpy
        from stepscope.advisor.traces.profile import load_trace  # noqa: PLC0415
    return load_ranks(path, engine) if folder else load_trace(path)


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


def traces_in(folder: Path) -> list[Path]:
    """The traces that lie directly in a folder."""
    files = sorted(file for file in folder.iterdir() if file.suffix in _SUFFIXES)
    return [file for file in files if is_trace(file)]


def is_trace(path: Path) -> bool:
    """Whether a file looks like a trace; profiles are never packed and begin with their schema."""
    try:
        with path.open("rb") as file:
            head = file.read(_LOOK)
    except OSError:
        return False
    return (
        head.startswith(_ARCHIVES)
        or head.lstrip()[:1] == b"["
        or (b'"stepscope.' not in head[:200] and any(key in head for key in _OF_TRACE))
    )


def stem(path: Path) -> str:
    """Name of the report beside a file: `trace.json.gz` gives `trace`."""
    return Path(path.name.removesuffix(".gz").removesuffix(".zip")).stem
