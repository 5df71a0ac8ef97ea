"""A network for a handful of ranks on one machine, in which each has a link of a given rate.

Every rank has a network namespace of its own, joined by a veth pair to a bridge in one more. A
token bucket at both ends of the pair limits what the rank sends and what it receives.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

DEVICE = "eth0"
"""Of each rank, in its own namespace."""
_PREFIX, _PLACE = "rank-corpus", "/run/netns"
_MIN_BURST, _BURST_SECONDS = 10_000, 0.0005
_QUEUE_BYTES = 4_000_000


@dataclass(frozen=True)
class Link:
    """What a rank can send and receive, in bits per second."""

    up: float
    down: float


def both_ways(rate: float) -> Link:
    """A link as fast in one direction as in the other."""
    return Link(rate, rate)


@dataclass(frozen=True)
class Network:
    """Ranks that reach each other."""

    name: str
    size: int

    @property
    def _bridge(self) -> str:
        return f"{self.name}-bridge"

    def namespace(self, rank: int) -> str:
        """Where a rank runs."""
        return f"{self.name}-{rank}"

    def address(self, rank: int) -> str:
        """Of a rank."""
        return f"10.77.0.{rank + 1}"

    def inside(self, rank: int, command: Sequence[str]) -> list[str]:
        """The command that runs `command` as this rank sees the network."""
        # `ip netns exec` would hide /sys/fs/cgroup from it.
        return ["nsenter", f"--net={_PLACE}/{self.namespace(rank)}", *command]

    def limit(self, links: Sequence[Link]) -> None:
        """Set the rates, from any namespace."""
        for rank, link in enumerate(links):
            _limit(self.namespace(rank), DEVICE, link.up)
            _limit(self._bridge, f"rank{rank}", link.down)

    def _build(self) -> None:
        bridge = self._bridge
        _run("ip", "netns", "add", bridge)
        _run("ip", "-n", bridge, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", bridge, "link", "set", "bridge", "up")
        for rank in range(self.size):
            own, port = self.namespace(rank), f"rank{rank}"
            _run("ip", "netns", "add", own)
            pair = ("type", "veth", "peer", "name", DEVICE, "netns", own)
            _run("ip", "-n", bridge, "link", "add", port, *pair)
            _run("ip", "-n", bridge, "link", "set", port, "master", "bridge", "up")
            _run("ip", "-n", own, "address", "add", f"{self.address(rank)}/24", "dev", DEVICE)
            _run("ip", "-n", own, "link", "set", DEVICE, "up")
            _run("ip", "-n", own, "link", "set", "lo", "up")

    def _remove(self) -> None:
        for name in (self._bridge, *map(self.namespace, range(self.size))):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


@contextmanager
def network(links: Sequence[Link]) -> Iterator[Network]:
    """Build a network with a link for each rank, and take it away again whatever happens.

    Raises:
        OSError: the kernel does not let us; :func:`obstacle` tells so before.
    """
    made = Network(f"{_PREFIX}-{os.getpid()}", len(links))
    try:
        made._build()
        made.limit(links)
        yield made
    finally:
        made._remove()


@cache
def obstacle() -> str | None:
    """Why no network can be built here; None if it can."""
    for tool, package in (("ip", "iproute2"), ("tc", "iproute2"), ("nsenter", "util-linux")):
        if shutil.which(tool) is None:
            return f"needs the command {tool} of {package}"
    try:
        with network([both_ways(1e9)]):
            return None
    except OSError as error:
        return f"needs the right to make network namespaces with token buckets: {error}"


def _limit(namespace: str, device: str, rate: float) -> None:
    burst = max(_MIN_BURST, round(rate / 8 * _BURST_SECONDS))
    bucket = ("rate", f"{rate:.0f}bit", "burst", str(burst), "limit", str(_QUEUE_BYTES))
    _run("tc", "-n", namespace, "qdisc", "replace", "dev", device, "root", "tbf", *bucket)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
