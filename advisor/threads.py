"""The program's other Python threads: which of them need the interpreter's lock."""

from __future__ import annotations

from collections import Counter

from stepscope.advisor.samples import mean_of
from stepscope.profiler.format import Profile, Site

_MIN_LOOKS = 3
_TELLING = 0.1
"""What holds the lock is never seen to run while the look has it; what does not is, unless it has
no core at that moment."""


def of_unlocked_place(sites: list[Site]) -> set[tuple[str, int]]:
    """File and line of the places where threads compute without the interpreter's lock."""
    looks, unlocked = Counter[tuple[str, int]](), Counter[tuple[str, int]]()
    for site in sites:
        if site.phase == "thread":
            looks[site.file, site.line] += site.samples
            unlocked[site.file, site.line] += site.samples * (site.state == "unlocked")
    return {
        place
        for place, seen in unlocked.items()
        if seen >= max(_MIN_LOOKS, _TELLING * looks[place])
    }


def thread_cores(profile: Profile) -> tuple[float, float] | None:
    """Cores that the program's other Python threads use: with the interpreter's lock, without it.

    The time is measured, its division is by looks. None where it was not sampled.
    """
    cores = mean_of(profile.samples.columns.get("other_threads_cores", []))
    if cores is None:
        return None
    places = of_unlocked_place(profile.sites)
    looks = [site for site in profile.sites if site.phase == "thread"]
    free = sum(site.samples for site in looks if (site.file, site.line) in places)
    part = free / max(1, sum(site.samples for site in looks))
    return cores * (1 - part), cores * part
