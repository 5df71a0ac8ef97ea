"""Where in the program's source a cause was seen: file, line, function and transform."""

from __future__ import annotations

from collections.abc import Iterable

from stepscope.advisor.advice import Place, TransformTime
from stepscope.advisor.fetch import (
    COLLATE,
    NETWORK,
    SMALL_FILES,
    STORAGE,
    TRANSFORM,
    fetch_totals,
    new_pages,
    training_loader,
)
from stepscope.advisor.operators import compute_share
from stepscope.advisor.stages import STARVATION
from stepscope.advisor.threads import of_unlocked_place
from stepscope.advisor.trainer import (
    PYTHON,
    collectives_cause,
    own_reading,
    reading_cause,
    writing_cause,
)
from stepscope.profiler.format import Profile, Site

_MAX_PLACES = 3
_MIN_SHARE = 0.05
"""A place that holds less of its cause is not worth a look."""
_MIN_LOOKS = 3
_MOSTLY = 0.5
"""What computes in so much of a phase is a loss, and its lines are not Python code to look at."""
_FETCH = {
    "running": TRANSFORM,
    "lock": TRANSFORM,
    "child": TRANSFORM,
    "file": STORAGE,
    "fault": STORAGE,
    "open": SMALL_FILES,
    "opening": SMALL_FILES,
}
_MAIN = {
    "optimizer": "compute.optimizer",
    "after_backward": "compute.optimizer",
    "sync": "host.sync",
    "logging": "host.logging",
    "checkpoint": "host.checkpoint",
    "validation": "host.validation",
    "compilation": "host.compilation",
    "transfer": "data_loading.host_to_device",
    "gc": "host.gc",
    "python": "host.python",
    "launch": "compute.launch",
    "allocation": "memory.capacity",
    "thread": "host.python",
}


def places_of(profile: Profile) -> dict[str, list[Place]]:
    """For each cause the places where most of its time was seen, at most three.

    Exactly timed calls (`.item()`, logging, checkpoints) go before samples of the stack.
    """
    return {cause: _most(sites) for cause, sites in _by_cause(profile).items()}


def unnamed_python(profile: Profile) -> float:
    """Part of the Python code between the phases of which not even the function is known.

    A function counts that was seen there at least three times. What runs for less than 5 ms and
    then lets go of the interpreter's lock in the profiler itself is seen, and has no place.
    """
    seen: dict[tuple[str, str], int] = {}
    for site in _by_cause(profile).get(PYTHON, []):
        key = site.file, site.function
        seen[key] = seen.get(key, 0) + site.samples
    named = sum(n for (file, _), n in seen.items() if file and n >= _MIN_LOOKS)
    return 1 - named / max(1, sum(seen.values()))


def _by_cause(profile: Profile) -> dict[str, list[Site]]:
    by_cause: dict[str, list[Site]] = {}
    loader = training_loader(profile)
    for site in loader.sites if loader else []:
        by_cause.setdefault(_fetch_cause(site), []).append(site)
    for of_pages in new_pages(fetch_totals(loader)) if loader else ():
        by_cause[of_pages] = by_cause.get(TRANSFORM, [])  # pages come in the midst of working
    of_phase = {**_MAIN, "communication": collectives_cause(profile)}
    if profile.window is None or compute_share(profile.window, "after_forward") < _MOSTLY:
        of_phase["after_forward"] = of_phase["python"]
    writing, reading = writing_cause(profile), reading_cause(profile)
    unlocked = of_unlocked_place(profile.sites)
    for site in profile.sites:
        cause = writing if site.writes else own_reading(site, reading) or of_phase.get(site.phase)
        if site.phase == "thread" and (site.file, site.line) in unlocked:
            cause = STARVATION
        if loader is None and site.phase == "data_wait":
            cause = _fetch_cause(site)
        if cause is not None:
            by_cause.setdefault(cause, []).append(site)
    return by_cause


def transform_times(profile: Profile) -> list[TransformTime]:
    """How the making of a sample divides over the transforms, the slowest first.

    The time is measured exactly, its division is by samples of the stack; collating is left out.
    """
    loader = training_loader(profile)
    if loader is None:
        return []
    seen: dict[str, int] = {}
    for site in loader.sites:
        if site.phase == "fetch" and site.transform and site.samples:
            seen[site.transform] = seen.get(site.transform, 0) + site.samples
    total, t = sum(seen.values()), fetch_totals(loader)
    item_seconds = max(0, t.wall_ns - t.collate_ns) / max(1, t.items) / 1e9
    return [
        TransformTime(
            name=name,
            samples=count,
            share=count / total,
            seconds_per_item=item_seconds * count / total,
        )
        for name, count in sorted(seen.items(), key=lambda pair: -pair[1])
        if count / total >= _MIN_SHARE / 5
    ]


def _fetch_cause(site: Site) -> str:
    if site.phase == "collate":
        return COLLATE
    return _FETCH.get(site.state, NETWORK)


def _most(sites: Iterable[Site]) -> list[Place]:
    """The places with most time; those with exact times if there are any."""
    sites = list(sites)
    exact = [site for site in sites if site.calls]
    weights: dict[tuple[str, int, str, str | None], float] = {}
    for site in exact or sites:
        key = (site.file, site.line, site.function, site.transform)
        weights[key] = weights.get(key, 0.0) + (site.time_ns if exact else site.samples)
    total = sum(weights.values())
    most = sorted(weights.items(), key=lambda item: -item[1])[:_MAX_PLACES]
    return [
        Place(file=file, line=line, function=function, transform=transform, share=weight / total)
        for (file, line, function, transform), weight in most
        if file and weight >= _MIN_SHARE * total
    ]
