"""Processes that are no children of ours and keep a core busy each.

    python neighbours.py COUNT

starts them, prints their process ids and ends. They end when their standard input does.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LONGEST_SECONDS = 600.0
"""Nobody is disturbed for longer, whatever happens."""


@contextmanager
def busy_neighbours(count: int) -> Iterator[list[int]]:
    """`count` busy processes whose parent is not this one, while the context is open."""
    # A pipe that ends with this process ends them too, however it dies.
    their_input, ours = os.pipe()
    command = [sys.executable, "-S", str(Path(__file__)), str(count)]
    launcher = subprocess.run(command, stdin=their_input, stdout=subprocess.PIPE, check=True)
    os.close(their_input)
    pids = [int(pid) for pid in launcher.stdout.split()]
    try:
        yield pids
    finally:
        os.close(ours)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def spin() -> None:
    end = time.monotonic() + LONGEST_SECONDS
    while not select.select([0], [], [], 0)[0] and time.monotonic() < end:
        sum(range(100_000))


def main() -> None:
    for _ in range(int(sys.argv[1])):
        pid = os.fork()
        if pid == 0:
            os.setsid()
            os.close(1)  # the caller reads to the end of what the launcher prints
            spin()
            os._exit(0)
        print(pid)


if __name__ == "__main__":
    main()
