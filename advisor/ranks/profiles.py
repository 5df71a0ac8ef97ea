"""The recorded profile of one rank, as a summary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from zlib import crc32

from msgspec import structs

from stepscope.advisor.attribution import waiting
from stepscope.advisor.blocks import blocks_of, summed
from stepscope.advisor.device_path import on_device_path
from stepscope.advisor.measure import measured_steps
from stepscope.advisor.ranks.calls import calls_of
from stepscope.advisor.ranks.clocks import clocks_of
from stepscope.advisor.ranks.connections import connections_of
from stepscope.advisor.ranks.heat import heat_of
from stepscope.advisor.ranks.sketches import Counts, counted
from stepscope.advisor.ranks.summary import Exchange, Summary
from stepscope.advisor.ranks.tables import tables_of
from stepscope.advisor.ranks.timeline import timeline_of, with_rank
from stepscope.advisor.sources import Sources
from stepscope.profiler.format import HostTimes, Profile, RankTimes, Steps, Window
from stepscope.profiler.storage import ProfileError, load

BINS = 1024
"""Of the steps of a job; a recorder keeps two to four times as many."""
COLLECTIVE = "communication."
_UNFINISHED = "this is a copy made during the run, which went on or was killed."


def summarise(path: Path, number: int = 0) -> Summary:
    """Read one rank's profile.

    Args:
        path: the profile.
        number: of the file; a profile knows its rank itself.

    Raises:
        ProfileError: it cannot be read, or holds no steps.
    """
    profile = on_device_path(load(path))
    steps = measured_steps(profile)
    if not sum(steps.wall_ns):
        raise ProfileError(f"{path}: no training step was recorded")
    if profile.run.ended == "running":
        profile.problems.append(_UNFINISHED)
    exchange = exchange_of(profile, steps)
    if exchange is not None and "collective" not in steps.phases:
        steps = _apart(steps, exchange)
    return summary_of(profile, steps, exchange, capacity=BINS)


def exchange_of(profile: Profile, steps: Steps) -> list[int] | None:
    """Nanoseconds of each row in collectives, waiting for others included; None if not timed.

    The exchange of gradients is part of the backward phase, so that it is what that took beyond
    the arithmetic that DistributedDataParallel's own logger has timed. On a device whose time line
    was followed it is told; where it was not, the logger's average is taken.
    """
    called = steps.phases.get("communication", [0] * len(steps.first))
    backward = steps.phases.get("backward", [0] * len(steps.first))
    if "collective" in steps.phases:
        return [a + b for a, b in zip(called, steps.phases["collective"], strict=True)]
    if not profile.collectives:
        return list(called) if any(called) else None
    on_device = any(d.startswith("cuda") for m in profile.configuration.models for d in m.devices)
    if on_device:
        exposed = sum(max(0, c.communication_ns - c.overlap_ns) for c in profile.collectives)
        hidden = [min(b, exposed * n) for b, n in zip(backward, steps.count, strict=True)]
    else:
        arithmetic = sum(c.backward_ns for c in profile.collectives)
        hidden = [max(0, b - arithmetic * n) for b, n in zip(backward, steps.count, strict=True)]
    return [a + b for a, b in zip(called, hidden, strict=True)]


def _apart(steps: Steps, exchange: Sequence[int]) -> Steps:
    """The steps with the exchange of gradients taken out of the backward phase."""
    rows = len(steps.first)
    called = steps.phases.get("communication", [0] * rows)
    hidden = [a - b for a, b in zip(exchange, called, strict=True)]
    backward = steps.phases.get("backward", [0] * rows)
    rest = [a - b for a, b in zip(backward, hidden, strict=True)]
    phases = {**steps.phases, "backward": rest, "collective": hidden}
    return structs.replace(steps, phases=phases)


def summary_of(
    profile: Profile,
    steps: Steps,
    exchange: Sequence[int] | None,
    *,
    capacity: int,
    host: str | None = None,
) -> Summary:
    """The summary of one rank.

    Args:
        profile: of the rank.
        steps: those to judge by, with time in collectives as phases of its own.
        exchange: nanoseconds of each row in collectives; None where they were not timed.
        capacity: bins of steps at most.
        host: where it ran.
    """
    rank, total = profile.run.rank, max(1, steps.total)
    spent = exchange if exchange is not None else [0] * len(steps.first)
    own = [wall - e for wall, e in zip(steps.wall_ns, spent, strict=True)]
    shortest = [with_rank(e // max(1, n), rank) for e, n in zip(spent, steps.count, strict=True)]
    times = _times(profile, steps, exchange, host)
    identity = crc32(f"{profile.run.started_at} {profile.run.wall_ns}".encode())
    key = (times.own_ns, rank, steps.first[0], identity)
    return Summary(
        base=_stripped(profile),
        base_key=key,
        ranks=1 << rank,
        files=1,
        world_sizes=[profile.run.world_size],
        jobs=[profile.run.job] if profile.run.job else [],
        started_at=(profile.run.started_at, profile.run.started_at),
        steps=total,
        own_ns=sum(own),
        exchange_ns=sum(spent),
        exchange_known=exchange is not None,
        timeline=timeline_of(steps, capacity, exchange_ns=spent, **{"least.exchange_ns": shortest}),
        clocks=clocks_of(profile.meetings, rank, times.host),
        connections=connections_of(profile),
        heat=heat_of(rank, steps.first, steps.count, own),
        slowest=[times],
        quickest=[times] if exchange is not None else [],
        hosts={times.host: _host(times)} if times.host else {},
        spreads=_spreads(times, steps),
        step_time=_step_time(profile),
        phases=sorted(steps.phases),
        calls={name: sum(column) for name, column in sorted(steps.calls.items())},
        exchanges=[
            Exchange(c, rank, 1, c.communication_ns, c.overlap_ns, c.backward_ns)
            for c in profile.collectives
        ],
        called=calls_of(profile.collective_calls),
        tables=tables_of(profile),
        problems=dict.fromkeys(profile.problems, (1, rank)),
    )


def _times(
    profile: Profile, steps: Steps, exchange: Sequence[int] | None, host: str | None
) -> RankTimes:
    total, wall = max(1, steps.total), sum(steps.wall_ns)
    taken = sum(exchange or ())
    alone = structs.replace(profile, steady=steps, collectives=[])
    sources = Sources(alone, summed(blocks_of(steps)))
    seconds = sources.trainer.causes(sources.whole.phases, sources.whole.steps)
    for cause, part in waiting(sources, sources.whole).items():
        seconds[cause] = seconds.get(cause, 0.0) + part
    causes = {
        cause: round(spent * 1e9 / total)
        for cause, spent in sorted(seconds.items())
        if not cause.startswith(COLLECTIVE) and spent > 0
    }
    return RankTimes(
        rank=profile.run.rank,
        host=host or profile.environment.host,
        steps=total,
        step_ns=wall // total,
        own_ns=(wall - taken) // total,
        exchange_ns=None if exchange is None else taken // total,
        data_wait_ns=sum(steps.phases.get("data_wait", [])) // total,
        core_wait_ns=None if steps.run_delay_ns is None else sum(steps.run_delay_ns) // total,
        clock_mhz=_clock(profile),
        causes=causes,
    )


def _clock(profile: Profile) -> float | None:
    """Mean clock of the device that the model lives on."""
    devices = [device for model in profile.configuration.models for device in model.devices]
    numbers = [int(name[5:]) for name in devices if name.startswith("cuda:") and name[5:].isdigit()]
    for number in [*numbers, *(gpu.index for gpu in profile.environment.gpus)]:
        column = profile.samples.columns.get(f"gpu{number}_sm_clock_mhz", [])
        known = [value for value in column if value is not None]
        if known:
            return round(fmean(known), 1)
    return None


def _host(times: RankTimes) -> HostTimes:
    return HostTimes(
        host=times.host or "",
        ranks=1,
        own_ns=times.own_ns,
        exchange_ns=times.exchange_ns,
        slowest=with_rank(times.own_ns, times.rank, largest=True),
    )


def _spreads(times: RankTimes, steps: Steps) -> dict[str, Counts]:
    """What is compared between ranks: times per step, and phases, which have no interplay."""
    total = max(1, steps.total)
    values = {
        "own": times.own_ns,
        "step": times.step_ns,
        "data_wait": times.data_wait_ns,
        **{f"phase.{name}": sum(column) // total for name, column in steps.phases.items()},
        **times.causes,
    }
    if times.exchange_ns is not None:
        values["exchange"] = times.exchange_ns
    if times.core_wait_ns is not None:
        values["core_wait"] = times.core_wait_ns
    if times.clock_mhz is not None:
        values["clock_khz"] = round(1000 * times.clock_mhz)
    return {name: counted(value) for name, value in sorted(values.items())}


def _step_time(profile: Profile) -> Counts:
    found = profile.step_time
    return dict(zip(found.bins, found.counts, strict=True))


def _stripped(profile: Profile) -> Profile:
    """What is not told by sums over the ranks."""
    none = Steps(first=[], count=[], wall_ns=[], wall_max_ns=[], phases={})
    window: Window | None = profile.window
    trace = profile.trace
    if trace is not None:
        trace = structs.replace(
            trace, categories=[], kernels=[], copies=[], runtime=[], annotations=[]
        )
        window = structs.replace(window, operators=[]) if window else None
    return structs.replace(
        profile,
        steady=none,
        window=window,
        trace=trace,
        collectives=[],
        collective_calls=[],
        meetings=None,
        connections=[],
        problems=[],
    )
