"""Ranks with a link of known rate each: network namespaces, joined by a bridge; needs root."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

_PREFIX = f"ss{os.getpid() % 10000}"
_PORT = 29400
_ROOM_MS = 100
"""What may wait in front of the link: more than a window of TCP, so that nothing is dropped."""


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


@contextmanager
def namespaces(count: int, megabits: float) -> Iterator[list[str]]:
    """So many network namespaces, each of which sends at `megabits` per second at most.

    Raises:
        subprocess.CalledProcessError: not root, or the kernel has no namespaces or no `tbf`.
    """
    bridge, names = f"{_PREFIX}b", [f"{_PREFIX}n{i}" for i in range(count)]
    with ExitStack() as undo:

        def made(*command: str, by: Sequence[str]) -> None:
            _run("ip", *command)
            undo.callback(subprocess.run, ["ip", *by], check=False, capture_output=True)

        made("link", "add", bridge, "type", "bridge", by=("link", "del", bridge))
        _run("ip", "link", "set", bridge, "up")
        for i, name in enumerate(names):
            outside = f"{_PREFIX}v{i}"
            made("netns", "add", name, by=("netns", "del", name))
            peer = ("type", "veth", "peer", "name", "eth0", "netns", name)
            # A namespace goes some time after its name, and its links with it.
            made("link", "add", outside, *peer, by=("link", "del", outside))
            _run("ip", "link", "set", outside, "master", bridge, "up")
            _run("ip", "-n", name, "addr", "add", f"10.213.0.{i + 1}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                _run("ip", "-n", name, "link", "set", device, "up")
            limit = ("rate", f"{megabits}mbit", "burst", "64kb", "latency", f"{_ROOM_MS}ms")
            shape = ("tc", "qdisc", "add", "dev", "eth0", "root", "tbf", *limit)
            _run("ip", "netns", "exec", name, *shape)
        yield names


def run_ranks(program: Path, arguments: Sequence[str], ranks: int, megabits: float) -> str:
    """Standard output of rank 0 of `ranks` processes of a Python program.

    Raises:
        RuntimeError: a rank has failed.
        subprocess.CalledProcessError: as :func:`namespaces`.
    """
    environment = {
        **os.environ,
        "MASTER_ADDR": "10.213.0.1",
        "MASTER_PORT": str(_PORT),
        "WORLD_SIZE": str(ranks),
        "GLOO_SOCKET_IFNAME": "eth0",
        "OMP_NUM_THREADS": "1",
    }
    with namespaces(ranks, megabits) as names:
        started = [
            subprocess.Popen(
                ["ip", "netns", "exec", name, sys.executable, str(program), *arguments],
                env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank, name in enumerate(names)
        ]
        outputs = [process.communicate() for process in started]
    for rank, (process, (_, errors)) in enumerate(zip(started, outputs, strict=True)):
        if process.returncode:
            raise RuntimeError(f"rank {rank} has failed: {errors.strip()[-2000:]}")
    return outputs[0][0]
