"""Copies of a trace of torch.profiler with every event whole, a piece at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from stepscope.advisor.export.chrome import Event
from stepscope.advisor.traces.files import Source as File
from stepscope.advisor.traces.reader import Reader

_LATEST_US = float(1 << 62)


class WholeReader(Reader):
    """Reads events with all that is in them, and all that stands beside them.

    Args:
        path: of the trace.

    Raises:
        TraceError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(File(path))
        self.path = path
        self._typed: Any = msgspec.json.Decoder(list[dict[str, Any]])
        self.beside: dict[str, Any] = {}
        """What stands beside the events; all of it is there once they are read."""

    def _taken(self, value: dict[str, Any]) -> Any:
        return value

    def _keep(self, found: dict[str, Any]) -> None:
        super()._keep(found)
        self.beside |= {key: value for key, value in found.items() if key != "traceEvents"}

    def whole_events(self) -> Iterator[list[Event]]:
        """The events that have a time or need none, in the order of the file.

        Every one has a name, slices also a category and a length.

        Raises:
            TraceError: the file is no Chrome trace.
        """
        try:
            pieces: Iterator[list[Any]] = self.events()
            for piece in pieces:
                yield [event for event in piece if self._is_usable(event)]
        finally:
            self.close()

    def losses(self) -> str | None:
        """What is not in the copy, in words."""
        words = [f"{self.lost} events could not be read and are left out"] if self.lost else []
        words += ["the file ends early"] if self.truncated else []
        return f"{self.path}: {'; '.join(words)}" if words else None

    def _is_usable(self, event: Event) -> bool:
        if type(event.get("name")) is not str:
            event["name"] = str(event.get("name", ""))
        for key in ("pid", "tid"):
            if isinstance(event.get(key), dict | list):
                event[key] = str(event[key])
        if event.get("ph") == "M":
            return True
        if not _is_time(event.get("ts")):
            self.lost += 1
            return False
        if event.get("ph") == "X":
            if type(event.get("cat")) is not str:
                event["cat"] = str(event.get("cat", ""))
            if not _is_time(event.get("dur")) or event["dur"] < 0:
                event["dur"] = 0
        return True


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < _LATEST_US
