"""The command `advise`."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stepscope.advisor.command import (
    Refused,
    check_outputs,
    fail,
    judge,
    knowledge,
    with_rules,
    write,
)
from stepscope.advisor.export_cli import export
from stepscope.advisor.rules_cli import rules
from stepscope.advisor.run import run
from stepscope.advisor.watch import watch

if TYPE_CHECKING:
    from stepscope.advisor.advice import Advice, WhatIf
    from stepscope.advisor.scaling.answer import Forecast
    from stepscope.advisor.what_if import Together

# Everything else is imported where it is used, so that `advise --help` answers at once.


_ABOVE_ZERO = click.FloatRange(0, min_open=True)


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
    """Say what holds a PyTorch training step back, what to do about it, and what it gains.

    \b
    advise profile.json              verdict here, report in profile.html
    advise profile.json --json -     the same as JSON on standard output
    advise trace.json.gz             the same from a trace of torch.profiler
    advise profiles/                 ... from the profiles, or traces, of many ranks
    advise run -- python train.py    run a program, profile its training steps, and judge them
    advise watch profile.json        follow a run while it goes on
    advise demo                      record and judge a small bundled training loop
    advise what-if profile.json sy-workers fp-amp      what these gain together
    advise export profile.json --to perfetto           for other tools: timelines, tables
    advise what-if trace.json.gz --faster aten::mm=2   what that would gain
    advise what-if profiles/ --ranks 16                ... from 16 ranks instead
    advise rules list                the rules and methods that advice comes from

    Record a profile with `with profile("profile.json") as prof:` around the loop and
    `for batch in prof.steps(loader):` in it. Exit status: 0 done, 1 a --fail-on condition
    held, 2 the input or the call was wrong.
    """  # noqa: D301  # click takes the character, not its name


@cli.command("profile")
@click.argument(
    "paths", metavar="PROFILE...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
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
@with_rules
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
@click.option(
    "--engine",
    default="processes",
    metavar="ENGINE",
    help="What reads many ranks: processes, dask or dask=ADDRESS [processes].",
)
@click.option("--open", "open_report", is_flag=True, help="Open the report in the browser.")
def profile_command(
    paths: tuple[Path, ...],
    html_path: Path | None,
    json_path: str | None,
    markdown_path: str | None,
    folders: tuple[Path, ...],
    settings: tuple[str, ...],
    fail_on: tuple[str, ...],
    engine: str,
    open_report: bool,
) -> None:
    """Judge PROFILE, or a trace of torch.profiler: print the verdict, write the HTML report.

    A folder, or several PROFILEs, are the ranks of one job.
    """
    from stepscope.advisor.inputs import stem

    conditions = [_condition(text) for text in fail_on]
    html_path = html_path or paths[0].parent / f"{stem(paths[0], ranks=len(paths) > 1)}.html"
    check_outputs(paths, [html_path, json_path, markdown_path])
    try:
        judged = judge(paths, folders, settings, engine)
        write(judged, html_path, json_path, markdown_path)
    except Refused as error:
        fail(str(error))
    if open_report:
        click.launch(html_path.absolute().as_uri())
    held = [c for c in conditions if _share_of(judged.advice, c[0]) >= c[1]]
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
        fail(f"there is no demo {name!r}; choose one of {', '.join(names)}")
    for package, extra in (("torch", "torch"), ("numpy", "examples"), ("PIL", "examples")):
        if importlib.util.find_spec(package) is None:
            fail(f"the demo trains a model and needs {package}: pip install 'stepscope[{extra}]'")
    profile_path = out / f"{name}.json"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"{out}: cannot be made ({error.strerror}); give another folder with --out")
    click.echo(f"Training {name}; about half a minute.", err=True)
    arguments = ["--profile", str(profile_path)]
    arguments += ["--steps", str(steps)] if steps else []
    importlib.import_module(f"stepscope.examples.{name}").main(arguments)
    try:
        write(judge([profile_path]), profile_path.with_suffix(".html"))
    except Refused as error:
        fail(str(error))


@cli.command("what-if")
@click.argument("profile_path", metavar="PROFILE", type=click.Path(path_type=Path))
@click.argument("methods", metavar="[METHOD...]", nargs=-1)
@click.option(
    "--faster",
    metavar="NAME=K",
    multiple=True,
    help="Of a trace: an operator, a kernel, or an owner of its critical path K times as fast.",
)
@click.option(
    "--launch-free",
    is_flag=True,
    help="Of a trace: operators and launches on the host cost nothing.",
)
@click.option("--hide-communication", is_flag=True, help="No collective is waited for.")
@click.option("--link", type=_ABOVE_ZERO, metavar="K", help="K times the bandwidth between ranks.")
@click.option("--gradient-bytes", type=_ABOVE_ZERO, metavar="K", help="K times the bytes.")
@click.option("--accumulate", type=click.IntRange(1), metavar="N", help="Exchange every N batches.")
@click.option("--batch", type=_ABOVE_ZERO, metavar="K", help="K times the samples a batch.")
@click.option("--ranks", type=click.IntRange(1), metavar="N", help="N ranks.")
@click.option(
    "--scaling",
    type=click.Choice(["weak", "strong"]),
    help="With --ranks: each rank keeps its batch (weak), or all together do (strong).",
)
@with_rules
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def what_if_command(
    profile_path: Path,
    methods: tuple[str, ...],
    faster: tuple[str, ...],
    launch_free: bool,
    hide_communication: bool,
    folders: tuple[Path, ...],
    as_json: bool,
    **scaling: Any,
) -> None:
    """Predict what several METHODs gain together, in this order; or replay a trace; or scale a job.

    Each METHOD is told alone and on top of those before it; kappa is the gain of all over the
    product of the single ones. `advise rules list --kind method` shows the ids.

    With --faster, --launch-free or --hide-communication the steps of a trace are replayed with
    these changes and the same dependencies.

    With --link, --gradient-bytes, --accumulate, --batch or --ranks a job of many ranks is predicted
    from a model of its communication; PROFILE is best the folder with the profiles of all ranks.
    """
    from stepscope.advisor.inputs import is_trace, load_input
    from stepscope.advisor.knowledge import KnowledgeError
    from stepscope.advisor.measure import NoStepsError
    from stepscope.advisor.scaling.answer import answer
    from stepscope.advisor.scaling.forecast import Scenario
    from stepscope.advisor.what_if import replayed, what_if
    from stepscope.profiler.storage import ProfileError

    if scaling["scaling"] and not scaling["ranks"]:
        fail("what-if: --scaling says how ranks are added; name their number with --ranks")
    scaled = {name: value for name, value in scaling.items() if value is not None}
    for name, value in scaled.items():
        if isinstance(value, float) and not math.isfinite(value):
            fail(f"what-if: --{name.replace('_', '-')} {value}: give a number above 0")
    replays = bool(faster or launch_free or (hide_communication and is_trace(profile_path)))
    if hide_communication and not replays:
        scaled["hidden"] = True
    if [replays, bool(scaled), bool(methods)].count(True) != 1:
        fail(
            "what-if: name methods, or changes of a trace (--faster, --launch-free, ...), or of a "
            "job (--link, --ranks, ...)"
        )
    try:
        result: Together | WhatIf | Forecast
        if replays:
            result = replayed(profile_path, faster, launch_free, hide_communication)
        elif scaled:
            result = answer(load_input(profile_path), Scenario(**scaled), str(profile_path))
        else:
            result = what_if(list(methods), load_input(profile_path), knowledge(folders)[0])
    except (KnowledgeError, NoStepsError, ProfileError, Refused) as error:
        fail(str(error))
    if as_json:
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(result), indent=2))
        return
    from rich.console import Console

    from stepscope.advisor.what_if_terminal import print_result

    print_result(result, Console())


cli.add_command(export)
cli.add_command(run)
cli.add_command(rules)
cli.add_command(watch)


def _condition(text: str) -> tuple[str, float]:
    from stepscope.advisor.causes import CATEGORIES, CAUSES

    cause, _, limit = text.partition(":")
    if cause not in CAUSES and cause not in CATEGORIES:
        fail(f"--fail-on {text}: {cause!r} is no cause; see the ids in the report's breakdown")
    try:
        share = float(limit or 0.1)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        fail(f"--fail-on {text}: give a share between 0 and 1 behind the colon")
    return cause, share


def _share_of(advice: Advice, cause: str) -> float:
    return sum(
        line.share
        for line in advice.breakdown
        if line.cause == cause or line.cause.startswith(f"{cause}.")
    )


def main() -> None:
    """Entry point of the command."""
    cli()
