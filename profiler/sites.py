"""Exact counts of rare calls, by the line of the program that made them."""

from __future__ import annotations

from types import FrameType

from stepscope.profiler.blame import is_users
from stepscope.profiler.format import Site

_MAX_PLACES = 200


class _Place:
    """What was spent in calls from one place."""

    __slots__ = ("calls", "code", "line", "phase", "time_ns")

    def __init__(self, phase: int, frame: FrameType) -> None:
        self.phase = phase
        self.code = frame.f_code  # kept, so that its id stays its own
        self.line = frame.f_lineno or 0
        self.calls = 0
        self.time_ns = 0


class CallSites:
    """A bounded table: after 200 places new ones are left out."""

    def __init__(self) -> None:
        self._places: dict[tuple[int, int, int], _Place] = {}

    def add(self, phase: int, frame: FrameType | None, time_ns: int, calls: int = 1) -> None:
        """Count calls that were made, directly or through a library, by `frame`.

        Args:
            phase: number of the phase that they belong to.
            frame: of the caller; the first one outwards that is the program's own is charged.
            time_ns: wall time of all of them.
            calls: how many.
        """
        while frame is not None and not is_users(frame.f_code.co_filename):
            frame = frame.f_back
        if frame is None:
            return
        # Hashing a code object would hash its content.
        key = (phase, id(frame.f_code), frame.f_lasti)
        place = self._places.get(key)
        if place is None:
            if len(self._places) >= _MAX_PLACES:
                return
            place = self._places[key] = _Place(phase, frame)
        place.calls += calls
        place.time_ns += time_ns

    def clear(self) -> None:
        """Forget everything."""
        self._places.clear()

    def as_list(self, phases: list[str]) -> list[Site]:
        """The places, the most expensive first; safe from any thread.

        Args:
            phases: names by number.
        """
        sites: dict[tuple[str, str, int, str], Site] = {}
        for place in list(self._places.values()):
            code = place.code
            function = getattr(code, "co_qualname", code.co_name)  # Python 3.11
            function = function.rpartition("<locals>.")[2]
            key = (phases[place.phase], code.co_filename, place.line, function)
            site = sites.setdefault(
                key, Site(phase=key[0], file=key[1], line=key[2], function=function)
            )
            site.calls += place.calls
            site.time_ns += place.time_ns
        return sorted(sites.values(), key=lambda site: -site.time_ns)


def merged(sampled: list[Site], exact: list[Site]) -> list[Site]:
    """One list of what was seen by looking and what was counted; a place keeps its position."""
    sites = list(sampled)
    by_place = {_place(site): site for site in reversed(sampled)}
    for site in exact:
        seen = by_place.get(_place(site))
        if seen is None:
            sites.append(site)
        else:
            seen.calls, seen.time_ns = site.calls, site.time_ns
    return sites


def _place(site: Site) -> tuple[str, str, int, str]:
    return site.phase, site.file, site.line, site.function
