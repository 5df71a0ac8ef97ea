"""Copies of a trace of torch.profiler with every event whole, a piece at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from stepscope.advisor.export.chrome import Event
from stepscope.advisor.traces.files import Source as File
from stepscope.advisor.traces.reader import Reader


class WholeReader(Reader):
    """Reads events with all that is in them, and all that stands beside them.

    Args:
        path: of the trace.

    Raises:
        TraceError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(File(path))
        self._typed: Any = msgspec.json.Decoder(list[dict[str, Any]])
        self.beside: dict[str, Any] = {}
        """What stands beside the events; all of it is there once they are read."""

    def _taken(self, value: dict[str, Any]) -> Any:
        return value

    def _keep(self, found: dict[str, Any]) -> None:
        super()._keep(found)
        self.beside |= {key: value for key, value in found.items() if key != "traceEvents"}

    def whole_events(self) -> Iterator[list[Event]]:
        """The events that have a time or need none, with a name, in the order of the file.

        Raises:
            TraceError: the file is no Chrome trace.
        """
        try:
            pieces: Iterator[list[Any]] = self.events()
            for piece in pieces:
                yield [event for event in piece if self._is_usable(event)]
        finally:
            self.close()

    def _is_usable(self, event: Event) -> bool:
        event.setdefault("name", "")
        if event.get("ph") == "M":
            return True
        if not isinstance(event.get("ts"), int | float):
            self.lost += 1
            return False
        if event.get("ph") == "X":
            event.setdefault("cat", "")
            if not isinstance(event.get("dur"), int | float):
                event["dur"] = 0
        return True
