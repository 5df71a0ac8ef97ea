"""What the kernel knows of this process's TCP connections: bytes sent, and how long that took.

Whatever exchanges gradients over sockets (gloo, NCCL without a faster transport) is in it, however
it is called. The kernel counts for itself; reading costs a few microseconds a connection, and is
done when the first steady step was seen and when a profile is written.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import sys
from typing import NamedTuple

from stepscope.profiler.format import Connection

_MAX_DESCRIPTORS = 8192
_MOST, _MOST_KNOWN = 32, 8192
_LEAST_BYTES = 1 << 16
"""Less is no exchange of gradients."""
_LONGEST_ADDRESS = 128
_LONGEST_INFO = 256
# Offsets in `struct tcp_info` of Linux' include/uapi/linux/tcp.h; fields are only ever added to it.
_MSS = struct.Struct("=16xI")
_COUNTS = struct.Struct("=120xQQ20xI8xQQ")
_MAPPED = "::ffff:"
"""IPv4 in the clothes of IPv6."""


class _Reading(NamedTuple):
    """Counters since the connection was made."""

    step: int
    sent: int
    received: int
    segments: int
    busy_us: int
    blocked_us: int
    segment_bytes: int


_Key = tuple[str, str]
"""Endpoints, our own first."""


class Connections:
    """Counters of all connections, from the first look on."""

    def __init__(self) -> None:
        self._first: dict[_Key, _Reading] | None = None
        self._last: dict[_Key, _Reading] = {}
        self._began = 0

    def begin(self, step: int) -> None:
        """Count from now on, unless that was said before."""
        if self._first is None:
            self._first, self._began = _read(step), step

    def clear(self) -> None:
        """Forget everything."""
        self._first, self._last = None, {}

    def look(self, step: int) -> None:
        """Read the counters again: a connection may be closed before the end."""
        if self._first is not None:
            self._last |= _read(step)
        if len(self._last) > _MOST_KNOWN:
            most = sorted(self._last, key=lambda key: -_carried(self._last[key]))
            self._last = {key: self._last[key] for key in most[:_MOST_KNOWN]}

    def as_list(self) -> list[Connection]:
        """Those that have carried most, as they were at the last look."""
        before = self._first or {}
        nothing = _Reading(self._began, 0, 0, 0, 0, 0, 0)
        rows = [_row(key, before.get(key, nothing), now) for key, now in self._last.items()]
        rows = [row for row in rows if row.sent_bytes + row.received_bytes >= _LEAST_BYTES]
        rows.sort(key=lambda row: -(row.sent_bytes + row.received_bytes))
        return rows[:_MOST]


def _carried(reading: _Reading) -> int:
    return reading.sent + reading.received


def _row(key: _Key, before: _Reading, now: _Reading) -> Connection:
    busy_us = now.busy_us - before.busy_us - (now.blocked_us - before.blocked_us)
    return Connection(
        local=key[0],
        peer=key[1],
        steps=max(0, now.step - before.step),
        sent_bytes=max(0, now.sent - before.sent),
        received_bytes=max(0, now.received - before.received),
        busy_ns=max(0, 1000 * busy_us),
        segments=max(0, now.segments - before.segments),
        segment_bytes=now.segment_bytes,
    )


def _read(step: int) -> dict[_Key, _Reading]:
    """The counters of every connection of this process; nothing where the kernel does not tell."""
    if sys.platform != "linux":
        return {}
    libc = ctypes.CDLL(None)
    found = {}
    for name in os.listdir("/proc/self/fd")[:_MAX_DESCRIPTORS]:  # noqa: PTH208  # names, quickly
        # Not through a socket object, which may make the connection a non-blocking one.
        info = _option(libc, int(name))
        if info is None:
            continue
        key = _address(libc.getsockname, int(name)), _address(libc.getpeername, int(name))
        if key[0] and key[1]:
            found[key] = _Reading(step, *_COUNTS.unpack_from(info), *_MSS.unpack_from(info))
    return found


def _option(libc: ctypes.CDLL, descriptor: int) -> bytes | None:
    """What the kernel says of a connection; None of what is none, or of a kernel before 4.10."""
    buffer, length = ctypes.create_string_buffer(_LONGEST_INFO), ctypes.c_uint(_LONGEST_INFO)
    level, name = socket.IPPROTO_TCP, socket.TCP_INFO
    if libc.getsockopt(descriptor, level, name, buffer, ctypes.byref(length)):
        return None
    return buffer.raw if length.value >= _COUNTS.size else None


def _address(call: ctypes._NamedFuncPointer, descriptor: int) -> str:
    """`ADDRESS:PORT`; empty where there is none."""
    buffer, length = ctypes.create_string_buffer(_LONGEST_ADDRESS), ctypes.c_uint(_LONGEST_ADDRESS)
    if call(descriptor, buffer, ctypes.byref(length)):
        return ""
    family, port = (
        int.from_bytes(buffer.raw[:2], sys.byteorder),
        int.from_bytes(buffer.raw[2:4], "big"),
    )
    if family == socket.AF_INET:
        return f"{socket.inet_ntop(family, buffer.raw[4:8])}:{port}"
    if family == socket.AF_INET6:
        return f"{socket.inet_ntop(family, buffer.raw[8:24]).removeprefix(_MAPPED)}:{port}"
    return ""
