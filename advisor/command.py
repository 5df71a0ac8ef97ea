"""What the commands share: refusing a call, a project's settings, judging a profile.

Only commands print, open files for the user, or exit.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import click

if TYPE_CHECKING:
    from stepscope.advisor.advice import Advice
    from stepscope.advisor.config import Config
    from stepscope.advisor.knowledge import Knowledge
    from stepscope.profiler.format import Profile

# Everything else is imported where it is used, so that `advise --help` answers at once.


with_rules = click.option(
    "--rules",
    "folders",
    metavar="DIR",
    multiple=True,
    type=click.Path(path_type=Path),
    help="More rules and methods.",
)
"""Hands `folders` to a command."""


class Refused(Exception):
    """A profile, rule or setting that cannot be used, or a file that cannot be written."""


class Judged(NamedTuple):
    """A profile with what follows from it."""

    profile: Profile
    advice: Advice


def fail(message: str) -> NoReturn:
    """End the program for a wrong call or input: one line, exit status 2."""
    say(message)
    sys.exit(2)


def say(message: str) -> None:
    """One line on standard error."""
    click.echo(f"advise: {' '.join(message.split())}", err=True)


def judge(
    paths: Sequence[Path],
    rules: Sequence[Path] = (),
    settings: Sequence[str] = (),
    engine: str = "processes",
) -> Judged:
    """Read a profile and judge it by the built-in rules, the project's, and those of the call.

    Args:
        paths: the profile, or those of the ranks of one job.
        rules: more folders of rules.
        settings: thresholds as `NAME=VALUE`.
        engine: what reads many ranks.

    Raises:
        Refused: one of them cannot be used.
    """
    from stepscope.advisor.advise import advise
    from stepscope.advisor.inputs import load_inputs
    from stepscope.advisor.measure import NoStepsError
    from stepscope.advisor.progress import working
    from stepscope.profiler.storage import ProfileError

    name = paths[0].name if len(paths) == 1 else f"{paths[0].name} and {len(paths) - 1} more"
    try:
        with working(f"Judging {name}"):
            profile = load_inputs(paths, engine)
            found, thresholds = knowledge(rules, settings)
            return Judged(profile, advise(profile, found, name, thresholds))
    except ProfileError as error:
        raise Refused(str(error)) from None
    except NoStepsError as error:
        raise Refused(f"{paths[0]}: {error}") from None


def write(
    judged: Judged,
    html_path: Path,
    json_path: str | None = None,
    markdown_path: str | None = None,
    *,
    err: bool = False,
) -> None:
    """Write the report and what else was asked for, and print the verdict.

    Args:
        judged: what is to be told.
        html_path: of the report.
        json_path: of the advice as JSON; `-` is standard output, and no verdict is printed then.
        markdown_path: the same as Markdown.
        err: print the verdict on standard error, where standard output is the program's.

    Raises:
        Refused: a file cannot be written.
    """
    import msgspec
    from rich.console import Console

    from stepscope.advisor import html, markdown, terminal
    from stepscope.profiler.storage import write_atomically

    profile, advice = judged
    outputs: list[tuple[Path | str, bytes]] = [(html_path, html.render(advice, profile).encode())]
    if json_path is not None:
        document = msgspec.json.format(msgspec.json.encode(advice), indent=2)
        outputs.append((json_path, document))
    if markdown_path is not None:
        outputs.append((markdown_path, markdown.render(advice).encode()))
    for path, content in outputs:
        try:
            if path == "-":
                sys.stdout.buffer.write(content.rstrip(b"\n") + b"\n")
            else:
                write_atomically(Path(path), content)
        except OSError as error:
            raise Refused(f"{path}: cannot be written ({error.strerror})") from None
    if "-" not in (json_path, markdown_path):
        terminal.print_verdict(advice, Console(stderr=err), _short(html_path))


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def knowledge(
    rules: Sequence[Path] = (), settings: Sequence[str] = ()
) -> tuple[Knowledge, dict[str, float]]:
    """Rules and thresholds: built-in, then the project's, then those of the call.

    Raises:
        Refused: one of them cannot be used.
    """
    from stepscope.advisor.knowledge import KnowledgeError
    from stepscope.advisor.rule_files import load_knowledge

    try:
        settled = project()
        found = load_knowledge([*settled.rules, *rules])
        known = found.threshold_names()
        return found, settled.thresholds_among(known) | _thresholds(settings, known)
    except KnowledgeError as error:
        raise Refused(str(error)) from None


def project() -> Config:
    """What the project's pyproject.toml sets.

    Raises:
        KnowledgeError: it cannot be used.
    """
    from stepscope.advisor.config import load_config

    config = load_config()
    if config.not_read:
        say(config.not_read)
    return config


def _thresholds(settings: Sequence[str], known: set[str]) -> dict[str, float]:
    from stepscope.advisor.knowledge import thresholds_like

    values = {}
    for setting in settings:
        name, _, text = setting.partition("=")
        try:
            values[name] = float(text)
        except ValueError:
            values[name] = math.nan
        if not math.isfinite(values[name]):
            raise Refused(f"--set {setting}: give NAME=VALUE with a number")
        if name not in known:
            raise Refused(f"--set {setting}: no threshold {name!r}; {thresholds_like(name, known)}")
    return values


def check_outputs(inputs: Sequence[Path], outputs: Sequence[Path | str | None]) -> None:
    """Refuse, before anything is written, outputs that would hit an input or each other."""
    taken = dict.fromkeys(map(_real, inputs), "is the profile itself")
    for output in outputs:
        if output is None or output == "-":
            continue
        path = Path(output)
        real = _real(path)
        if real.is_dir():
            fail(f"{path}: is a directory; name a file in it")
        if real in taken:
            fail(f"{path}: {taken[real]}; give another path for the output")
        taken[real] = "is named for two outputs"
    if list(outputs).count("-") > 1:
        fail("-: standard output takes only one of --json and --markdown")


def _real(path: Path) -> Path:
    try:
        path.is_dir()  # which also tells a name that is too long
        return path.resolve()
    except (OSError, RuntimeError) as error:
        fail(f"{path}: is no usable path ({getattr(error, 'strerror', None) or error})")
