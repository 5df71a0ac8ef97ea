"""`advise rules`: list, explain, check, test, begin and document rules and methods."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from stepscope.advisor.causes import CATEGORIES
from stepscope.advisor.command import Refused, fail, project, with_rules
from stepscope.advisor.command import knowledge as knowledge_of

if TYPE_CHECKING:
    from stepscope.advisor.knowledge import Knowledge

# Everything else is imported where it is used, so that `advise --help` answers at once.

_COMPONENTS = ("function", "data", "optimization", "systems")
_ACTIONS = ("remove", "restrict", "reorder", "replace", "retrofit")
_EFFORTS = ("minutes", "hours", "days")

_folder_argument = click.argument(
    "folder", metavar="[DIR]", required=False, type=click.Path(path_type=Path)
)


@click.group(no_args_is_help=True)
def rules() -> None:
    """List, explain, check and write the rules and methods that advice comes from.

    DIR is a folder of your own: `detect/FOLDER/ID.yaml`, `methods/FOLDER/ID.yaml`,
    `combinations/FOLDER/ID.yaml`.
    Folders named in pyproject.toml under [tool.stepscope] always take part.
    """


@rules.command("list")
@click.option("--kind", type=click.Choice(("rule", "method", "combination")), help="Only these.")
@click.option("--category", type=click.Choice(tuple(CATEGORIES)), help="Seeing or helping this.")
@click.option("--component", type=click.Choice(_COMPONENTS), help="Methods of this component.")
@click.option("--action", type=click.Choice(_ACTIONS), help="Methods that act like this.")
@click.option("--effort", type=click.Choice(_EFFORTS), help="Methods that take this long.")
@with_rules
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def list_command(
    kind: str | None,
    category: str | None,
    component: str | None,
    action: str | None,
    effort: str | None,
    folders: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Show rules and methods; several filters hold together."""
    from rich.console import Console

    from stepscope.advisor import rule_list

    filters = rule_list.Filters(kind, category, component, action, effort)
    entries = rule_list.entries_of(_knowledge(folders), filters)
    if as_json:
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(entries), indent=2))
        return
    from stepscope.advisor import rule_terminal

    rule_terminal.print_list(entries, Console())


@rules.command("explain")
@click.argument("name", metavar="ID")
@with_rules
def explain_command(name: str, folders: tuple[Path, ...]) -> None:
    """Show everything there is about one rule or method."""
    from rich.console import Console

    from stepscope.advisor import rule_terminal
    from stepscope.advisor.rule_cards import cards_of

    knowledge = _knowledge(folders)
    cards = cards_of(name, knowledge)
    if not cards:
        fail(f"there is no rule, method or combination {name!r}; {_nearest(name, knowledge)}")
    for card in cards:
        rule_terminal.print_card(card, Console())


@rules.command("lint")
@_folder_argument
def lint_command(folder: Path | None) -> None:
    """Check the files of DIR, or else the built-in ones and those of pyproject.toml.

    Prints `file:line: key: what is wrong`. Exit status 2 if there is an error; a note is none.
    """
    from stepscope.advisor.knowledge import Knowledge, KnowledgeError
    from stepscope.advisor.lint import lint
    from stepscope.advisor.rule_files import built_in, load_knowledge
    from stepscope.advisor.wording import plural

    try:
        configured = project().rules
        if folder is not None:
            others = [other for other in configured if other.resolve() != folder.resolve()]
            reports = [lint(folder, load_knowledge(others))]
        else:
            reports = [lint(built_in(), Knowledge({}, {}))]
            reports += [
                lint(other, load_knowledge([*configured[:i]])) for i, other in enumerate(configured)
            ]
    except KnowledgeError as error:
        fail(str(error))
    problems = [problem for report in reports for problem in report.problems]
    for problem in problems:
        click.echo(str(problem))
    errors = sum(problem.is_error for problem in problems)
    click.echo(
        f"{plural(sum(report.rules for report in reports), 'rule')}, "
        f"{plural(sum(report.methods for report in reports), 'method')}, "
        f"{plural(sum(report.combinations for report in reports), 'combination')}: "
        f"{plural(errors, 'error')}, {plural(len(problems) - errors, 'note')}"
    )
    sys.exit(2 if errors else 0)


@rules.command("test")
@_folder_argument
def test_command(folder: Path | None) -> None:
    """Run the fixtures of all rules, built-in and your own; exit status 1 if one fails."""
    from stepscope.advisor.fixtures import failures_of, fixtures_of
    from stepscope.advisor.wording import plural

    knowledge = _knowledge(() if folder is None else (folder,))
    failures = list(failures_of(knowledge))
    for failure in failures:
        click.echo(str(failure))
    count = sum(1 for _ in fixtures_of(knowledge))
    tested = f"{plural(len(knowledge.rules), 'rule')}, {plural(count, 'fixture')}"
    click.echo(f"{tested}: {f'{len(failures)} failed' if failures else 'all as they say'}")
    sys.exit(1 if failures else 0)


@rules.command("new")
@click.argument("kind", type=click.Choice(("rule", "method", "combination")))
@click.argument("name", metavar="ID")
@click.option(
    "--dir",
    "folder",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder of rules [the first in pyproject.toml, else stepscope-rules].",
)
def new_command(
    kind: Literal["rule", "method", "combination"], name: str, folder: Path | None
) -> None:
    """Write a file to begin with; it says what is left to decide."""
    from stepscope.advisor.knowledge import Combination, KnowledgeError, Method, Rule
    from stepscope.advisor.lint import ID
    from stepscope.advisor.rule_files import FOLDERS, Entry, load_knowledge
    from stepscope.advisor.rule_stubs import combination_stub, method_stub, rule_stub

    if not ID.fullmatch(name):
        fail(f"{name!r}: an id has small letters, digits, - and _, and begins with a letter")
    try:
        folders = (folder,) if folder else (*project().rules, Path("stepscope-rules"))
        taken = load_knowledge([]).sources.get(name)
    except KnowledgeError as error:
        fail(str(error))
    if taken is not None:
        fail(f"{name!r}: is the id of {taken.file}; copy that file if you mean to replace it")
    stub = {"rule": rule_stub, "method": method_stub, "combination": combination_stub}[kind]
    made: dict[str, type[Entry]] = {"rule": Rule, "method": Method, "combination": Combination}
    path = folders[0] / FOLDERS[made[kind]] / "own" / f"{name}.yaml"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(stub(name))
    except FileExistsError:
        fail(f"{path}: is there already; choose another id or delete it first")
    except OSError as error:
        fail(f"{path}: cannot be written ({error.strerror})")
    click.echo(f"{path}\nNext: advise rules lint {folders[0]}")


@rules.command("docs")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@with_rules
def docs_command(folder: Path, folders: tuple[Path, ...]) -> None:
    """Write a Markdown page for each rule and method to DIR, and an index.

    Pages of an earlier call whose rule or method is gone are deleted; nothing else is.
    """
    from stepscope.advisor.rule_pages import pages_of, write_pages
    from stepscope.advisor.wording import plural

    pages = pages_of(_knowledge(folders))
    try:
        write_pages(pages, folder)
    except OSError as error:
        fail(f"{error.filename or folder}: cannot be written ({error.strerror})")
    click.echo(f"{plural(len(pages), 'page')} in {folder}")


def _knowledge(folders: tuple[Path, ...]) -> Knowledge:
    try:
        return knowledge_of(folders)[0]
    except Refused as error:
        fail(str(error))


def _nearest(name: str, knowledge: Knowledge) -> str:
    import difflib

    ids = [*knowledge.rules, *knowledge.methods, *knowledge.combinations]
    near = difflib.get_close_matches(name, ids)
    return f"nearest: {', '.join(near)}" if near else "`advise rules list` shows them all"
