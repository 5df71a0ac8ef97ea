"""The kernel's counters of this process's own connections, on real ones."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator

import pytest

from stepscope.profiler.connections import Connections
from stepscope.profiler.format import Connection

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
SIZE = 1 << 20


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as ours,
        server.accept()[0] as theirs,
    ):
        yield ours, theirs


def carry(pair: tuple[socket.socket, socket.socket], size: int) -> None:
    ours, theirs = pair
    sender = threading.Thread(target=ours.sendall, args=(bytes(size),))
    sender.start()
    while size:
        size -= len(theirs.recv(size))
    sender.join()
    theirs.sendall(b"!")  # by then all was acknowledged
    assert ours.recv(1) == b"!"


def named(end: socket.socket) -> str:
    host, port = end.getsockname()
    return f"{host}:{port}"


def of(found: list[Connection], end: socket.socket) -> Connection:
    return next(each for each in found if each.local == named(end))


def test_both_ends_tell_what_went_over_it(pair: tuple[socket.socket, socket.socket]) -> None:
    carry(pair, 3 * SIZE)
    counters = Connections()
    counters.begin(10)

    carry(pair, SIZE)
    counters.look(14)

    ours, theirs = (of(counters.as_list(), end) for end in pair)
    assert (ours.peer, theirs.peer) == (theirs.local, ours.local)
    assert (ours.steps, ours.sent_bytes) == (4, SIZE)
    assert theirs.received_bytes == SIZE
    assert ours.segments * ours.segment_bytes >= SIZE
    assert ours.busy_ns >= 0


def test_what_carries_little_is_left_out(pair: tuple[socket.socket, socket.socket]) -> None:
    counters = Connections()
    counters.begin(0)
    carry(pair, 1000)
    counters.look(1)

    assert named(pair[0]) not in {each.local for each in counters.as_list()}


def test_a_connection_that_was_closed_stays_known(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    counters = Connections()
    counters.begin(0)
    carry(pair, SIZE)
    counters.look(5)
    name = named(pair[0])
    pair[0].close()
    counters.look(9)

    known = next(each for each in counters.as_list() if each.local == name)
    assert (known.steps, known.sent_bytes) == (5, SIZE)


def test_reading_leaves_a_connection_as_it_was(pair: tuple[socket.socket, socket.socket]) -> None:
    socket.setdefaulttimeout(1.0)
    try:
        counters = Connections()
        counters.begin(0)
        counters.look(1)
    finally:
        socket.setdefaulttimeout(None)

    assert pair[0].getblocking()
    assert pair[0].fileno() >= 0


def test_what_begins_anew_is_counted_anew(pair: tuple[socket.socket, socket.socket]) -> None:
    counters = Connections()
    counters.begin(0)
    carry(pair, SIZE)
    counters.look(3)
    counters.clear()

    assert counters.as_list() == []
