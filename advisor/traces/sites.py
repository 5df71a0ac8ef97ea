"""Places in the user's program, from the sums of a trace that was recorded with stacks."""

from __future__ import annotations

from stepscope.advisor.traces.analysis import Analysis
from stepscope.advisor.traces.frames import frame_of
from stepscope.profiler.format import Site

_MOST = 500
_LOADING = "data_wait"


def main_sites(sums: Analysis, *, loads_itself: bool) -> list[Site]:
    """Where the training thread was, by phase, the longest first.

    Args:
        sums: of the trace.
        loads_itself: whether it makes the batches; then that is left to `fetch_sites`.
    """
    sites = [_site(sums, phase, name) for (phase, name), _ in sums.sites.most_common(_MOST)]
    for site in sites:
        if site.phase == _LOADING:
            site.state = "blocked"
    return [site for site in sites if not (loads_itself and site.phase == _LOADING)]


def fetch_sites(sums: Analysis) -> list[Site]:
    """Where it was while it made batches; functions that were called for that are transforms."""
    sites = []
    for (phase, name), _ in sums.sites.most_common(_MOST):
        if phase == _LOADING:
            site = _site(sums, phase, name)
            site.phase = "fetch"
            site.transform = None if name in sums.callers else site.function
            sites.append(site)
    return sites


def _site(sums: Analysis, phase: str, name: int) -> Site:
    frame = frame_of(sums.names.text[name])
    assert frame is not None  # others are not kept
    return Site(
        phase=phase,
        file=frame.file,
        line=frame.line,
        function=frame.function,
        calls=sums.stretches[phase, name],
        time_ns=sums.sites[phase, name],
    )
