"""The program of one rank: it records a profile, and measures the truth beside it.

The truth is what removing the cause gains in fact: segments of the job as planted and with the
cause removed, in turn (ABBA), so that both sides meet the same machine.

    python -m rank_corpus.member CASE NETWORK FOLDER SECONDS SEGMENTS

with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in the environment.
"""

from __future__ import annotations

import sys
import time
from contextlib import closing
from datetime import timedelta
from itertools import islice
from pathlib import Path

import msgspec
import torch
from torch import distributed

from rank_corpus import truth
from rank_corpus.case import Case, Rank
from rank_corpus.corpus import CASES
from rank_corpus.network import Network
from stepscope.profiler import profile

SKIPPED_STEPS, PILOT_STEPS, LEAST_STEPS = 5, 10, 30
_PATIENCE = timedelta(seconds=60)


class Member:
    """One rank of a job.

    Args:
        case: what is planted.
        net: the network that it runs in.
    """

    def __init__(self, case: Case, net: Network) -> None:
        self.case, self.net = case, net
        self.number = distributed.get_rank()

    def record(self, path: Path, steps: int) -> None:
        """Profile the job as planted."""
        self._set_links(1.0)
        program = self.case.program(Rank(self.number, self.case.world, 1.0))
        skipped = self._whole_periods(SKIPPED_STEPS)
        with closing(program), profile(path, warmup_steps=skipped) as prof:  # type: ignore[type-var]
            for _ in islice(program, skipped + steps):
                prof.step()

    def segment(self, severity: float, steps: int) -> float:
        """Seconds per step of a fresh start, of the rank that took longest."""
        self._set_links(severity)
        with closing(self.case.program(Rank(self.number, self.case.world, severity))) as program:  # type: ignore[type-var]
            for _ in islice(program, self._whole_periods(SKIPPED_STEPS)):
                pass
            distributed.barrier()
            begin = time.perf_counter()
            for _ in islice(program, steps):
                pass
            took = torch.tensor([time.perf_counter() - begin], dtype=torch.float64)
        distributed.all_reduce(took, distributed.ReduceOp.MAX)
        return took.item() / steps

    def steps_in(self, seconds: float, severity: float) -> int:
        """Whole periods that take about so long; the same on all ranks."""
        one = self.segment(severity, self._whole_periods(PILOT_STEPS))
        return self._whole_periods(max(LEAST_STEPS, round(seconds / one)))

    def _whole_periods(self, steps: int) -> int:
        return -(-steps // self.case.period) * self.case.period

    def _set_links(self, severity: float) -> None:
        distributed.barrier()
        if self.number == 0:
            self.net.limit(self.case.links(severity))
        distributed.barrier()


def main() -> None:
    """See the module's words."""
    name, network, folder, seconds, segments = sys.argv[1:]
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", timeout=_PATIENCE)
    case = CASES[name]
    member = Member(case, Network(network, case.world))
    steps = member.steps_in(float(seconds), 1.0)
    member.record(Path(folder, "profile.json"), steps)
    sides: dict[float, list[float]] = {1.0: [], 0.0: []}
    if int(segments):
        half = float(seconds) / 2
        lengths = {1.0: max(1, steps // 2), 0.0: member.steps_in(half, 0.0)}
        lengths = {each: member._whole_periods(length) for each, length in lengths.items()}
        for severity in (1.0, 0.0, 0.0, 1.0) * (int(segments) // 2):
            sides[severity].append(member.segment(severity, lengths[severity]))
    if member.number == 0:
        measured = truth.Truth(name, sides[1.0], sides[0.0])
        Path(folder, truth.FILE).write_bytes(msgspec.json.encode(measured))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
