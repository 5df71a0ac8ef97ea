"""Where what can be made anew is kept between two calls."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path | None:
    """The user's cache folder (XDG Base Directory Specification); None without a home."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (named if named.is_absolute() else Path.home() / ".cache") / "stepscope"
    except RuntimeError:
        return None
