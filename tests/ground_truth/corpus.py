"""The whole corpus: every module of this folder is imported and enters its loops."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from pathlib import Path

from ground_truth.loop import LOOPS, Loop

__all__ = ["LOOPS", "Loop"]

for _module in pkgutil.iter_modules([str(Path(__file__).parent)]):
    if not _module.name.startswith("test_"):
        import_module(f"ground_truth.{_module.name}")
