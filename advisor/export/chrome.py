"""The Chrome trace format, as ui.perfetto.dev, chrome://tracing and TensorBoard read it.

Times are microseconds. ui.perfetto.dev leaves out slices that overlap others of their thread in
part, and takes numbers apart in floating point, so that an end may come out a nanosecond late:
times of our own slices are multiples of 125 ns, which no rounding touches.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

Event = dict[str, Any]
_STEP_NS = 125
_LEVEL = 3


def exact_us(nanoseconds: int) -> float:
    """Microseconds, to the next eighth."""
    return max(0, round(nanoseconds / _STEP_NS)) / 8


def a_slice(
    name: str, cat: str, pid: int, tid: int, start_ns: int, end_ns: int, **args: Any
) -> Event:
    """Something that took a time."""
    start = exact_us(start_ns)
    return {
        "ph": "X", "cat": cat, "name": name, "pid": pid, "tid": tid,
        "ts": start, "dur": max(0.0, exact_us(end_ns) - start), "args": args,
    }  # fmt: skip


def an_instant(name: str, pid: int, tid: int, time_ns: int, **args: Any) -> Event:
    """Something that happened at a moment."""
    return {
        "ph": "i", "s": "t", "cat": "mark", "name": name, "pid": pid, "tid": tid,
        "ts": exact_us(time_ns), "args": args,
    }  # fmt: skip


def a_counter(name: str, pid: int, time_ns: int, value: float) -> Event:
    """The value of something from a moment on."""
    return {
        "ph": "C", "cat": "counter", "name": name, "pid": pid,
        "ts": exact_us(time_ns), "args": {"value": value},
    }  # fmt: skip


class Tracks:
    """Processes and threads of a trace; no two have the same number, as Perfetto likes it."""

    def __init__(self) -> None:
        self._next = 1
        self.named: list[Event] = []
        """Events that name them."""

    def process(self, name: str) -> int:
        """A new process; they are shown in the order in which they are made."""
        pid = self._number()
        self._name("process", name, pid, 0)
        return pid

    def thread(self, pid: int, name: str) -> int:
        """A new thread of it."""
        tid = self._number()
        self._name("thread", name, pid, tid)
        return tid

    def _number(self) -> int:
        self._next += 1
        return self._next - 1

    def _name(self, what: str, name: str, pid: int, tid: int) -> None:
        for key, args in (("name", {"name": name}), ("sort_index", {"sort_index": self._next})):
            event = {"ph": "M", "name": f"{what}_{key}", "pid": pid, "tid": tid, "args": args}
            self.named.append(event)


class TraceWriter:
    """Writes a trace, packed, a list of events at a time.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._files = ExitStack()
        self._path = path
        self._has_events = False

    def __enter__(self) -> TraceWriter:
        """Open the file."""
        file = self._files.enter_context(self._path.open("wb"))
        # Without time and name in the header the same input gives the same bytes.
        packed = _packer()(filename="", mode="wb", compresslevel=_LEVEL, fileobj=file, mtime=0)
        self._out = self._files.enter_context(packed)
        self._out.write(b'{"traceEvents": [\n')
        return self

    def add(self, events: Iterable[Event]) -> None:
        """Write some events."""
        events = list(events)
        if events:
            self._out.write(b",\n" if self._has_events else b"")
            self._out.write(_lines(events))
            self._has_events = True

    def end(self, beside: Mapping[str, Any]) -> None:
        """Write what stands beside the events; nothing comes after it."""
        more = _lines([dict(beside)])[1:]
        self._out.write(b"\n]" + (b", " if beside else b"") + more + b"\n")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file."""
        self._files.close()


def _packer() -> Any:
    try:
        from isal.igzip import IGzipFile  # noqa: PLC0415  # an extra, and five times as fast
    except ModuleNotFoundError:
        return gzip.GzipFile
    return IGzipFile


_ENCODER = msgspec.json.Encoder()


def _lines(values: Sequence[Any]) -> bytes:
    """Each on a line of its own, with a comma between; JSON has no line ends inside of texts."""
    try:
        encoded = _ENCODER.encode_lines(values)
    except UnicodeEncodeError:  # half of a pair of surrogates, or bytes that were no UTF-8
        encoded = _ENCODER.encode_lines(_without_surrogates(values))
    return encoded[:-1].replace(b"\n", b",\n")


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_without_surrogates(k): _without_surrogates(v) for k, v in value.items()}
    if isinstance(value, Sequence):
        return [_without_surrogates(each) for each in value]
    return value
