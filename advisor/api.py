"""The advisor as a library: from a profile to a report that a notebook shows by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepscope.advisor.advice import Advice
    from stepscope.profiler.format import Profile

# Everything else is imported where it is used: this is imported with the package.
# ruff: noqa: PLC0415

_COLUMNS = 100
_HEIGHT = "46rem"


@dataclass(frozen=True)
class Report:
    """A profile and what follows from it, to be read, written, or worked with."""

    profile: Profile
    advice: Advice

    @property
    def html(self) -> str:
        """The whole report, one self-contained page."""
        from stepscope.advisor import html

        return html.render(self.advice, self.profile)

    @property
    def markdown(self) -> str:
        """What fits a comment on a pull request."""
        from stepscope.advisor import markdown

        return markdown.render(self.advice)

    @property
    def json(self) -> str:
        """The document `stepscope.advice/1` (docs/advice.schema.json)."""
        import msgspec

        return msgspec.json.encode(self.advice).decode()

    def __str__(self) -> str:
        """The verdict as a terminal shows it, without colour."""
        import io

        from rich.console import Console

        from stepscope.advisor import terminal

        text = io.StringIO()
        terminal.print_verdict(self.advice, Console(file=text, width=_COLUMNS), None)
        return text.getvalue()

    def _repr_html_(self) -> str:
        """The report for a notebook, in a frame: styles and scripts of neither reach the other."""
        from markupsafe import escape

        return (
            '<iframe title="stepscope report" sandbox="allow-scripts allow-popups" '
            f'style="width:100%;height:{_HEIGHT};border:0" srcdoc="{escape(self.html)}"></iframe>'
        )


def report(
    profile: Profile | str | PathLike[str],
    *,
    rules: Sequence[str | PathLike[str]] = (),
    thresholds: Mapping[str, float] | None = None,
) -> Report:
    """Judge a profile; in a notebook the result shows itself.

    Args:
        profile: the profile, or the path of a `profile.json`, of a trace of torch.profiler, or of
            a folder with the traces of several ranks.
        rules: folders of more rules and methods.
        thresholds: named thresholds to use instead of the rules' defaults.

    Raises:
        stepscope.profiler.storage.ProfileError: the file cannot be read as a profile or trace.
        stepscope.advisor.knowledge.KnowledgeError: a rule file is wrong.
        stepscope.advisor.measure.NoStepsError: the profile holds too few steps.
    """
    from stepscope.advisor.advise import advise
    from stepscope.advisor.inputs import load_input
    from stepscope.advisor.rule_files import load_knowledge
    from stepscope.profiler.format import Profile

    source = "profile.json"
    if not isinstance(profile, Profile):
        path = Path(profile)
        profile, source = load_input(path), path.name
    knowledge = load_knowledge([Path(folder) for folder in rules])
    return Report(profile, advise(profile, knowledge, source, dict(thresholds or {})))
