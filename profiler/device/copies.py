"""Copies between the host and a device: how many bytes, from what memory, in what time."""

from __future__ import annotations

from stepscope.profiler.format import Copies

Key = tuple[str, str]


class CopyLog:
    """Sums by direction and kind of the host's memory; filled by the training thread."""

    def __init__(self) -> None:
        self._found: dict[Key, Copies] = {}

    def add(
        self, direction: str, memory: str, size: int, time_ns: int, *, non_blocking: bool
    ) -> None:
        """Count one copy.

        Args:
            direction: `HtoD` or `DtoH`.
            memory: of the host: `pageable`, `pinned` or `unknown`.
            size: bytes.
            time_ns: in the call, which a copy that does not block may outlast.
            non_blocking: whether the program asked not to wait for it.
        """
        found = self._found.get((direction, memory))
        if found is None:
            found = Copies(
                direction=direction, memory=memory, calls=0, bytes=0, time_ns=0, non_blocking=0
            )
            self._found[direction, memory] = found
        found.calls += 1
        found.bytes = (found.bytes or 0) + size
        found.time_ns += time_ns
        found.non_blocking = (found.non_blocking or 0) + non_blocking

    def as_list(self) -> list[Copies]:
        """The sums, those of most bytes first; safe from any thread."""
        found = list(self._found.values())  # a copy at once
        return sorted(found, key=lambda copies: -(copies.bytes or 0))
