"""One timeline for ui.perfetto.dev, and for whatever else reads Chrome traces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from stepscope.advisor.command import say
from stepscope.advisor.export.chrome import Event, TraceWriter, Tracks, exact_us
from stepscope.advisor.export.one_clock import later_by
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

_MOVED = "Moved by {milliseconds:.3f} ms, so that collectives end on all ranks together."


def _write(sources: Sequence[Source], paths: list[Path]) -> None:
    files = [source.files() for source in sources]
    alone = files[0][0] if len(files) == len(files[0]) == 1 and is_trace(files[0][0]) else None
    with TraceWriter(paths[0]) as out:
        beside = _copied(alone, out) if alone else _side_by_side(files, out)
        out.end({"displayTimeUnit": "ms"} | beside)


def _copied(trace: Path, out: TraceWriter) -> dict[str, Any]:
    """One trace, with all its numbers; returns what stands beside its events."""
    with needs_traces(trace):
        from stepscope.advisor.export.side_by_side import Copy  # noqa: PLC0415  # costs numpy
    copy = Copy(trace)
    for events in copy.events():
        out.add(events)
    _tell(copy.reader.losses())
    return copy.reader.beside | {"otherData": _written_by()}


def _side_by_side(sources: list[list[Path]], out: TraceWriter) -> dict[str, Any]:
    """Profiles and traces as processes of their own; returns what stands beside the events."""
    tracks = Tracks()
    notes: dict[str, str] = {}
    base_ns: int | None = None
    files = [file for source in sources for file in source]
    with needs_traces(files[0]):
        later_ns = later_by(sources)
    for file in files:
        later = later_ns.get(file, 0)
        if later:
            notes[f"{file.name}, clock"] = _MOVED.format(milliseconds=later / 1e6)
        if not is_trace(file):
            profile = load(file)
            notes |= {f"{file.name}, {i}": note for i, note in enumerate(notes_of(profile), 1)}
            _add(profile, out, tracks, later)
            continue
        with needs_traces(file):
            from stepscope.advisor.export.side_by_side import Copy, OneOfMany  # noqa: PLC0415
        one = OneOfMany(Copy(file), stem(file), tracks, base_ns, later)
        for events in one.events():
            out.add(events)
        base_ns = one.base_ns
        _tell(one.copy.reader.losses())
    out.add(tracks.named)
    return {"otherData": _written_by() | notes}


def _tell(losses: str | None) -> None:
    if losses:
        say(losses)


def _written_by() -> dict[str, str]:
    return {"written by": f"stepscope {version()}"}


def _add(profile: Profile, out: TraceWriter, tracks: Tracks, later_ns: int) -> None:
    later_us = exact_us(later_ns)

    def add(events: Iterable[Event]) -> None:
        out.add({**event, "ts": event["ts"] + later_us} for event in events)

    rank = f"rank {profile.run.rank}: " if profile.run.world_size > 1 else ""
    rows = rows_of(profile)
    pid = tracks.process(f"{rank}training")
    tid = tracks.thread(pid, "training thread")
    add(steps_of(profile, rows, pid, tid))
    add(window_of(profile, rows, pid, tid))
    add(marks_of(profile, pid, tracks.thread(pid, "events")))
    add(counters_of(profile, rows, pid))
    for loader in profile.loaders:
        if loader.batches is None:
            continue
        purpose = "" if loader.training else ", validation"
        name = f"{rank}{loader.class_name} of {loader.dataset}{purpose}"
        add(batches_of(loader, tracks.process(name), tracks))


FORMAT = Format("a timeline for ui.perfetto.dev (Chrome trace)", ".perfetto.json.gz", None, _write)
