"""The version of the installed distribution."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _installed


def version() -> str:
    """The installed version, or `0+unknown` when run from a bare source tree."""
    try:
        return _installed("stepscope")
    except PackageNotFoundError:
        return "0+unknown"
