"""The events of a Chrome trace, streamed: whatever its size, a fraction of a megabyte at a time.

A trace is one JSON document, but its list of events can be cut between any two of them. Where the
cuts are is learned from the first events (every writer puts the same bytes between two events), so
that whole pieces go to msgspec, which skips in C what is not asked for. A piece it does not accept
(NaN, numbers and text that are no JSON, a cut in the wrong place) goes through `json` event by
event; what that cannot read either is counted and left out.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, Final, Union

import msgspec
from msgspec import Struct, field

from stepscope.advisor.traces.errors import TraceError
from stepscope.advisor.traces.files import Source

PIECE: Final = 1 << 20
"""Bytes decoded at once: a piece's events stay in the processor's cache, and are so many that what
is done once a piece costs little."""
_BEFORE_EVENT: Final = b" \t\r\n,"
_LARGEST_EVENT: Final = 64 << 20
_LARGEST_HEAD: Final = 64 << 20
_EVENTS = re.compile(rb'"traceEvents"\s*:\s*\[')
_BETWEEN = re.compile(rb'\}(\s*,\s*)\{(\s*)"')

Number = int | float | str | None
"""Numbers are text in traces of some versions (`"stream 7"`, `"2560"`)."""


class Args(Struct, gc=False):
    """The arguments of an event that we use."""

    correlation: Number = None
    device: Number = None
    stream: Number = None
    wait_on_stream: Number = None
    bytes: Number = None
    size: Number = None
    memory_bytes: Number = field(name="Bytes", default=None)
    allocated: Number = field(name="Total Allocated", default=None)
    reserved: Number = field(name="Total Reserved", default=None)
    device_id: Number = field(name="Device Id", default=None)
    device_type: Number = field(name="Device Type", default=None)
    blocks_per_sm: Number = field(name="blocks per SM", default=None)
    occupancy: Number = field(name="est. achieved occupancy %", default=None)
    call_stack: str | None = field(name="Call stack", default=None)
    dims: msgspec.Raw = field(name="Input Dims", default=msgspec.Raw())
    types: msgspec.Raw = field(name="Input type", default=msgspec.Raw())
    values: msgspec.Raw = field(name="Concrete Inputs", default=msgspec.Raw())
    collective: str | None = field(name="Collective name", default=None)
    group: Number = field(name="Process Group Name", default=None)
    group_ranks: str | None = field(name="Process Group Ranks", default=None)
    group_size: Number = field(name="Group size", default=None)
    elements_in: Number = field(name="In msg nelems", default=None)
    elements_out: Number = field(name="Out msg nelems", default=None)
    dtype: str | None = None


NO_ARGS = Args()


class Event(Struct, gc=False, tag_field="ph", tag="X"):
    """Something that took a time; in microseconds."""

    cat: str = ""
    name: str = ""
    pid: Number = None
    tid: Number = None
    ts: float = 0.0
    dur: float = 0.0
    args: Args | None = None


class Instant(Struct, gc=False, tag_field="ph", tag="i"):
    """Something that happened at a moment."""

    name: str = ""
    ts: float = 0.0
    args: Args | None = None


_IGNORED = [
    msgspec.defstruct(f"Ignored{i}", [], tag_field="ph", tag=phase, gc=False)
    for i, phase in enumerate("BEIPNODMVvRcbnestfSTpF(),=aL")
]
"""Arrows, names of threads and the rest of the Chrome trace format: skipped by the decoder."""
AnyEvent = Event | Instant
_ANY: Any = Union[(Event, Instant, *_IGNORED)]  # made above
_PHASES = ("X", "i")


class Device(Struct):
    """One entry of `deviceProperties`."""

    id: int = 0
    name: str = "unknown"
    total_memory: int = field(name="totalGlobalMem", default=0)
    major: int | None = field(name="computeMajor", default=None)
    minor: int | None = field(name="computeMinor", default=None)


class Distributed(Struct):
    """`distributedInfo`."""

    backend: str | None = None
    rank: int | None = None
    world_size: int | None = None


class Metadata(Struct):
    """What stands beside the events."""

    devices: list[Device] = field(name="deviceProperties", default_factory=list)
    distributed: Distributed | None = field(name="distributedInfo", default=None)
    base_ns: int = field(name="baseTimeNanoseconds", default=0)
    cuda_runtime: int | None = field(name="cuda_runtime_version", default=None)


class Reader:
    """Reads a trace once, from front to back.

    Args:
        source: the file.
    """

    def __init__(self, source: Source) -> None:
        self.metadata = Metadata()
        self.lost = 0
        """Events that could not be read."""
        self.truncated = False
        self._source = source
        self._typed: msgspec.json.Decoder[list[AnyEvent]] = msgspec.json.Decoder(list[_ANY])
        self._buffer = b""
        self._separator: bytes | None = None
        self._ended = False
        self._tail: list[bytes] = []

    def close(self) -> None:
        """Close the file, if it was not read to its end."""
        self._source.close()

    def events(self) -> Iterator[list[AnyEvent]]:
        """The events, some thousands at a time, in the order of the file.

        Raises:
            TraceError: the file is no Chrome trace.
        """
        blocks = self._source.blocks(PIECE)
        self._read_head(blocks)
        for block in blocks:
            if self._ended:
                self._tail.append(block)
                continue
            yield from self._pieces(block)
            if len(self._buffer) > _LARGEST_EVENT:
                raise TraceError(f"{self._source.path}: has an event of more than 64 MB")
        yield from self._rest()

    def _read_head(self, blocks: Iterator[bytes]) -> None:
        """Everything before the first event; some writers put the metadata there."""
        head = b""
        for block in blocks:
            head += block
            head = head.removeprefix(codecs.BOM_UTF8)
            start = head.lstrip()[:1]
            if start not in (b"{", b"["):
                break
            if start == b"[":
                self._buffer = head.lstrip()[1:]
                return
            if found := _EVENTS.search(head, max(0, len(head) - len(block) - 64)):
                self._note(head[: found.end()] + b"]}")
                self._buffer = head[found.end() :]
                return
            if len(head) > _LARGEST_HEAD:
                break
        if not head.strip():
            why = self._source.cut_short or "is empty"
            raise TraceError(f"{self._source.path}: {why}; copy it or export it again")
        raise TraceError(
            f"{self._source.path}: is no trace of torch.profiler (JSON with `traceEvents`); export "
            "one with `prof.export_chrome_trace(path)` or `tensorboard_trace_handler(folder)`"
        )

    def _note(self, document: bytes) -> None:
        try:
            found = json.loads(document.decode("utf-8", "replace"), strict=False)
        except ValueError:
            return
        self._keep(found)

    def _keep(self, found: dict[str, Any]) -> None:
        for name in Metadata.__struct_fields__:
            key = _METADATA_KEYS[name]
            if key in found:
                try:
                    value = msgspec.convert(found[key], _METADATA_TYPES[name], strict=False)
                except msgspec.ValidationError:
                    continue
                setattr(self.metadata, name, value)

    def _pieces(self, block: bytes) -> Iterator[list[AnyEvent]]:
        """Decode what is there up to the last cut in a block; the rest waits for the next."""
        if self._separator is None:
            block, self._buffer = self._buffer + block, b""
            self._separator = _separator(block)
        cut = block.rfind(self._separator) if self._separator else -1
        if cut < 0:
            self._buffer += block
            return
        piece = b"".join((b"[", self._buffer, memoryview(block)[: cut + 1], b"]"))
        self._buffer = block[cut + 1 :].lstrip(_BEFORE_EVENT)
        yield self._decode(piece)

    def _decode(self, piece: bytes) -> list[AnyEvent]:
        """The events of a piece in brackets."""
        try:
            return self._typed.decode(piece)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            events, rest = self._one_by_one(piece[1:-1])
            self._buffer = rest + self._buffer
            if self._ended:
                self._tail.append(self._buffer)
            return events

    def _one_by_one(self, piece: bytes) -> tuple[list[AnyEvent], bytes]:
        """The events of a piece that is not as expected, and the bytes of an unfinished one."""
        text = piece.decode("utf-8", "surrogateescape")
        decoder = json.JSONDecoder(strict=False)
        events: list[AnyEvent] = []
        position = 0
        while True:
            position = _skip(text, position)
            if position >= len(text):
                return events, b""
            if text[position] == "]":
                self._ended = True
                return events, text[position:].encode("utf-8", "surrogateescape")
            try:
                value, position = decoder.raw_decode(text, position)
                if isinstance(value, dict) and (event := self._taken(value)) is not None:
                    events.append(event)
            except msgspec.ValidationError:
                self.lost += 1
            except ValueError:
                following = self._following(text, position)
                if following is None:
                    return events, text[position:].encode("utf-8", "surrogateescape")
                self.lost += 1
                position = following

    def _taken(self, value: dict[str, Any]) -> AnyEvent | None:
        """An event that was read by itself; None if it is of no interest."""
        known = value.get("ph") in _PHASES
        return msgspec.convert(_with_raw(value), AnyEvent, strict=False) if known else None

    def _following(self, text: str, position: int) -> int | None:
        """Where the event after an unreadable one begins; None if it is not there yet."""
        separator = (self._separator or b"").decode()
        found = text.find(separator, position + 1) if separator else -1
        return None if found < 0 else found + 1

    def _rest(self) -> Iterator[list[AnyEvent]]:
        """What is left when the file is at its end: the last events, and what stands behind."""
        if not self._ended:
            self._separator = self._separator or _separator(self._buffer)
            events, rest = self._one_by_one(self._buffer)
            self._buffer = rest
            yield events
            if rest.startswith(b"]"):
                self._tail.append(rest)
        self.truncated = not self._ended or self._source.cut_short is not None
        tail = b"".join(self._tail).strip()[1:].lstrip(b" \t\r\n,")
        if tail:
            self._note(b"{" + tail)


_RAW = {f.encode_name for f in msgspec.structs.fields(Args) if f.type is msgspec.Raw}
_METADATA_KEYS = {f.name: f.encode_name for f in msgspec.structs.fields(Metadata)}
_METADATA_TYPES: dict[str, Any] = {f.name: f.type for f in msgspec.structs.fields(Metadata)}


def _separator(buffer: bytes) -> bytes | None:
    """The bytes from the end of the first event to the first key of the second."""
    text = buffer.decode("utf-8", "surrogateescape")
    try:
        _, end = json.JSONDecoder(strict=False).raw_decode(text, _skip(text, 0))
    except ValueError:  # the first event is damaged; what looks like an end most likely is one
        found = _BETWEEN.search(buffer)
    else:
        first = len(text[:end].encode("utf-8", "surrogateescape"))
        found = _BETWEEN.match(buffer, first - 1)
    return found.group() if found else None


def _with_raw(event: dict[str, Any]) -> dict[str, Any]:
    """`event` with the arguments as JSON that are kept as such."""
    args = event.get("args")
    if isinstance(args, dict):
        for name in _RAW & args.keys():
            args[name] = msgspec.Raw(msgspec.json.encode(args[name]))
    return event


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n,":
        position += 1
    return position
