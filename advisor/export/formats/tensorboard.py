"""A log folder for TensorBoard's PyTorch Profiler plugin, torch-tb-profiler 0.4.3."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from stepscope.advisor.command import say
from stepscope.advisor.export.chrome import TraceWriter, Tracks
from stepscope.advisor.export.registry import Format
from stepscope.advisor.export.sources import Source
from stepscope.advisor.export.timeline import Row, notes_of, rows_of, steps_of
from stepscope.advisor.inputs import is_trace, needs_traces, stem
from stepscope.profiler.format import Profile
from stepscope.profiler.storage import load
from stepscope.profiler.version import version

_WORKER = re.compile(r"(\.\d+)?\.pt\.trace$")
"""What torch's own `tensorboard_trace_handler` puts behind a worker's name."""


def _names(sources: Sequence[Source]) -> list[str]:
    taken: dict[str, int] = {}
    names = []
    for source in sources:
        for file in source.files():
            worker = _WORKER.sub("", stem(file))
            taken[worker] = taken.get(worker, 0) + 1
            again = f"_{taken[worker]}" if taken[worker] > 1 else ""
            names.append(f"{worker}{again}.pt.trace.json.gz")
    return names


def _write(sources: Sequence[Source], paths: list[Path]) -> None:
    files = [file for source in sources for file in source.files()]
    for file, path in zip(files, paths, strict=True):
        with TraceWriter(path) as out:
            if is_trace(file):
                _copy(file, out)
            else:
                _add(load(file), out)


def _add(profile: Profile, out: TraceWriter) -> None:
    tracks = Tracks()
    pid = tracks.process("training")
    tid = tracks.thread(pid, "training thread")
    out.add(steps_of(profile, list(_single(profile)), pid, tid))
    out.add(tracks.named)
    notes = [*notes_of(profile), "A step stands for all steps of its row, and is their mean."]
    out.end(
        {
            "schemaVersion": 1,
            "distributedInfo": {
                "backend": next((c.backend for c in profile.collectives if c.backend), "gloo"),
                "rank": profile.run.rank,
                "world_size": profile.run.world_size,
            },
            "stepscope": {"version": version(), "notes": notes},
        }
    )


def _single(profile: Profile) -> Iterator[Row]:
    """The rows, each as one step: the mean of its steps."""
    for row in rows_of(profile):
        count = max(1, row.steps)
        phases = {name: wall // count for name, wall in row.phases.items()}
        yield row._replace(steps=1, wall_ns=row.wall_ns // count, phases=phases)


def _copy(file: Path, out: TraceWriter) -> None:
    """A trace as it is, but readable to that parser."""
    with needs_traces(file):
        from stepscope.advisor.export.copies import WholeReader  # noqa: PLC0415  # costs numpy
        from stepscope.advisor.export.repairs import Repairs, survey  # noqa: PLC0415
    repairs = Repairs(survey(file))
    reader = WholeReader(file)
    for events in reader.whole_events():
        out.add(repairs.repaired(events))
    out.add(repairs.rest())
    out.end(reader.beside | {"stepscope": {"version": version()}})
    if losses := reader.losses():
        say(losses)


FORMAT = Format("a log folder for TensorBoard's PyTorch Profiler", ".tensorboard", _names, _write)
