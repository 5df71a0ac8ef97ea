"""From the sums of a trace to the profile that the advisor judges."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from stepscope.advisor.traces.analysis import PHASES
from stepscope.advisor.traces.kernels import copy_of
from stepscope.advisor.traces.kinds import Kind
from stepscope.advisor.traces.load import Analysed, analyse
from stepscope.advisor.traces.names import CATEGORY_NAMES
from stepscope.advisor.traces.path_tables import critical_path
from stepscope.advisor.traces.replay import Replays
from stepscope.advisor.traces.roles import Role
from stepscope.advisor.traces.sites import fetch_sites, main_sites
from stepscope.advisor.traces.sums import histogram_of
from stepscope.profiler.format import (
    SCHEMA,
    Annotation,
    Configuration,
    Copies,
    Counted,
    Environment,
    FetchTotals,
    Gpu,
    Kernel,
    KernelCategory,
    Loader,
    Operator,
    Profile,
    Run,
    RuntimeCalls,
    Samples,
    Steps,
    Trace,
    Window,
    WindowPhase,
    Worker,
)
from stepscope.profiler.version import version

if TYPE_CHECKING:
    from stepscope.advisor.traces.intervals import Mask
    from stepscope.advisor.traces.sums import Tally

_MOST = 100
_NOTEWORTHY = 0.02
NOT_RECORDED = "not recorded in a trace"
_RANK_IN_NAME = re.compile(r"(?:rank|worker)[_\-.]?(\d+)", re.IGNORECASE)
_PHASE_NAMES = {
    Role.PLAIN: "forward",
    Role.DATA: "data_wait",
    Role.OPTIMIZER: "optimizer",
    Role.BACKWARD: "backward",
}
_EPOCH_2010_US, _EPOCH_2200_US = 1.26e15, 7.26e15


def load_trace(path: Path) -> Profile:
    """The profile of a trace of one process.

    Raises:
        TraceError: the file is no trace of torch.profiler, or holds nothing that we know.
    """
    return profile_of(analyse(path, Replays))


def profile_of(trace: Analysed) -> Profile:
    """What a trace tells, as a profile; what it cannot tell is left out."""
    steps, loaders = _steps(trace), _loaders(trace)
    return Profile(
        schema=SCHEMA,
        tool_version=version(),
        run=_run(trace),
        environment=_environment(trace),
        configuration=Configuration(),
        warmup=_no_steps(),
        steady=steps,
        step_time=histogram_of(steps.wall_ns),
        loaders=loaders,
        samples=_samples(trace),
        window=_window(trace, steps),
        trace=_trace(trace),
        sites=main_sites(trace.sums, loads_itself=bool(loaders)),
        problems=_problems(trace),
    )


def rank_of(path: Path, trace: Analysed) -> int | None:
    """Rank of the process: from the trace, else from the file's name."""
    distributed = trace.reader.metadata.distributed
    if distributed is not None and distributed.rank is not None:
        return distributed.rank
    found = _RANK_IN_NAME.search(path.name)
    return int(found[1]) if found else None


def _run(trace: Analysed) -> Run:
    distributed = trace.reader.metadata.distributed
    origin_us = (trace.columns.origin_us or 0.0) + trace.reader.metadata.base_ns / 1000
    told = _EPOCH_2010_US < origin_us < _EPOCH_2200_US
    return Run(
        started_at=(
            datetime.fromtimestamp(origin_us / 1e6, timezone.utc).isoformat()
            if told
            else NOT_RECORDED
        ),
        wall_ns=trace.times[-1] - trace.times[0],
        ended="completed",
        rank=rank_of(trace.path, trace) or 0,
        world_size=(distributed.world_size if distributed else None) or 1,
        steps_by=trace.edges.by,
    )


def _environment(trace: Analysed) -> Environment:
    metadata = trace.reader.metadata
    known = {device.id: device for device in metadata.devices}
    gpus = []
    for number in trace.devices:
        device = known.get(number)
        name = device.name if device else "unnamed device"
        memory = device.total_memory if device else 0
        gpus.append(Gpu(index=number, name=name, memory_bytes=memory or None))
    cuda = metadata.cuda_runtime
    return Environment(
        python=NOT_RECORDED,
        torch=NOT_RECORDED,
        platform=NOT_RECORDED,
        gpus=gpus,
        cuda=f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else None,
    )


def _steps(trace: Analysed) -> Steps:
    phases = trace.sums.phases
    names = list(dict.fromkeys(name for step in phases for name in step if name != "profiler"))
    return Steps(
        first=[trace.edges.first + i for i in range(len(phases))],
        count=[1] * len(phases),
        wall_ns=[sum(step[name] for name in names) for step in phases],
        wall_max_ns=[sum(step[name] for name in names) for step in phases],
        start_ns=trace.times[:-1],
        phases={name: [step[name] for step in phases] for name in names},
        calls={"syncs": trace.sums.syncs},
    )


def _no_steps() -> Steps:
    return Steps(first=[], count=[], wall_ns=[], wall_max_ns=[], phases={})


def _loaders(trace: Analysed) -> list[Loader]:
    """The loader, where its batches were made on the training thread.

    Of one with workers a trace does not tell how many there are, nor what they did.
    """
    names, tally = trace.sums.names.text, trace.sums.spans
    made = [i for i, name in enumerate(names) if "_SingleProcessDataLoaderIter" in name]
    batches = int(sum(tally.calls[i] for i in made))
    if not batches:
        return []
    wall = int(sum(tally.sums["time"][i] for i in made))
    # Reading and decoding cannot be told apart; both are called preparing.
    totals = FetchTotals(batches=batches, items=batches, wall_ns=wall, cpu_ns=wall)
    return [
        Loader(
            class_name="DataLoader",
            dataset=NOT_RECORDED,
            dataset_kind="map",
            num_workers=0,
            workers=[Worker(id=-1, pid=0, totals=totals)],
            sites=fetch_sites(trace.sums),
        )
    ]


def _samples(trace: Analysed) -> Samples:
    """What the busiest device's allocator held, over time."""
    for device in trace.devices[:1]:
        course = trace.memory.course.get(_allocator(trace, device))
        if course:
            return Samples(
                time_ns=[held.time_ns for held in course],
                columns={
                    f"gpu{device}_memory_used_bytes": [float(held.reserved) for held in course]
                },
            )
    return Samples(time_ns=[], columns={})


def _allocator(trace: Analysed, device: int) -> int:
    return trace.columns.tracks.get(("memory", device), -1)


def _window(trace: Analysed, steps: Steps) -> Window | None:
    tally, names = trace.sums.operators, trace.sums.names.text
    width = len(tally.calls) // max(1, len(names))
    used = np.flatnonzero(tally.calls)
    if not len(used):
        return None
    order = used[np.argsort(-(tally.sums["self_cpu"] + tally.sums["device"])[used])]
    operators = [
        Operator(
            name=names[key // width],
            calls=int(tally.calls[key]),
            self_cpu_ns=int(tally.sums["self_cpu"][key]),
            self_device_ns=int(tally.sums["device"][key]),
            phase=_PHASE_NAMES[Role(int(key % width))],
        )
        for key in order[: 2 * _MOST]
    ]
    return Window(
        first_step=steps.first[0],
        steps=steps.total,
        wall_ns=sum(steps.wall_ns),
        phases=_window_phases(trace, steps),
        operators=operators,
        counted=_counted(trace, steps),
    )


def _counted(trace: Analysed, steps: Steps) -> Counted | None:
    """The work of operators; None where the trace tells no shapes."""
    rows = trace.sums.work.rows({int(role): name for role, name in _PHASE_NAMES.items()})
    if not rows:
        return None
    wall = sum(steps.wall_ns)
    return Counted(
        first_step=steps.first[0], steps=steps.total, wall_ns=wall, operators=rows[: 2 * _MOST]
    )


def _window_phases(trace: Analysed, steps: Steps) -> dict[str, WindowPhase]:
    """Only of a trace without device: with one, the phases are not those of the host."""
    if trace.devices:
        return {}
    tally = trace.sums.operators
    width = len(tally.calls) // max(1, len(trace.sums.names.text))
    phases = {}
    for role in PHASES:
        name = _PHASE_NAMES[role]
        wall = sum(steps.phases.get(name, []))
        operator = min(wall, int(tally.sums["self_cpu"][role::width].sum()))
        if wall:
            phases[name] = WindowPhase(
                wall_ns=wall,
                operator_ns=operator,
                gap_ns=wall - operator if role in (Role.PLAIN, Role.BACKWARD) else 0,
                calls=int(tally.calls[role::width].sum()),
            )
    return phases


def _trace(trace: Analysed) -> Trace:
    sums = trace.sums
    if not trace.devices:
        return Trace(
            critical_path=critical_path(trace),
            lost_events=_lost(trace),
            annotations=_annotations(trace),
        )
    device = trace.devices[0]
    peak = trace.memory.peaks.get(_allocator(trace, device))
    span = max(1, trace.times[-1] - trace.times[0])
    return Trace(
        device=device,
        devices=len(trace.devices),
        capability=next((d.major for d in trace.reader.metadata.devices if d.id == device), None),
        busy_ns=sums.busy_ns,
        communication_ns=sums.communication_ns,
        categories=_categories(trace),
        kernels=_kernels(trace),
        copies=_copies(trace),
        runtime=_runtime(trace),
        annotations=_annotations(trace),
        sm_efficiency=_sm_efficiency(trace),
        filled=sums.occupancy.filled.of(sums.names.category != sums.names.is_("collective")),
        occupancy=sums.occupancy.warps.of(),
        launch_delay=sums.delays.histogram() if sums.delays.counts else None,
        queue_length=sums.queue_ns / span if sums.delays.counts else None,
        peak_allocated_bytes=peak.allocated if peak else None,
        peak_reserved_bytes=peak.reserved if peak else None,
        peak_allocated_by_phase=sums.peaks.allocated,
        critical_path=critical_path(trace),
        lost_events=_lost(trace),
    )


def _categories(trace: Analysed) -> list[KernelCategory]:
    tally, names = trace.sums.kernels, trace.sums.names
    found = []
    for number, name in enumerate(CATEGORY_NAMES):
        mine = names.category == number
        if tally.calls[mine].any():
            time = tally.sums["time"]
            found.append(
                KernelCategory(
                    name=name,
                    calls=int(tally.calls[mine].sum()),
                    time_ns=int(time[mine].sum()),
                    tensor_core_ns=int(time[mine & names.tensor_cores].sum()),
                )
            )
    return sorted(found, key=lambda each: -each.time_ns)


def _kernels(trace: Analysed) -> list[Kernel]:
    tally, names = trace.sums.kernels, trace.sums.names
    return [
        Kernel(
            name=names.text[i],
            category=CATEGORY_NAMES[names.category[i]],
            calls=int(tally.calls[i]),
            time_ns=int(tally.sums["time"][i]),
            tensor_cores=bool(names.tensor_cores[i]),
            occupancy=trace.sums.occupancy.warps.of(i),
            blocks_per_sm=trace.sums.occupancy.blocks.of(i),
        )
        for i in _largest(tally)
    ]


def _copies(trace: Analysed) -> list[Copies]:
    tally, names = trace.sums.copies, trace.sums.names.text
    found: dict[tuple[str, str], Copies] = {}
    for i in np.flatnonzero(tally.calls):
        if not names[i].startswith("Memset"):
            direction, memory = copy_of(names[i])
            copies = found.setdefault(
                (direction, memory),
                Copies(direction=direction, memory=memory, calls=0, time_ns=0),
            )
            copies.calls += int(tally.calls[i])
            copies.time_ns += int(tally.sums["time"][i])
            if size := int(tally.sums["bytes"][i]):
                copies.bytes = (copies.bytes or 0) + size
    return sorted(found.values(), key=lambda each: -each.time_ns)


def _runtime(trace: Analysed) -> list[RuntimeCalls]:
    tally, names = trace.sums.calls, trace.sums.names.text
    calls = np.array(trace.columns.name_kinds) == Kind.RUNTIME
    return [
        RuntimeCalls(name=names[i], calls=int(tally.calls[i]), time_ns=int(tally.sums["time"][i]))
        for i in _largest(tally, calls)
    ]


def _annotations(trace: Analysed) -> list[Annotation]:
    tally, names = trace.sums.calls, trace.sums.names
    ranges = np.array(trace.columns.name_kinds) == Kind.ANNOTATION
    on_device = trace.sums.scopes.device_ns()
    return [
        Annotation(
            name=names.text[i],
            calls=int(tally.calls[i]),
            time_ns=int(tally.sums["time"][i]),
            device_ns=on_device[i] if trace.devices else None,
        )
        for i in _largest(tally, ranges & (names.role != Role.STEP))
    ]


def _sm_efficiency(trace: Analysed) -> float | None:
    occupancy = trace.sums.occupancy
    if occupancy.blocks.of() is None:
        return None
    return occupancy.occupied_ns / max(1, trace.times[-1] - trace.times[0])


def _largest(tally: Tally, among: Mask | Literal[True] = True) -> list[int]:
    used = np.flatnonzero((tally.calls > 0) & among)
    order = used[np.argsort(-tally.sums["time"][used], kind="stable")]
    return [int(i) for i in order[:_MOST]]


def _lost(trace: Analysed) -> int:
    return trace.reader.lost + trace.columns.unusable


def _problems(trace: Analysed) -> list[str]:
    problems = []
    if trace.reader.truncated:
        why = trace.cut_short or "the file ends in the middle of the document"
        problems.append(f"Incomplete: {why}; what stands before is counted.")
    if lost := _lost(trace):
        problems.append(f"{lost} events of the file could not be read and are left out.")
    if len(trace.devices) > 1:
        problems.append(
            f"{len(trace.devices)} devices are at work in this trace; the busiest, number "
            f"{trace.devices[0]}, is judged."
        )
    steps = _steps(trace)
    unrecorded = sum(steps.phases.get("unrecorded", [])) / max(1, sum(steps.wall_ns))
    if unrecorded > _NOTEWORTHY:
        problems.append(
            f"For {unrecorded:.0%} of the time the device had work queued and none is recorded: "
            "kernels that the trace has missed (CUDA graphs, filters), or waits for other streams. "
            "It is counted as arithmetic."
        )
    if _loaders(trace):
        problems.append(
            "A trace does not tell reading from decoding: what the loader does on the training "
            "thread is called preparing samples."
        )
    return problems
