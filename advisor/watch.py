"""`advise watch`: what holds a run back, told while it goes on.

The profiler rewrites the profile every few seconds. It is looked at once a second and judged again
only when it has changed, so that watching takes little from the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from stepscope.advisor.advice import Advice
    from stepscope.profiler.format import Profile

SECONDS = 1.0
_QUIET_SECONDS = 60
"""The profiler writes a copy every 10 seconds; later than this, something is not as usual."""

Judge = Callable[["Profile"], "Advice"]


@click.command("watch")
@click.argument("profile_path", metavar="PROFILE", type=click.Path(path_type=Path))
def watch(profile_path: Path) -> None:
    """Follow a run that is going on: verdict, step time and breakdown, until it ends.

    PROFILE is what `with profile("profile.json")` or `advise run` writes, and need not be there
    yet. Ctrl-C ends the watching, not the run.
    """
    from rich.console import Console

    from stepscope.advisor.advise import advise
    from stepscope.advisor.command import Refused, fail, knowledge

    if profile_path.is_dir():
        fail(f"{profile_path}: is a directory; name the profile that the run writes")
    try:
        known, thresholds = knowledge()
    except Refused as error:
        fail(str(error))
    watched = Watched(profile_path, lambda p: advise(p, known, profile_path.name, thresholds))
    try:
        follow(watched, Console())
    except KeyboardInterrupt:
        return


class Watched:
    """A profile on disk that changes, and what was last understood of it.

    Args:
        path: the file; it may be missing, and come and go.
        judge: from a profile to the advice.
    """

    def __init__(self, path: Path, judge: Judge) -> None:
        self.path = path
        self.profile: Profile | None = None
        self.advice: Advice | None = None
        self.trouble = ""
        """Why the file as it is now cannot be judged; empty when it could."""
        self.changed = 0.0
        """When the file was written, in seconds since the epoch."""
        self.last_steps: tuple[int, float] | None = None
        """Steps since the copy before this one, and seconds that one of them took."""
        self._judge = judge
        self._seen: tuple[int, int, int] | None = None

    @property
    def ended(self) -> bool:
        """Whether the run says that it is over."""
        return self.profile is not None and self.profile.run.ended != "running"

    def look(self) -> bool:
        """Read and judge the file if it has changed; returns whether it has."""
        from stepscope.advisor.measure import NoStepsError
        from stepscope.profiler.storage import ProfileError, load

        try:
            stat = self.path.stat()
        except OSError:
            self._seen = None
            self.trouble = "was removed" if self.profile else "is not there yet"
            return False
        seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if seen == self._seen:
            return False
        self._seen, self.changed = seen, stat.st_mtime
        try:
            profile = load(self.path)
            self._note_last_steps(profile)
            self.profile, self.trouble = profile, ""
            self.advice = self._judge(profile)
        except ProfileError as error:  # half-written, by a copying program say
            self.trouble = str(error).removeprefix(f"{self.path}: ")
        except NoStepsError as error:
            self.trouble = str(error)
        return True

    def _note_last_steps(self, profile: Profile) -> None:
        before, self.last_steps = self.profile, None
        if before is not None and before.run.started_at == profile.run.started_at:
            steps = profile.steady.total - before.steady.total
            wall_ns = sum(profile.steady.wall_ns) - sum(before.steady.wall_ns)
            if steps > 0:
                self.last_steps = steps, wall_ns / steps / 1e9


def follow(watched: Watched, console: Console, sleep: Callable[[float], None] = time.sleep) -> None:
    """Show `watched` until its run has ended: in place on a terminal, else a line for each copy."""
    if not console.is_terminal:
        while not watched.ended:
            if watched.look():
                console.print(_line(watched), soft_wrap=True, markup=False, highlight=False)
            if not watched.ended:
                sleep(SECONDS)
        return
    from rich.live import Live

    with Live(console=console, auto_refresh=False) as live:
        while not watched.ended:
            watched.look()
            live.update(_view(watched, console), refresh=True)
            if not watched.ended:
                sleep(SECONDS)


def _line(watched: Watched) -> str:
    from stepscope.advisor import wording

    if watched.advice is None or watched.trouble:
        return wording.one_line(f"{watched.path}: {watched.trouble}")
    verdict = watched.advice.verdict
    return wording.one_line(
        f"{_steps(watched)}: {wording.share(verdict.share)} {wording.cause_label(verdict.cause)}"
    )


def _view(watched: Watched, console: Console) -> RenderableType:
    from rich.console import Group

    from stepscope.advisor import terminal

    sheet = terminal.Sheet(console)
    sheet.line(f"{watched.path.name}: {_state(watched)}", "dim")
    if watched.advice is not None:
        sheet.line(_steps(watched), "bold")
        terminal.write_summary(sheet, watched.advice)
    if watched.ended:
        sheet.line("")
        sheet.line(f"The run has ended. `advise {watched.path}` writes the report.")
    return Group(*sheet.parts)


def _steps(watched: Watched) -> str:
    from stepscope.advisor import wording

    assert watched.profile is not None
    assert watched.advice is not None
    steady = watched.profile.steady.total
    text = f"{steady:,} steps, {wording.duration(watched.advice.step_seconds)} each"
    if watched.last_steps:
        count, seconds = watched.last_steps
        text += f"; the last {count:,}: {wording.duration(seconds)}"
    return text


def _state(watched: Watched) -> str:
    from stepscope.advisor import wording

    if watched.trouble:
        kept = "; below: what was seen before" if watched.advice else ""
        return f"{watched.trouble}{kept}"
    if watched.profile is not None and watched.ended:
        return f"the run of {watched.profile.run.started_at} has ended"
    age = max(0.0, time.time() - watched.changed)
    if age > _QUIET_SECONDS:
        return f"nothing new for {wording.duration(round(age))}: the run hangs, or was killed"
    return f"running; written {round(age)} s ago"
