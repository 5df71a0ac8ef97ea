"""Replacing a function of somebody else's module, and putting it back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

_MISSING = object()


class Patches(ExitStack):
    """What a recording has replaced; closing it restores everything, last first.

    A wrapper that somebody else has wrapped meanwhile stays in place, since removing it would
    remove theirs; it passes through once the recorder is closed.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ours: dict[tuple[Any, str], list[Any]] = {}
        """Everything that was put in the place of a name."""

    def exchange(self, owner: Any, name: str, wrapper: Any, other: Any) -> None:
        """Put `other` in the place of `wrapper`, which `replace` has put there, if it still is."""
        if vars(owner).get(name) is wrapper:
            self._ours[owner, name].append(other)
            setattr(owner, name, other)

    def replace(self, owner: Any, name: str, wrap: Callable[[Any], Any]) -> None:
        """Set `owner.name` to `wrap(original)` until this is closed."""
        original = getattr(owner, name)
        before = vars(owner).get(name, _MISSING)
        wrapper = wrap(original)
        setattr(owner, name, wrapper)
        ours = self._ours.setdefault((owner, name), [])
        ours.append(wrapper)

        def restore() -> None:
            if not any(vars(owner).get(name) is mine for mine in ours):
                return
            if before is _MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, before)

        self.callback(restore)
