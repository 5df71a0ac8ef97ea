"""What a format is, and where formats are found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import NamedTuple

from stepscope.advisor.export import formats
from stepscope.advisor.export.sources import Source


class Format(NamedTuple):
    """A file format that other tools read."""

    help: str
    """What opens it, in a few words."""
    suffix: str
    """Of the output's name, where the user gives none."""
    names: Callable[[Sequence[Source]], list[str]] | None
    """Files that are written to the output folder; None if the output is a single file."""
    write: Callable[[Sequence[Source], list[Path]], None]
    """Writes those files.

    Raises:
        ProfileError: a source cannot be read, or what writes this format is not installed.
        OSError: a file cannot be written.
    """


def format_names() -> list[str]:
    """What `--to` takes."""
    return sorted(module.name for module in iter_modules(formats.__path__))


def format_of(name: str) -> Format:
    """The format of one of `format_names()`."""
    found: Format = import_module(f"{formats.__name__}.{name}").FORMAT
    return found
