"""Inside the training process: `profile` wraps the loop and writes `profile.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if __name__ != "stepscope.profiler":  # a second copy under a bare name would share no state
    raise ImportError("import this package as `stepscope.profiler` (pip install stepscope)")

if TYPE_CHECKING:
    from stepscope.profiler.session import profile

__all__ = ["profile"]


def __getattr__(name: str) -> Any:
    # Reading a profile must not need torch, so the recording half is imported on first use.
    if name == "profile":
        from stepscope.profiler.session import profile  # noqa: PLC0415

        return profile
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
