"""What can be wrong with a trace."""

from __future__ import annotations

from stepscope.profiler.storage import ProfileError


class TraceError(ProfileError):
    """A trace that cannot be used; the message names the file, what is wrong and the remedy."""
