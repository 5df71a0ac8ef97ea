"""Who owns each part of a step, in seconds of wall time on the critical path."""

from __future__ import annotations

from math import log

from stepscope.advisor.blocks import Block
from stepscope.advisor.contention import Contention
from stepscope.advisor.sources import Sources, Work
from stepscope.advisor.stages import HANDOVER, STARTUP, STARVATION
from stepscope.advisor.trainer import PYTHON


def attribute(sources: Sources, block: Block) -> dict[str, float]:
    """Seconds of the block's wall time by cause; sums to its wall time."""
    work = sources.work(block)
    seconds = dict(work.causes)
    taken = work.lost * _foreign_part(sources.main_contention, work)
    own = {cause: part for cause, part in sources.crowding.items() if cause != STARTUP}
    _move(seconds, STARVATION, taken * (1 - sum(own.values())))
    for cause, part in own.items():
        _move(seconds, cause, taken * part)
    for cause, part in waiting(sources, block).items():
        seconds[cause] = seconds.get(cause, 0.0) + part
    return _by_processor_time(sources, seconds, block)


def _by_processor_time(
    sources: Sources, seconds: dict[str, float], block: Block
) -> dict[str, float]:
    """As far as the cores are full, a cause owns the step by the processor time it uses.

    Then nobody waits for long, everybody is slow, and a step takes as long as the cores need
    for the work of all threads: whose work that is, is what holds it back.
    """
    used = _processor_time(sources, block)
    total = sum(used.values())
    full = _ramp(total / (block.wall * sources.cores), 0.6, 0.9)
    starved = seconds.get(STARVATION, 0.0)
    if full <= 0 or total <= 0:
        return seconds
    k = (block.wall - starved) / total
    by_use = {cause: s * k for cause, s in used.items()}
    by_use[STARVATION] = by_use.get(STARVATION, 0.0) + starved
    return {
        cause: (1 - full) * seconds.get(cause, 0.0) + full * by_use.get(cause, 0.0)
        for cause in {**seconds, **by_use}
    }


def _processor_time(sources: Sources, block: Block) -> dict[str, float]:
    """Seconds of processor time by cause: the trainer's by its phases, the workers' own."""
    main = sources.trainer.causes(block.phases, block.steps)
    busy = sum(main.values())
    locking = sources.locking_threads * block.wall
    unlocked = sources.unlocked_threads * block.wall
    handing = sources.handing_threads * block.wall
    fetched = {c: s * block.steps for c, s in sources.fetch.cpu.items()} if sources.fetch else {}
    own = (
        block.process_cpu
        - (locking + unlocked + handing)
        - (0.0 if sources.workers else sum(fetched.values()))
    )
    used = {c: max(0.0, own) * s / busy for c, s in main.items()} if busy else {}
    used[PYTHON] = used.get(PYTHON, 0.0) + locking
    used[HANDOVER] = used.get(HANDOVER, 0.0) + handing
    used[STARVATION] = unlocked
    awaited = {cause: cores * block.wall for cause, cores in sources.awaited.items()}
    for cause, s in (*fetched.items(), *awaited.items()):
        used[cause] = used.get(cause, 0.0) + s
    return used


def waiting(sources: Sources, block: Block) -> dict[str, float]:
    """The time waiting for batches, divided as the making of a batch divides."""
    wait = block.phases.get("data_wait", 0.0)
    if wait <= 0 or sources.fetch is None:
        return {}
    making = sources.fetch.wall
    starved = sources.fetch_contention.fixed * sum(making.values())
    making[STARVATION] = min(sources.fetch.run_delay, starved)
    making[HANDOVER] = making.get(HANDOVER, 0.0) + max(
        0.0, sources.fetch.packing - sum(making.values())
    )
    if sources.workers:
        receive = wait - sources.starved(block)
    elif sources.loader is not None:
        receive = max(0.0, wait - sources.fetch.elapsed * block.steps)
    else:
        receive = 0.0
    parts = {HANDOVER: receive}
    total = sum(making.values())
    for cause, part in making.items():
        share = part / total if total else 0.0
        parts[cause] = parts.get(cause, 0.0) + (wait - receive) * share
    return parts


def _foreign_part(contention: Contention, work: Work) -> float:
    """Which part of what was lost others took; slowdowns multiply, so their logarithms add."""
    slowdown = work.running / max(1e-12, work.running - work.lost)
    return min(1.0, log(1 + contention.fixed) / log(slowdown)) if slowdown > 1 else 0.0


def _move(seconds: dict[str, float], to: str, amount: float) -> None:
    """Take `amount` from all other causes in proportion and give it to one."""
    total = sum(s for cause, s in seconds.items() if cause != to)
    amount = min(amount, 0.95 * total)
    if amount > 0:
        for cause in seconds.keys() - {to}:
            seconds[cause] *= 1 - amount / total
        seconds[to] = seconds.get(to, 0.0) + amount


def _ramp(value: float, low: float, high: float) -> float:
    return min(1.0, max(0.0, (value - low) / (high - low)))
