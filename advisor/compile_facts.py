"""Facts about torch.compile: where its graphs break, and what it compiles again and again."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath

from stepscope.advisor.knowledge import Draft
from stepscope.advisor.measure import Measurement
from stepscope.profiler.format import GraphBreak, Profile, Recompiled

_NAMED = 3


def compile_facts(facts: Draft, profile: Profile, measurement: Measurement) -> None:
    """Counts, and the places in words; nothing where nothing was compiled."""
    found = profile.compilation
    facts["compilation.graph_breaks"] = profile.configuration.graph_breaks
    if found is None:
        return
    limited = [row for row in found.recompiled if row.at_limit]
    again = sorted(found.recompiled, key=lambda row: (-row.steady, -row.compilations))
    facts["compilation.limit_hits"] = len(limited)
    facts["compilation.again"] = sum(row.compilations - 1 for row in again)
    facts["compilation.break_places"] = _listed(_break(row) for row in found.graph_breaks)
    facts["compilation.again_places"] = _listed(_recompiled(row) for row in again)
    facts["compilation.limit_places"] = _listed(_recompiled(row) for row in limited)


def _break(row: GraphBreak) -> str:
    whole = "; the function is not compiled at all" if row.uncompiled else ""
    return f"{PurePath(row.file).name}:{row.line} in {row.function} ({row.reason}{whole})"


def _recompiled(row: Recompiled) -> str:
    why = f": {row.reason}" if row.reason else ""
    place = f"{row.function} at {PurePath(row.file).name}:{row.line}"
    return f"{place} ({row.compilations} times{why})"


def _listed(places: Iterable[str]) -> str:
    every = list(places)
    more = f"; and {len(every) - _NAMED} more" if len(every) > _NAMED else ""
    return "; ".join(every[:_NAMED]) + more if every else "none"
