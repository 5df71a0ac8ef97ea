"""Steps in blocks of neighbours, the unit that the bootstrap draws."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from stepscope.profiler.format import Steps

BLOCKS = 64


class Block(NamedTuple):
    """Sums over some consecutive steps; times in seconds."""

    steps: float
    wall: float
    cpu: float
    process_cpu: float
    run_delay: float
    wait_cpu: float
    wait_run_delay: float
    phases: dict[str, float]


def blocks_of(steps: Steps) -> list[Block]:
    """Neighbouring rows joined to at most `BLOCKS` blocks, which keeps slow drifts together."""
    rows = len(steps.first)
    edges = [round(i * rows / min(BLOCKS, rows)) for i in range(min(BLOCKS, rows) + 1)]
    zeros = [0] * rows  # where processor time is not known, all time counts as blocked
    delay, wait_delay = steps.run_delay_ns or zeros, steps.wait_run_delay_ns or zeros
    cpu, wait_cpu = steps.cpu_ns or zeros, steps.wait_cpu_ns or zeros
    process_cpu = steps.process_cpu_ns or zeros
    return [
        Block(
            steps=sum(steps.count[a:b]),
            wall=sum(steps.wall_ns[a:b]) / 1e9,
            cpu=sum(cpu[a:b]) / 1e9,
            process_cpu=sum(process_cpu[a:b]) / 1e9,
            run_delay=sum(delay[a:b]) / 1e9,
            wait_cpu=sum(wait_cpu[a:b]) / 1e9,
            wait_run_delay=sum(wait_delay[a:b]) / 1e9,
            phases={name: sum(column[a:b]) / 1e9 for name, column in steps.phases.items()},
        )
        for a, b in pairwise(edges)
    ]


def summed(blocks: list[Block]) -> Block:
    """One block with the sums of all: steps, times and phases."""
    phases: dict[str, float] = {}
    for block in blocks:
        for name, seconds in block.phases.items():
            phases[name] = phases.get(name, 0.0) + seconds
    return Block(
        steps=sum(block.steps for block in blocks),
        wall=sum(block.wall for block in blocks),
        cpu=sum(block.cpu for block in blocks),
        process_cpu=sum(block.process_cpu for block in blocks),
        run_delay=sum(block.run_delay for block in blocks),
        wait_cpu=sum(block.wait_cpu for block in blocks),
        wait_run_delay=sum(block.wait_run_delay for block in blocks),
        phases=phases,
    )
