"""Replacing functions of modules that may be imported after the recording has begun."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

from stepscope.profiler.patches import Patches
from stepscope.profiler.recorder import Recorder


class LateModules:
    """A list of functions, each replaced as soon as its module is there; none is imported."""

    def __init__(self, recorder: Recorder, patches: Patches) -> None:
        self._patches = patches
        self._missing: list[tuple[str, str, Callable[[Any], Any]]] = []
        recorder.on_look.append(self.look)

    def replace(self, module: str, names: Iterable[str], wrap: Callable[[Any], Any]) -> None:
        """Wrap functions of `module`, or methods as in `Class.method`, now or later."""
        self._missing += [(module, name, wrap) for name in names]

    def look(self) -> None:
        """Replace what has been imported meanwhile; names that a version lacks are left out."""
        missing = []
        for module, name, wrap in self._missing:
            owner: Any = sys.modules.get(module)
            if owner is None:
                missing.append((module, name, wrap))
                continue
            *classes, function = name.split(".")
            for part in classes:
                owner = getattr(owner, part, None)
            if callable(getattr(owner, function, None)):
                self._patches.replace(owner, function, wrap)
        self._missing = missing
