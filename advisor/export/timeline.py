"""A profile as events of a Chrome trace.

The training thread's phases are known as sums, by row of the step table. Inside a row they are laid
out one after the other, in the order in which a step usually goes through them: where a phase
begins and ends is not measured, how long it took is. Names and categories are those that
torch.profiler uses, where it has one, so that tools for its traces understand them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from stepscope.advisor.export.chrome import (
    Event,
    Tracks,
    a_counter,
    a_slice,
    an_instant,
)
from stepscope.advisor.lanes import lane_name
from stepscope.profiler.format import Batches, Loader, Profile, Steps

NOTE = (
    "Phases inside a step, and the parts of a batch, are sums laid out one after the other: their "
    "lengths are measured, their places inside are not."
)
NOTE_PLACES = "This profile does not say when steps began: they are put one after the other."
NOTE_ROWS = (
    "Slices of several steps hold the sums over them; the counter `step time` is their mean."
)
_ORDER = (
    "worker_startup", "data_wait", "transfer", "compilation", "forward", "after_forward",
    "backward", "after_backward", "communication", "collective", "optimizer", "sync", "logging",
    "checkpoint", "validation", "gc",
)  # fmt: skip
_LAST = "python"


class Row(NamedTuple):
    """Consecutive steps: sums."""

    first: int
    steps: int
    start_ns: int
    wall_ns: int
    longest_ns: int
    phases: dict[str, int]
    """In the order in which they are laid out."""

    @property
    def end_ns(self) -> int:
        """When the last of them ended, if nothing came between."""
        return self.start_ns + self.wall_ns


def rows_of(profile: Profile) -> list[Row]:
    """The steps in order of time; no two rows overlap."""
    rows: list[Row] = []
    now = 0
    for steps in (profile.warmup, profile.steady):
        for i, wall in enumerate(steps.wall_ns):
            start = now if steps.start_ns is None else max(now, steps.start_ns[i])
            phases = {name: max(0, steps.phases[name][i]) for name in _in_order(steps)}
            longest = steps.wall_max_ns[i]
            row = Row(steps.first[i], steps.count[i], start, max(0, wall), longest, phases)
            rows.append(row)
            now = row.end_ns
    return rows


def _in_order(steps: Steps) -> list[str]:
    place = {name: number for number, name in enumerate(_ORDER)} | {_LAST: len(_ORDER) + 1}
    return sorted(steps.phases, key=lambda name: place.get(name, len(_ORDER)))


def notes_of(profile: Profile) -> list[str]:
    """What a reader of the timeline has to know."""
    tables = [table for table in (profile.warmup, profile.steady) if table.first]
    notes = [NOTE]
    if any(table.start_ns is None for table in tables):
        notes.append(NOTE_PLACES)
    if any(count > 1 for table in tables for count in table.count):
        notes.append(NOTE_ROWS)
    return [*notes, *profile.problems]


def steps_of(profile: Profile, rows: list[Row], pid: int, tid: int) -> Iterator[Event]:
    """Steps with their phases, as slices of one thread."""
    named = _phase_names(profile)
    for number, row in enumerate(rows):
        last = row.first + row.steps - 1
        single = row.steps == 1
        name = f"ProfilerStep#{row.first}"
        if not single:
            name += f" to #{last} ({row.steps} steps)"
        args: dict[str, Any] = {"steps": row.steps, "longest_ms": row.longest_ns / 1e6}
        yield a_slice(name, "user_annotation", pid, tid, row.start_ns, row.end_ns, **args)
        begin = row.start_ns
        for phase, wall in row.phases.items():
            end = min(begin + wall, row.end_ns)
            if end > begin:
                text, cat = named.get(phase, (phase, "phase"))
                # An id, as operators have one: TensorBoard tells collectives apart by it.
                args = {"phase": phase, "External id": number + 1}
                yield a_slice(text, cat, pid, tid, begin, end, **args)
            begin = end


def _phase_names(profile: Profile) -> dict[str, tuple[str, str]]:
    """Name and category of the phases that torch.profiler knows."""
    loader = next((each for each in profile.loaders if each.training), None)
    iterator = "SingleProcess" if loader and not loader.num_workers else "MultiProcessing"
    optimizers = profile.configuration.optimizers
    optimizer = optimizers[0].class_name if optimizers else "Optimizer"
    backends = [each.backend for each in profile.collectives if each.backend]
    collective = f"{backends[0] if backends else 'gloo'}:all_reduce"
    names = {
        "data_wait": f"enumerate(DataLoader)#_{iterator}DataLoaderIter.__next__",
        "forward": "## forward ##",
        "backward": "## backward ##",
        "optimizer": f"Optimizer.step#{optimizer}.step",
        "communication": collective,
        "collective": collective,
    }
    return {phase: (name, "cpu_op") for phase, name in names.items()}


def window_of(profile: Profile, rows: list[Row], pid: int, tid: int) -> Iterator[Event]:
    """The steps of the operator window, between those before and after it."""
    window = profile.window
    if window is None or profile.steady.start_ns is None:
        return
    before = [row for row in rows if row.first < window.first_step]
    after = [row for row in rows if row.first > window.first_step]
    if before and after:
        start = before[-1].end_ns
        end = min(start + window.wall_ns, after[0].start_ns)
        name = f"operator window ({window.steps} steps, kept out of all figures)"
        yield a_slice(name, "phase", pid, tid, start, end)


def batches_of(loader: Loader, pid: int, tracks: Tracks) -> Iterator[Event]:
    """Batches as slices, a thread for each worker; inside, what its time went to."""
    batches = loader.batches
    if batches is None:
        return
    kept = f", every {batches.stride}th batch" if batches.stride > 1 else ""
    threads: dict[tuple[int, int], int] = {}
    for i, lane in _laned(batches):
        worker = batches.worker[i]
        if (worker, lane) not in threads:
            name = lane_name(worker) + kept + (", at the same time" if lane else "")
            threads[worker, lane] = tracks.thread(pid, name)
        tid = threads[worker, lane]
        begin, end = batches.start_ns[i], batches.start_ns[i] + max(0, batches.wall_ns[i])
        yield a_slice("batch", "loader", pid, tid, begin, end)
        on_core = min(end, begin + max(0, batches.cpu_ns[i]))
        delayed = min(end, on_core + max(0, batches.run_delay_ns[i]))
        yield a_slice("on a core", "loader", pid, tid, begin, on_core)
        yield a_slice("waiting for a core", "loader", pid, tid, on_core, delayed)
        yield a_slice("blocked", "loader", pid, tid, delayed, end)


def _laned(batches: Batches) -> Iterator[tuple[int, int]]:
    """Batches in order of time; lane 0, or the next one that is free of the same worker's."""
    free: dict[int, list[int]] = {}
    for i in sorted(range(len(batches.worker)), key=batches.start_ns.__getitem__):
        start, wall = batches.start_ns[i], max(0, batches.wall_ns[i])
        lanes = free.setdefault(batches.worker[i], [])
        lane = next((n for n, end in enumerate(lanes) if end <= start), len(lanes))
        lanes[lane : lane + 1] = [start + wall]
        yield i, lane


def marks_of(profile: Profile, pid: int, tid: int) -> Iterator[Event]:
    """Events: instants, and where they took a time that they are told to have taken."""
    for mark in sorted(profile.marks, key=lambda mark: mark.time_ns):
        args = {"step": mark.step, "duration_ms": mark.duration_ns / 1e6, "detail": mark.detail}
        yield an_instant(mark.kind, pid, tid, mark.time_ns, **args)


def counters_of(profile: Profile, rows: list[Row], pid: int) -> Iterator[Event]:
    """Step time, resources, and what the program has logged."""
    for row in rows:
        mean_ms = row.wall_ns / max(1, row.steps) / 1e6
        yield a_counter("step time (ms)", pid, row.start_ns, mean_ms)
    for name, column in profile.samples.columns.items():
        for time, value in zip(profile.samples.time_ns, column, strict=True):
            if value is not None:
                yield a_counter(name, pid, time, value)
    for name, metric in profile.metrics.items():
        for time, value in zip(metric.time_ns, metric.value, strict=True):
            if value is not None:
                yield a_counter(f"logged: {name}", pid, time, value)
