"""One timeline for ui.perfetto.dev, and for whatever else reads Chrome traces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stepscope.advisor.export.chrome import TraceWriter, Tracks
from stepscope.advisor.export.registry import Format
from stepscope.advisor.export.sources import Source
from stepscope.advisor.export.timeline import (
    batches_of,
    counters_of,
    marks_of,
    notes_of,
    rows_of,
    steps_of,
    window_of,
)
from stepscope.advisor.inputs import is_trace, needs_traces, stem
from stepscope.profiler.format import Profile
from stepscope.profiler.storage import load
from stepscope.profiler.version import version


def _write(sources: Sequence[Source], paths: list[Path]) -> None:
    files = [file for source in sources for file in source.files()]
    tracks = Tracks()
    told: dict[str, Any] = {"written by": f"stepscope {version()}"}
    traces = [file for file in files if is_trace(file)]
    with TraceWriter(paths[0]) as out:
        for file in files:
            if file not in traces:
                profile = load(file)
                told |= {f"{file.name}, {i}": note for i, note in enumerate(notes_of(profile), 1)}
                _add(profile, out, tracks)
        beside = _copy(traces, out, tracks, alone=len(files) == 1)
        out.add(tracks.named)
        out.end({"displayTimeUnit": "ms"} | beside | {"otherData": told})


def _add(profile: Profile, out: TraceWriter, tracks: Tracks) -> None:
    rank = f"rank {profile.run.rank}: " if profile.run.world_size > 1 else ""
    rows = rows_of(profile)
    pid = tracks.process(f"{rank}training")
    tid = tracks.thread(pid, "training thread")
    out.add(steps_of(profile, rows, pid, tid))
    out.add(window_of(profile, rows, pid, tid))
    out.add(marks_of(profile, pid, tracks.thread(pid, "events")))
    out.add(counters_of(profile, rows, pid))
    for loader in profile.loaders:
        purpose = "" if loader.training else ", validation"
        name = f"{rank}{loader.class_name} of {loader.dataset}{purpose}"
        out.add(batches_of(loader, tracks.process(name), tracks))


def _copy(traces: list[Path], out: TraceWriter, tracks: Tracks, *, alone: bool) -> dict[str, Any]:
    """Traces of torch.profiler; returns what stands beside the events of a single one."""
    base_ns: int | None = None
    for trace in traces:
        with needs_traces(trace):
            from stepscope.advisor.export.side_by_side import Copy, OneOfMany  # noqa: PLC0415
        copy = Copy(trace)
        if alone:
            for events in copy.events():
                out.add(events)
            return copy.reader.beside
        one = OneOfMany(copy, stem(trace), tracks, base_ns)
        for events in one.events():
            out.add(events)
        base_ns = one.base_ns
    return {}


FORMAT = Format("a timeline for ui.perfetto.dev (Chrome trace)", ".perfetto.json.gz", None, _write)
