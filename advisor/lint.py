"""Checks of rules and methods beyond what reading them needs: `advise rules lint`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import yaml

from stepscope.advisor.causes import CAUSES
from stepscope.advisor.engine import judge, unit_of
from stepscope.advisor.fact_names import fact_name
from stepscope.advisor.knowledge import (
    Combination,
    Knowledge,
    KnowledgeError,
    Method,
    Rule,
    Value,
)
from stepscope.advisor.rule_checks import check_combination, check_method, check_rule
from stepscope.advisor.rule_files import FOLDERS, Entry, entry_files, read_entry
from stepscope.advisor.rule_source import Source
from stepscope.advisor.wording import plural

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

LEAST_FIXTURES = {"fires": 2, "silent": 2, "unknown": 1}
"""Well past the limits, at them, and with a deciding fact missing."""
CLOSE = 0.25
"""A case is just short of firing if the deciding fact is no further than this from its limit."""
NEED_CAUSES = {"remove", "at_most", "rarer"}
"""Predictors that are told which causes to take away."""
_PLACE = re.compile(r"\{([^{}]*)\}")
_TODO = re.compile(r"\bTODO\b")
_ARXIV = re.compile(r"\d{4}\.\d{4,5}|[a-z-]+(\.[A-Z]{2})?/\d{7}")
ID = re.compile(r"[a-z][a-z0-9_-]*")
"""Ids stand in commands, addresses and file names."""
_Entry = TypeVar("_Entry", Rule, Method, Combination)


class Problem(NamedTuple):
    """Something wrong at a place; `is_error` is false for what one may want to know."""

    file: str
    line: int
    message: str
    is_error: bool = True

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {'' if self.is_error else 'note: '}{self.message}"


class Report(NamedTuple):
    """What a check has found, by file and line."""

    problems: list[Problem]
    rules: int
    methods: int
    combinations: int = 0


def lint(folder: Traversable, beside: Knowledge) -> Report:
    """Check every rule and method of a folder, without stopping at the first problem.

    Args:
        folder: has `detect/` and `methods/` inside.
        beside: rules and methods that the folder's files may name as well.

    Raises:
        KnowledgeError: there is no such folder, or no rules in it.
    """
    if not folder.is_dir():
        raise KnowledgeError(f"{folder}: no such directory of rules")
    if not any((folder / name).is_dir() for name in FOLDERS.values()):
        raise KnowledgeError(f"{folder}: has none of {', '.join(FOLDERS.values())} inside")
    rules, unread = _read(folder, Rule)
    methods, unread_methods = _read(folder, Method)
    combinations, unread_combinations = _read(folder, Combination)
    knowledge = Knowledge(
        rules=beside.rules | {rule.id: rule for rule, _ in rules},
        methods=beside.methods | {method.id: method for method, _ in methods},
        combinations=beside.combinations | {entry.id: entry for entry, _ in combinations},
    )
    errors = [*unread, *unread_methods, *unread_combinations, *_not_read(folder)]
    for rule, source in rules:
        faults = [*check_rule(rule, source, knowledge), *_in_rule(rule, source, knowledge)]
        errors += faults or _without_close_call(rule, source)
    for method, source in methods:
        errors += [*check_method(method, source, knowledge), *_in_method(method, source)]
    for combination, source in combinations:
        errors += [*check_combination(combination, source, knowledge)]
        errors += [*_in_combination(combination, source)]
    entries: list[tuple[Entry, Source]] = [*rules, *methods, *combinations]
    for entry, source in entries:
        if not ID.fullmatch(entry.id):
            errors.append(source.wrong("id", "has other than small letters, digits, - and _"))
        errors += [*_unfinished(source), *_repeated_keys(source)]
    errors += [*_twice(entries, beside), *_same_title(entries, knowledge)]
    problems = {Problem(error.file, error.line, error.message) for error in errors}
    problems |= {
        Problem(error.file, error.line, error.message, is_error=False)
        for error in (*_replaced(entries, beside), *_unadvised(methods, knowledge))
    }
    return Report(sorted(problems), len(rules), len(methods), len(combinations))


def _read(
    folder: Traversable, kind: type[_Entry]
) -> tuple[list[tuple[_Entry, Source]], list[KnowledgeError]]:
    entries, errors = [], []
    for file in entry_files(folder, kind):
        try:
            entries.append(read_entry(file, kind))
        except KnowledgeError as error:
            errors.append(error)
    return entries, errors


def _not_read(folder: Traversable) -> Iterator[KnowledgeError]:
    """Files that look like rules or methods but lie or are called so that nobody reads them."""
    for kind, name in FOLDERS.items():
        read = {str(file) for file in entry_files(folder, kind)}
        for file in _files(folder / name):
            if file.name.endswith((".yaml", ".yml")) and str(file) not in read:
                place = f"{name}/FOLDER/ID.yaml"
                yield KnowledgeError(f"is not read: it has to be {place}", str(file))


def _files(folder: Traversable) -> Iterator[Traversable]:
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.is_dir():
            yield from _files(entry)
        else:
            yield entry


def _in_rule(rule: Rule, source: Source, knowledge: Knowledge) -> Iterator[KnowledgeError]:
    yield from _blank(source, {"title": rule.title, "evidence": rule.evidence, "why": rule.why})
    yield from _in_thresholds(rule, source)
    yield from _in_fixtures(rule, source)
    yield from _in_evidence(rule, source)
    yield from _in_advice(rule, source, knowledge)
    if not rule.references:
        yield source.wrong("references", "name at least one source")
    for i, reference in enumerate(rule.references):
        yield from _blank(source, {f"references[{i}]": reference})


def _in_thresholds(rule: Rule, source: Source) -> Iterator[KnowledgeError]:
    used = {leaf.threshold for leaf in rule.when.comparisons()}
    for name, threshold in rule.thresholds.items():
        if not threshold.reason.strip():
            yield source.wrong(f"thresholds.{name}.reason", "is empty: say why this limit")
        if name not in used:
            yield source.wrong(f"thresholds.{name}", "is not used in `when`")


def _in_fixtures(rule: Rule, source: Source) -> Iterator[KnowledgeError]:
    for key, least in LEAST_FIXTURES.items():
        cases = getattr(rule.fixtures, key)
        if len(cases) < least:
            found = f"{plural(len(cases), 'case')}, at least {least} needed"
            yield source.wrong(f"fixtures.{key}", found)
        for i, case in enumerate(cases):
            for name, value in case.facts.items():
                if (message := _misfit(name, value)) is not None:
                    yield source.wrong(f"fixtures.{key}[{i}]", message, name)


def _without_close_call(rule: Rule, source: Source) -> Iterator[KnowledgeError]:
    """Whether no silent case is silent by little; numbers of things come no closer than one."""
    cases = [judge(rule, case.facts) for case in rule.fixtures.silent]
    compared = {leaf.fact for leaf in rule.when.comparisons() if leaf.threshold is not None}
    counts = all(unit_of(fact) == "count" for fact in compared if fact is not None)
    close = 0.5 if counts else CLOSE
    if compared and cases and not any(-case.margin <= close for case in cases):
        message = "none is just short of firing: say where the limit is by a case beside it"
        yield source.wrong("fixtures.silent", message)


def _misfit(name: str, value: Value) -> str | None:
    """Why a fact cannot have this value."""
    known = fact_name(name)
    if known is None:
        return f"no fact is called {name!r}"
    wanted = {"flag": bool, "text": str}.get(known.unit)
    fits = isinstance(value, wanted) if wanted else not isinstance(value, (bool, str))
    return None if fits else f"{name} is measured as {known.unit}, not {value!r}"


def _in_evidence(rule: Rule, source: Source) -> Iterator[KnowledgeError]:
    places = _PLACE.findall(rule.evidence)
    if not places:
        yield source.wrong("evidence", "shows no measured value; name one as {fact}")
    for name in places:
        if fact_name(name) is None:
            yield source.wrong("evidence", f"no fact is called {name!r}", name)


def _in_advice(rule: Rule, source: Source, knowledge: Knowledge) -> Iterator[KnowledgeError]:
    for key, names in (("advise", rule.advise), ("suppressed_by", rule.suppressed_by)):
        yield from _repeated(source, key, names)
    known = [knowledge.methods[name] for name in rule.advise if name in knowledge.methods]
    if not rule.advise:
        yield source.wrong("advise", "names no method")
    elif (
        rule.cause in CAUSES
        and len(known) == len(rule.advise)
        and not any(rule.cause in method.helps for method in known)
    ):
        yield source.wrong("advise", f"none of these methods helps {rule.cause}")
    for name in rule.suppressed_by:
        other = knowledge.rules.get(name)
        if name == rule.id:
            yield source.wrong("suppressed_by", "a rule is not its own root", name)
        elif other is not None and rule.id in other.suppressed_by:
            yield source.wrong("suppressed_by", f"{name} names this rule as its root too", name)


def _in_method(method: Method, source: Source) -> Iterator[KnowledgeError]:
    texts = {
        "name": method.name,
        "summary": method.summary,
        "how_to": method.how_to,
        "quality_risk": method.quality_risk,
        "when_not": method.when_not,
        "effect.text": method.effect.text,
        "effect.source": method.effect.source,
    }
    yield from _blank(source, texts)
    lists: dict[str, Sequence[str]] = {
        "actions": method.actions,
        "helps": method.helps,
        "loads": method.loads,
        "conflicts_with": method.conflicts_with,
    }
    for key, names in lists.items():
        yield from _repeated(source, key, names)
        if not names and key in ("actions", "helps"):
            yield source.wrong(key, "is empty")
    for cause in method.helps:
        if cause in method.loads:
            yield source.wrong("loads", f"{cause} stands in `helps` too", cause)
    if method.id in method.conflicts_with:
        yield source.wrong("conflicts_with", "a method does not conflict with itself", method.id)
    yield from _in_cost(method, source)
    yield from _in_predictor(method, source)
    yield from _in_code(method, source)
    yield from _in_citations(method, source)


def _in_cost(method: Method, source: Source) -> Iterator[KnowledgeError]:
    algorithmic = method.kind == "algorithmic"
    if algorithmic and method.cost is None:
        yield source.wrong(
            "kind", "is algorithmic: say under `cost` what becomes of time and steps"
        )
    if not algorithmic and method.cost is not None:
        yield source.wrong("cost", f"belongs to algorithmic methods; this one is {method.kind}")
    if method.cost is not None and method.cost.step == "longer" and not method.loads:
        yield source.wrong("loads", "is empty, but `cost` says that a step gets longer")


def _in_combination(combination: Combination, source: Source) -> Iterator[KnowledgeError]:
    yield from _blank(
        source,
        {"title": combination.title, "why": combination.why, "source": combination.source},
    )
    both = [*combination.methods, *combination.partners]
    yield from _repeated(source, "methods", both)
    if len(both) < 2 or not combination.methods:
        yield source.wrong("methods", "names too few methods to combine")
    directed = combination.relation in ("ordered", "paired", "harmful")
    if directed != bool(combination.partners):
        needs = "needs" if directed else "takes no"
        yield source.wrong("relation", f"`{combination.relation}` {needs} `partners`")


def _in_predictor(method: Method, source: Source) -> Iterator[KnowledgeError]:
    predictor = method.predictor
    if predictor.name in NEED_CAUSES and not predictor.causes:
        yield source.wrong("predictor", f"`{predictor.name}` needs `causes`")
    if predictor.name not in NEED_CAUSES and predictor.causes:
        yield source.wrong("predictor", f"`{predictor.name}` takes no `causes`")
    for cause in predictor.causes:
        if cause in CAUSES and cause not in method.helps:
            yield source.wrong("predictor", f"{cause} does not stand in `helps`", cause)


def _in_code(method: Method, source: Source) -> Iterator[KnowledgeError]:
    try:
        ast.parse(method.how_to)
    except SyntaxError as error:
        line = source.line_of("how_to") + (error.lineno or 0)
        yield source.error(line, f"`how_to`: is not Python: {error.msg}")
    except ValueError as error:
        yield source.wrong("how_to", f"is not Python: {error}")


def _in_citations(method: Method, source: Source) -> Iterator[KnowledgeError]:
    if method.effect.provenance == "P" and not method.citations:
        yield source.wrong("citations", "the effect is said to come from a paper; cite it")
    for i, citation in enumerate(method.citations):
        key = f"citations[{i}]"
        yield from _blank(source, {f"{key}.title": citation.title})
        if citation.arxiv is None and citation.url is None:
            yield source.wrong(key, "has neither `arxiv` nor `url`")
        if citation.arxiv is not None and not _ARXIV.fullmatch(citation.arxiv):
            message = f"{citation.arxiv!r} is no number such as 2210.06640"
            yield source.wrong(f"{key}.arxiv", message)
        if citation.url is not None and not citation.url.startswith(("https://", "http://")):
            yield source.wrong(f"{key}.url", f"{citation.url!r} is no address")


def _blank(source: Source, texts: dict[str, str]) -> Iterator[KnowledgeError]:
    for key, text in texts.items():
        if not text.strip():
            yield source.wrong(key, "is empty")


def _repeated(source: Source, key: str, names: Sequence[str]) -> Iterator[KnowledgeError]:
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield source.wrong(key, f"names {name} more than once", name)


def _repeated_keys(source: Source) -> Iterator[KnowledgeError]:
    """Keys that stand twice in one mapping: YAML silently takes the last."""
    nodes = [source.tree()]
    while nodes:
        node = nodes.pop()
        if isinstance(node, yaml.SequenceNode):
            nodes += node.value
        if not isinstance(node, yaml.MappingNode):
            continue
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                message = f"`{key.value}`: stands here a second time"
                yield source.error(key.start_mark.line + 1, message)
            seen.add(key.value)
            nodes.append(value)


def _unfinished(source: Source) -> Iterator[KnowledgeError]:
    for number, line in enumerate(source.text.splitlines(), 1):
        if _TODO.search(line):
            yield source.error(number, f"is unfinished: {line.strip()}")


def _twice(entries: Iterable[tuple[Entry, Source]], beside: Knowledge) -> Iterator[KnowledgeError]:
    first: dict[str, Source] = {}
    for entry, source in entries:
        other = first.setdefault(entry.id, source)
        if other is source and not _replaces(entry, beside):
            other = beside.sources.get(entry.id, source)
        if other is not source:
            yield source.wrong("id", f"{entry.id!r} is also the id of {other.file}")


def _replaces(entry: Entry, beside: Knowledge) -> bool:
    return entry.id in _alike(entry, beside)


def _alike(entry: Entry, knowledge: Knowledge) -> Mapping[str, Entry]:
    """Entries of the same kind."""
    if isinstance(entry, Rule):
        return knowledge.rules
    return knowledge.methods if isinstance(entry, Method) else knowledge.combinations


def _same_title(
    entries: Iterable[tuple[Entry, Source]], knowledge: Knowledge
) -> Iterator[KnowledgeError]:
    others: dict[str, str] = {}
    everything: list[Entry] = [
        *knowledge.rules.values(),
        *knowledge.methods.values(),
        *knowledge.combinations.values(),
    ]
    for known in everything:
        others.setdefault(_title(known).casefold(), known.id)
    for entry, source in entries:
        other = others.get(_title(entry).casefold(), entry.id)
        if other != entry.id:
            key = "name" if isinstance(entry, Method) else "title"
            yield source.wrong(key, f"{other} is called the same")


def _title(entry: Entry) -> str:
    return entry.name if isinstance(entry, Method) else entry.title


def _replaced(
    entries: Iterable[tuple[Entry, Source]], beside: Knowledge
) -> Iterator[KnowledgeError]:
    for entry, source in entries:
        other = beside.sources.get(entry.id, source)
        if _replaces(entry, beside) and other.text != source.text:
            yield source.wrong("id", f"replaces {other.file}")


def _unadvised(
    methods: Iterable[tuple[Method, Source]], knowledge: Knowledge
) -> Iterator[KnowledgeError]:
    advised = {name for rule in knowledge.rules.values() for name in rule.advise}
    for method, source in methods:
        if method.id not in advised:
            yield source.wrong("id", f"no rule advises {method.id}")
