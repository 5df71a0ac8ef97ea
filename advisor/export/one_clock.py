"""The files of several ranks on one clock, as far as their collectives tell."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from stepscope.advisor.inputs import is_trace
from stepscope.advisor.ranks.clocks import Clocks, clocks_of, compared, joined
from stepscope.profiler.storage import ProfileError, load

_SURELY = 3
"""Times the uncertainty, from which a clock of a trace is wrong."""


def later_by(sources: Sequence[Sequence[Path]]) -> dict[Path, int]:
    """Nanoseconds to be added to the times of each file; none where nothing is known.

    Profiles count from when their recording began, traces keep the clock of their machine.

    Args:
        sources: the files of each folder, or a single file.
    """
    files = [file for source in sources for file in source]
    if len(files) < 2:
        return {}
    if not any(map(is_trace, files)):
        return _profiles(files)
    # Only what lies in one folder is sure to be of one run.
    found: dict[Path, int] = {}
    for source in sources:
        if len(source) > 1 and all(map(is_trace, source)):
            found |= _traces(source)
    return found


def _traces(files: Sequence[Path]) -> dict[Path, int]:
    from stepscope.advisor.traces.ranks import summarise  # noqa: PLC0415  # costs numpy

    clocks: Clocks = {}
    of_file: dict[Path, str] = {}
    for number, file in enumerate(files):
        with suppress(ProfileError):  # no collectives can be told from it
            own = summarise(file, number).clocks
            of_file[file] = next(iter(own), "")
            clocks = joined(clocks, own)
    found = compared(clocks)
    return {
        file: -found[name].offset_ns
        for file, name in of_file.items()
        if name in found and abs(found[name].offset_ns) > _SURELY * found[name].uncertainty_ns
    }


def _profiles(files: Sequence[Path]) -> dict[Path, int]:
    clocks: Clocks = {}
    began: dict[Path, tuple[int, str]] = {}
    jobs = set()
    for file in files:
        profile = load(file)
        jobs.add(profile.run.job)
        if profile.meetings is None or profile.run.job is None or len(jobs) > 1:
            return {}  # perhaps they are of different runs
        began[file] = profile.meetings.origin_ns, profile.meetings.clock
        clocks = joined(
            clocks, clocks_of(profile.meetings, profile.run.rank, profile.environment.host)
        )
    found = compared(clocks)
    if len(clocks) > 1 and len(found) < len(clocks):
        return {}
    own = {name: clock.offset_ns for name, clock in found.items()}
    starts = {file: origin - own.get(name, 0) for file, (origin, name) in began.items()}
    return {file: start - min(starts.values()) for file, start in starts.items()}
