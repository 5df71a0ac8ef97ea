"""Reading rules, methods and combinations from their files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import msgspec

from stepscope.advisor import rule_cache
from stepscope.advisor.knowledge import Combination, Knowledge, KnowledgeError, Method, Rule
from stepscope.advisor.rule_checks import check_combination, check_method, check_rule
from stepscope.advisor.rule_source import Source

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable  # Python 3.10 has it elsewhere

Entry = Rule | Method | Combination
_Entry = TypeVar("_Entry", Rule, Method, Combination)
FOLDERS: dict[type[Entry], str] = {
    Rule: "detect",
    Method: "methods",
    Combination: "combinations",
}
"""Where in a folder of rules the files of each kind lie, in folders of their own choice."""


class _Read(NamedTuple):
    """What stands in a folder of rules, with the file that each entry stands in."""

    rules: list[tuple[Rule, Source]]
    methods: list[tuple[Method, Source]]
    combinations: list[tuple[Combination, Source]]


def load_knowledge(extra: list[Path] | None = None) -> Knowledge:
    """Read the built-in files and those of `extra` folders (`detect/`, `methods/`, ... inside).

    A file of a later folder replaces an earlier one of the same id.

    Raises:
        KnowledgeError: a file does not parse, does not fit, or names an unknown cause or method.
    """
    for folder in extra or []:
        if not folder.is_dir():
            raise KnowledgeError(f"{folder}: no such directory of rules")
    roots = [_read_built_in(), *(_read(folder) for folder in extra or [])]
    rules = {entry.id: (entry, source) for root in roots for entry, source in root.rules}
    methods = {entry.id: (entry, source) for root in roots for entry, source in root.methods}
    combinations = {
        entry.id: (entry, source) for root in roots for entry, source in root.combinations
    }
    knowledge = Knowledge(
        rules={name: rule for name, (rule, _) in rules.items()},
        methods={name: method for name, (method, _) in methods.items()},
        combinations={name: combination for name, (combination, _) in combinations.items()},
        sources={
            name: source
            for entries in (rules, methods, combinations)
            for name, (_, source) in entries.items()
        },
    )
    errors = chain(
        chain.from_iterable(check_rule(*rule, knowledge) for rule in rules.values()),
        chain.from_iterable(check_method(*method, knowledge) for method in methods.values()),
        chain.from_iterable(check_combination(*c, knowledge) for c in combinations.values()),
    )
    error = next(errors, None)
    if error:
        raise error
    return knowledge


def built_in() -> Traversable:
    """The folder of the rules and methods that come with stepscope."""
    return files("stepscope.rules")


def _read_built_in() -> _Read:
    """The built-in files: parsed once, and then again whenever one of them has changed."""
    folder = built_in()
    texts = {kind: [(file, _text(file)) for file in entry_files(folder, kind)] for kind in FOLDERS}
    cached = rule_cache.Cache(folder, (text for group in texts.values() for _, text in group))
    known = cached.load()
    if known is None:
        found = _read(folder)
        cached.store(
            rule_cache.Entries(
                [entry for entry, _ in found.rules],
                [entry for entry, _ in found.methods],
                [entry for entry, _ in found.combinations],
            )
        )
        return found
    sources = {kind: [Source(file, text) for file, text in texts[kind]] for kind in FOLDERS}
    return _Read(
        list(zip(known.rules, sources[Rule], strict=True)),
        list(zip(known.methods, sources[Method], strict=True)),
        list(zip(known.combinations, sources[Combination], strict=True)),
    )


def _read(root: Traversable) -> _Read:
    return _Read(
        [read_entry(file, Rule) for file in entry_files(root, Rule)],
        [read_entry(file, Method) for file in entry_files(root, Method)],
        [read_entry(file, Combination) for file in entry_files(root, Combination)],
    )


def entry_files(root: Traversable, kind: type[Entry]) -> Iterator[Traversable]:
    """The files of one kind in a folder of rules, in order."""
    folder = root / FOLDERS[kind]
    if not folder.is_dir():
        return
    for group in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if group.is_dir():
            for file in sorted(group.iterdir(), key=lambda entry: entry.name):
                if file.name.endswith(".yaml"):
                    yield file


def _text(file: Traversable) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise KnowledgeError(f"cannot be read as UTF-8 text: {error}", str(file)) from None


def read_entry(file: Traversable, kind: type[_Entry]) -> tuple[_Entry, Source]:
    """Read one rule, method or combination; the names in it may still be unknown.

    Raises:
        KnowledgeError: the file does not parse, or does not fit its kind.
    """
    import yaml  # noqa: PLC0415  # not needed where all that is read is known already

    source = Source(file, _text(file))
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        entry = msgspec.convert(yaml.load(source.text, Loader=loader), type=kind)  # safe
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise source.error(line, f"is not YAML: {error.problem}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise source.error(1, f"is not YAML: {error}") from None
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `")
        path = place.rstrip("`").removeprefix("$").lstrip(".")
        where = f"`{path}`: " if path else ""
        unknown = _UNKNOWN_KEY.search(message)
        line = source.line_of(f"{path}.{unknown[1]}".lstrip(".") if unknown else path)
        raise source.error(line, where + message) from None
    if entry.id != file.name.removesuffix(".yaml"):
        raise source.wrong("id", f"is {entry.id!r}, the file name says otherwise")
    return entry, source


_UNKNOWN_KEY = re.compile(r"unknown field `(.+)`")
