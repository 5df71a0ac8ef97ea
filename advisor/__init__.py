"""Outside the training process: what a profile means, and what to do about it."""

from __future__ import annotations

if __name__ != "stepscope.advisor":  # a second copy under a bare name would share no state
    raise ImportError("import this package as `stepscope.advisor` (pip install stepscope)")

from stepscope.advisor.api import Report, report

__all__ = ["Report", "report"]
