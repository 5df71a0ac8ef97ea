"""Sources judged one after the other, as tables take them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stepscope.advisor.advise import advise
from stepscope.advisor.command import knowledge, say
from stepscope.advisor.export.sources import Source
from stepscope.advisor.export.tables import Judged
from stepscope.advisor.measure import NoStepsError


def judged(sources: Sequence[Source]) -> Iterator[Judged]:
    """Each source's profile with the advice that `advise` gives.

    Raises:
        ProfileError: one cannot be read.
        Refused: the project's rules cannot be used.
    """
    found, thresholds = knowledge()
    for source in sources:
        profile, name = source.profile(), source.path.name
        try:
            advice = advise(profile, found, name, thresholds)
        except NoStepsError as error:
            say(f"{source.path}: tables of the advice stay empty: {error}")
            advice = None
        yield Judged(name, profile, advice)
