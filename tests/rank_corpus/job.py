"""Start the ranks of a case, each in its own namespace, and wait for them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from rank_corpus.case import Case
from rank_corpus.network import DEVICE, Network, network

_TESTS = Path(__file__).parents[1]
_PORT = "29500"


class JobError(Exception):
    """A rank did not end well."""


def run(
    case: Case,
    folder: Path,
    seconds: float = 3.0,
    segments: int = 0,
    patience: float = 120.0,
) -> None:
    """Record the profiles of a case's ranks into `folder`, and the truth beside them.

    Args:
        case: what to run.
        folder: an empty one.
        seconds: the length of a profile.
        segments: with the cause, and as many without it, each half as long.
        patience: seconds until all ranks are ended.

    Raises:
        JobError: a rank failed, or did not end in time.
        OSError: no network can be made here.
    """
    with network(case.links(1.0)) as net:
        ranks = [_start(case, net, rank, folder, seconds, segments) for rank in range(case.world)]
        end = time.monotonic() + patience
        try:
            # A rank that fails ends the others: they would wait for it.
            while any(rank.poll() is None for rank in ranks):
                failed = [i for i, rank in enumerate(ranks) if rank.poll()]
                if failed or time.monotonic() > end:
                    break
                time.sleep(0.05)
        finally:
            for rank in ranks:
                with suppress(ProcessLookupError):
                    os.killpg(rank.pid, signal.SIGKILL)
                rank.wait()
    for number, rank in enumerate(ranks):
        if rank.returncode:
            said = (folder / f"rank{number}.log").read_text().strip().splitlines()[-12:]
            raise JobError(f"{case.name}: rank {number} ended with {rank.returncode}: {said}")


def _start(
    case: Case, net: Network, rank: int, folder: Path, seconds: float, segments: int
) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "RANK": str(rank),
        "WORLD_SIZE": str(case.world),
        "MASTER_ADDR": net.address(0),
        "MASTER_PORT": _PORT,
        "GLOO_SOCKET_IFNAME": DEVICE,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(_TESTS), os.environ.get("PYTHONPATH")))),
    }
    arguments = [case.name, net.name, str(folder), str(seconds), str(segments)]
    command = [sys.executable, "-m", "rank_corpus.member", *arguments]
    with (folder / f"rank{rank}.log").open("wb") as log:
        return subprocess.Popen(
            net.inside(rank, command),
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
