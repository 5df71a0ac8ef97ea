"""What we are doing, while it takes longer than a moment: on a terminal only, never in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def working(message: str) -> Iterator[None]:
    """A spinner with `message` on standard error until the block ends, if anybody sees it."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console  # noqa: PLC0415  # costs start-up time

    with Console(stderr=True).status(message):
        yield
