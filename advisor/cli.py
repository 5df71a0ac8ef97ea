"""The command `advise`. The only place that prints, opens files for the user, or exits."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from stepscope.advisor.rules_cli import rules
from stepscope.advisor.run import run

if TYPE_CHECKING:
    from stepscope.advisor.advice import Advice
    from stepscope.advisor.config import Config
    from stepscope.advisor.knowledge import Knowledge
    from stepscope.profiler.format import Profile

# Everything else is imported where it is used, so that `advise --help` answers at once.


class _DefaultGroup(click.Group):
    """A group whose first argument may be a profile: `advise x.json` is `advise profile x.json`."""

    default = "profile"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = ("--help", "-h", "--version")
        if args and args[0] not in self.commands and args[0] not in own:
            args = [self.default, *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=_DefaultGroup,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="stepscope", prog_name="advise")
def cli() -> None:
    r"""Say what holds a PyTorch training step back, what to do about it, and what it gains.

    \b
    advise profile.json              verdict here, report in profile.html
    advise profile.json --json -     the same as JSON on standard output
    advise run -- python train.py    run a program, profile its training steps, and judge them
    advise demo                      record and judge a small bundled training loop
    advise rules list                the rules and methods that advice comes from

    Record a profile with `with profile("profile.json") as prof:` around the loop and
    `for batch in prof.steps(loader):` in it. Exit status: 0 done, 1 a --fail-on condition
    held, 2 the input or the call was wrong.
    """


@cli.command("profile")
@click.argument("profile_path", metavar="PROFILE", type=click.Path(path_type=Path))
@click.option(
    "--html",
    "html_path",
    type=click.Path(path_type=Path),
    help="Where to write the report [beside PROFILE].",
)
@click.option(
    "--json", "json_path", metavar="PATH", help="Write the advice as JSON; - is standard output."
)
@click.option(
    "--markdown",
    "markdown_path",
    metavar="PATH",
    help="Write it as Markdown; - is standard output.",
)
@click.option(
    "--rules",
    "rules",
    metavar="DIR",
    multiple=True,
    type=click.Path(path_type=Path),
    help="More rules and methods.",
)
@click.option(
    "--set", "settings", metavar="NAME=VALUE", multiple=True, help="Override a named threshold."
)
@click.option(
    "--fail-on",
    "fail_on",
    metavar="CAUSE[:SHARE]",
    multiple=True,
    help="Exit with 1 if a cause (or category) takes this share of the step [0.1].",
)
@click.option("--open", "open_report", is_flag=True, help="Open the report in the browser.")
def profile_command(
    profile_path: Path,
    html_path: Path | None,
    json_path: str | None,
    markdown_path: str | None,
    rules: tuple[Path, ...],
    settings: tuple[str, ...],
    fail_on: tuple[str, ...],
    open_report: bool,
) -> None:
    """Judge PROFILE: print the verdict and write the HTML report beside it."""
    conditions = [_condition(text) for text in fail_on]
    html_path = html_path or profile_path.parent / f"{profile_path.stem}.html"
    _check_outputs(profile_path, [html_path, json_path, markdown_path])
    profile, advice = _judge(profile_path, rules, settings)
    _write(profile, advice, html_path, json_path, markdown_path)
    if open_report:
        click.launch(html_path.absolute().as_uri())
    held = [c for c in conditions if _share_of(advice, c[0]) >= c[1]]
    for cause, limit in held:
        click.echo(f"advise: --fail-on {cause}:{limit:g} holds", err=True)
    sys.exit(1 if held else 0)


@cli.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("demo"),
    show_default=True,
    help="Folder for profile and report.",
)
@click.option("--steps", type=click.IntRange(min=30), help="Training steps to run.")
@click.argument("name", required=False, default="jpeg_cnn")
def demo(out: Path, steps: int | None, name: str) -> None:
    """Profile a small bundled training loop with a known bottleneck, then advise.

    NAME is one of jpeg_cnn (default), char_gpt, tabular_mlp, healthy_cnn.
    """
    import importlib
    import importlib.util

    names = ("jpeg_cnn", "char_gpt", "tabular_mlp", "healthy_cnn")
    if name not in names:
        _fail(f"there is no demo {name!r}; choose one of {', '.join(names)}")
    for package, extra in (("torch", "torch"), ("numpy", "examples"), ("PIL", "examples")):
        if importlib.util.find_spec(package) is None:
            _fail(f"the demo trains a model and needs {package}: pip install 'stepscope[{extra}]'")
    profile_path = out / f"{name}.json"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _fail(f"{out}: cannot be made ({error.strerror}); give another folder with --out")
    click.echo(f"Training {name}; about half a minute.", err=True)
    arguments = ["--profile", str(profile_path)]
    arguments += ["--steps", str(steps)] if steps else []
    importlib.import_module(f"stepscope.examples.{name}").main(arguments)
    profile, advice = _judge(profile_path, (), ())
    _write(profile, advice, profile_path.with_suffix(".html"), None, None)


cli.add_command(run)
cli.add_command(rules)


def _check_outputs(profile_path: Path, outputs: Sequence[Path | str | None]) -> None:
    """Refuse, before anything is written, outputs that would hit the profile or each other."""
    taken = {_real(profile_path): "is the profile itself"}
    for output in outputs:
        if output is None or output == "-":
            continue
        path = Path(output)
        real = _real(path)
        if real.is_dir():
            _fail(f"{path}: is a directory; name a file in it")
        if real in taken:
            _fail(f"{path}: {taken[real]}; give another path for the output")
        taken[real] = "is named for two outputs"
    if list(outputs).count("-") > 1:
        _fail("-: standard output takes only one of --json and --markdown")


def _real(path: Path) -> Path:
    try:
        path.is_dir()  # which also tells a name that is too long
        return path.resolve()
    except (OSError, RuntimeError) as error:
        _fail(f"{path}: is no usable path ({getattr(error, 'strerror', None) or error})")


def _judge(path: Path, rules: Sequence[Path], settings: Sequence[str]) -> tuple[Profile, Advice]:
    from stepscope.advisor.advise import advise
    from stepscope.advisor.knowledge import KnowledgeError
    from stepscope.advisor.measure import NoStepsError
    from stepscope.profiler.storage import ProfileError, load

    try:
        profile = load(path)
        knowledge, thresholds = _knowledge(rules, settings)
        return profile, advise(profile, knowledge, path.name, thresholds)
    except (ProfileError, KnowledgeError) as error:
        _fail(str(error))
    except NoStepsError as error:
        _fail(f"{path}: {error}")


def _write(
    profile: Profile,
    advice: Advice,
    html_path: Path,
    json_path: str | None,
    markdown_path: str | None,
) -> None:
    import msgspec

    from stepscope.advisor import html, markdown, terminal
    from stepscope.profiler.storage import write_atomically

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
            _fail(f"{path}: cannot be written ({error.strerror})")
    if "-" not in (json_path, markdown_path):
        from rich.console import Console

        terminal.print_verdict(advice, Console(), str(html_path))


def _knowledge(
    rules: Sequence[Path], settings: Sequence[str]
) -> tuple[Knowledge, dict[str, float]]:
    """Rules and thresholds: built-in, then the project's, then those of the call."""
    from stepscope.advisor.rule_files import load_knowledge

    project = _project()
    knowledge = load_knowledge([*project.rules, *rules])
    known = knowledge.threshold_names()
    return knowledge, project.thresholds_among(known) | _thresholds(settings, known)


def _project() -> Config:
    from stepscope.advisor.config import load_config

    project = load_config()
    if project.not_read:
        click.echo(f"advise: {project.not_read}", err=True)
    return project


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
            _fail(f"--set {setting}: give NAME=VALUE with a number")
        if name not in known:
            _fail(f"--set {setting}: no threshold {name!r}; {thresholds_like(name, known)}")
    return values


def _condition(text: str) -> tuple[str, float]:
    from stepscope.advisor.causes import CATEGORIES, CAUSES

    cause, _, limit = text.partition(":")
    if cause not in CAUSES and cause not in CATEGORIES:
        _fail(f"--fail-on {text}: {cause!r} is no cause; see the ids in the report's breakdown")
    try:
        share = float(limit or 0.1)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        _fail(f"--fail-on {text}: give a share between 0 and 1 behind the colon")
    return cause, share


def _share_of(advice: Advice, cause: str) -> float:
    return sum(
        line.share
        for line in advice.breakdown
        if line.cause == cause or line.cause.startswith(f"{cause}.")
    )


def _fail(message: str) -> NoReturn:
    click.echo(f"advise: {' '.join(message.split())}", err=True)
    sys.exit(2)


def main() -> None:
    """Entry point of the command."""
    cli()
