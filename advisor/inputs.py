"""What `advise` takes: a profile of ours, or a trace of torch.profiler."""

from __future__ import annotations

from pathlib import Path

from stepscope.profiler.format import Profile
from stepscope.profiler.storage import ProfileError, load

_ARCHIVES = (b"\x1f\x8b", b"PK\x03\x04")
_LOOK = 1 << 16
_OF_TRACE = (b'"traceEvents"', b'"deviceProperties"', b'"schemaVersion"', b'"distributedInfo"')


def load_input(path: Path) -> Profile:
    """Read a profile, or make one from a trace.

    Raises:
        ProfileError: the file is neither, or cannot be read; or what reads traces is not installed.
    """
    if not is_trace(path):
        return load(path)
    try:
        from stepscope.advisor.traces.profile import load_trace  # noqa: PLC0415  # costs numpy
    except ModuleNotFoundError as error:
        raise ProfileError(
            f"{path}: reading a trace needs the package {error.name}; "
            "pip install 'stepscope[traces]'"
        ) from None
    return load_trace(path)


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
