"""Rules and methods as types: what a YAML file under `rules/` may say, and how it is read.

A detection rule compares facts with named thresholds; a method says what relieves a cause and
which predictor estimates its gain. There is no `eval`: a condition is a tree of comparisons.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import msgspec
import yaml
from msgspec import Struct, field

from stepscope.advisor.causes import CAUSES
from stepscope.advisor.fact_names import fact_name

Value = bool | int | float | str
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class KnowledgeError(Exception):
    """A rule or method file that cannot be used; the message names file, line and key."""


class Condition(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A comparison of one fact, or a combination of conditions; exactly one form is used."""

    all: list[Condition] | None = None
    any: list[Condition] | None = None
    not_: Condition | None = field(default=None, name="not")
    fact: str | None = None
    op: Literal[">=", ">", "<=", "<", "==", "!="] | None = None
    value: Value | None = None
    """What the fact is compared with,"""
    threshold: str | None = None
    """or the name of a threshold of the rule,"""
    other: str | None = None
    """or another fact."""

    def __post_init__(self) -> None:
        """Reject a condition that is no form or several at once."""
        forms = [name for name in ("all", "any", "not_", "fact") if getattr(self, name) is not None]
        if len(forms) != 1:
            raise ValueError("a condition has exactly one of `all`, `any`, `not`, `fact`")
        operands = [x for x in (self.value, self.threshold, self.other) if x is not None]
        if forms == ["fact"] and (self.op is None or len(operands) != 1):
            raise ValueError("a comparison needs `op` and one of `value`, `threshold`, `other`")
        if forms != ["fact"] and (self.op is not None or operands):
            raise ValueError(f"`{forms[0]}` takes no `op` or operand")

    def comparisons(self) -> Iterator[Condition]:
        """Every leaf of this tree."""
        if self.fact is not None:
            yield self
        for child in [*(self.all or []), *(self.any or []), *([self.not_] if self.not_ else [])]:
            yield from child.comparisons()


class Threshold(Struct, forbid_unknown_fields=True):
    """A named limit: its default, and why that default."""

    default: float
    reason: str


class Case(Struct, forbid_unknown_fields=True):
    """Facts for which the outcome of a rule is known."""

    facts: dict[str, Value]
    note: str = ""


class Fixtures(Struct, forbid_unknown_fields=True):
    """A rule's own tests."""

    fires: list[Case]
    silent: list[Case]
    unknown: list[Case] = []
    """Facts too few to decide."""


class Rule(Struct, forbid_unknown_fields=True, kw_only=True):
    """One detection rule."""

    id: str
    title: str
    """States what is wrong, in the present tense."""
    cause: str
    when: Condition
    thresholds: dict[str, Threshold] = {}
    evidence: str
    """A sentence with `{fact}` places, filled with the measured values and their units."""
    why: str
    """What goes on, for someone who has not met it before."""
    advise: list[str]
    """Ids of methods, the most fitting first."""
    suppressed_by: list[str] = []
    """Rules that name the root of what this one sees."""
    references: list[str] = []
    fixtures: Fixtures


class Predictor(Struct, forbid_unknown_fields=True, kw_only=True):
    """Which function of `stepscope.advisor.predict` estimates the gain, with its arguments."""

    name: Literal[
        "remove",
        "at_most",
        "rarer",
        "workers",
        "serial",
        "smooth",
        "any_order",
        "threads",
        "fused_optimizer",
        "bf16",
        "literature",
    ]
    causes: list[str] = []


class Effect(Struct, forbid_unknown_fields=True):
    """What others report; shown beside our prediction, never used in it."""

    text: str
    source: str
    provenance: Literal["P", "S", "M", "F", "D"]
    """Paper, stored source, memory, field knowledge, derived."""


class Citation(Struct, forbid_unknown_fields=True):
    """A publication."""

    title: str
    arxiv: str | None = None
    url: str | None = None


class Method(Struct, forbid_unknown_fields=True, kw_only=True):
    """One entry of the catalogue: something that makes training faster."""

    id: str
    name: str
    """Imperative: what to do."""
    component: Literal["function", "data", "optimization", "systems"]
    subcomponent: str
    actions: list[Literal["remove", "restrict", "reorder", "replace", "retrofit"]]
    kind: Literal["exact", "numerics", "algorithmic"]
    """`exact` leaves the mathematics alone, `numerics` changes rounding, else `algorithmic`."""
    summary: str
    helps: list[str]
    loads: list[str] = []
    """Causes that get worse: not proposed while one of them is the bottleneck."""
    requires: Condition | None = None
    """Must hold for the method to be possible here; an absent fact does not forbid it."""
    already_on: Condition | None = None
    """Holds where the program does it already."""
    conflicts_with: list[str] = []
    outside: bool = False
    """Acts on the machine, not on the program: no part of the plan, no fault of the run."""
    tempting: bool = False
    """Popular enough that the report says so where it would be useless."""
    predictor: Predictor
    how_to: str
    """Python that runs."""
    try_command: str | None = None
    effort: Literal["minutes", "hours", "days"]
    quality_risk: str
    when_not: str
    effect: Effect
    citations: list[Citation] = []
    provenance: Literal["P", "S", "M", "F", "D"]


class Knowledge(Struct):
    """All rules and methods, by id, in the order of their files."""

    rules: dict[str, Rule]
    methods: dict[str, Method]

    def threshold_names(self) -> set[str]:
        """Every name that `--set` accepts."""
        return {"healthy_gain", *(name for rule in self.rules.values() for name in rule.thresholds)}


def load_knowledge(extra: list[Path] | None = None) -> Knowledge:
    """Read the built-in files and those of `extra` folders (`detect/` and `methods/` inside).

    A file of a later folder replaces an earlier one of the same id.

    Raises:
        KnowledgeError: a file does not parse, does not fit, or names an unknown cause or method.
    """
    roots: list[Traversable] = [files("stepscope.rules"), *(extra or [])]
    for root in roots[1:]:
        if not root.is_dir():
            raise KnowledgeError(f"{root}: no such directory of rules")
    rules = {
        entry.id: (entry, s) for root in roots for entry, s in _read_all(root / "detect", Rule)
    }
    methods = {
        entry.id: (entry, s) for root in roots for entry, s in _read_all(root / "methods", Method)
    }
    knowledge = Knowledge(
        rules={name: rule for name, (rule, _) in rules.items()},
        methods={name: method for name, (method, _) in methods.items()},
    )
    for rule, source in rules.values():
        _check_rule(rule, source, knowledge)
    for method, source in methods.values():
        _check_method(method, source, knowledge)
    return knowledge


class _Source(NamedTuple):
    """What an entry was read from."""

    file: Traversable
    text: str

    def error(self, line: int, message: str) -> KnowledgeError:
        """An error that names the place."""
        return KnowledgeError(f"{self.file}:{line}: {message}")

    def wrong(self, key: str, name: str, message: str) -> KnowledgeError:
        """An error about `name`, which stands under the top-level key `key`."""
        begin = _line_of(self.text, key)
        lines = self.text.splitlines()[begin - 1 :]
        offset = next((i for i, line in enumerate(lines) if name in line), 0)
        return self.error(begin + offset, f"`{key}`: {message}")


_Entry = TypeVar("_Entry", Rule, Method)


def _read_all(folder: Traversable, kind: type[_Entry]) -> Iterator[tuple[_Entry, _Source]]:
    if not folder.is_dir():
        return
    for group in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if group.is_dir():
            for file in sorted(group.iterdir(), key=lambda entry: entry.name):
                if file.name.endswith(".yaml"):
                    yield _read(file, kind)


def _read(file: Traversable, kind: type[_Entry]) -> tuple[_Entry, _Source]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise KnowledgeError(f"{file}:1: cannot be read as UTF-8 text: {error}") from None
    source = _Source(file, text)
    try:
        entry = msgspec.convert(yaml.load(text, Loader=_Loader), type=kind)  # safe
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
        line = _line_of(text, f"{path}.{unknown[1]}".lstrip(".") if unknown else path)
        raise source.error(line, where + message) from None
    if entry.id != file.name.removesuffix(".yaml"):
        raise source.wrong("id", entry.id, f"is {entry.id!r}, the file name says otherwise")
    return entry, source


_UNKNOWN_KEY = re.compile(r"unknown field `(.+)`")


def _line_of(text: str, path: str) -> int:
    """The line on which the key that `path` (as in `when.all[0].op`) names stands."""
    node = yaml.compose(text, Loader=_Loader)
    line = 1
    for part in path.replace("[", ".[").split("."):
        if isinstance(node, yaml.SequenceNode) and part.startswith("["):
            index = part.strip("[]")
            if not index.isdigit() or int(index) >= len(node.value):
                break
            node = node.value[int(index)]
        elif isinstance(node, yaml.MappingNode):
            match = [pair for pair in node.value if pair[0].value == part]
            if not match:
                break
            line = match[0][0].start_mark.line + 1
            node = match[0][1]
        else:
            break
        line = max(line, node.start_mark.line + 1) if part.startswith("[") else line
    return int(line)


def _check_rule(rule: Rule, source: _Source, knowledge: Knowledge) -> None:
    _check_known(source, "cause", [rule.cause], CAUSES)
    _check_known(source, "advise", rule.advise, knowledge.methods)
    _check_known(source, "suppressed_by", rule.suppressed_by, knowledge.rules)
    for leaf in rule.when.comparisons():
        if leaf.threshold is not None:
            _check_known(source, "when", [leaf.threshold], rule.thresholds)
        _check_comparison(source, "when", leaf)


def _check_method(method: Method, source: _Source, knowledge: Knowledge) -> None:
    _check_known(source, "helps", method.helps, CAUSES)
    _check_known(source, "loads", method.loads, CAUSES)
    _check_known(source, "predictor", method.predictor.causes, CAUSES)
    _check_known(source, "conflicts_with", method.conflicts_with, knowledge.methods)
    conditions = {"requires": method.requires, "already_on": method.already_on}
    for key, condition in conditions.items():
        for leaf in condition.comparisons() if condition else ():
            if leaf.threshold is not None:
                raise source.wrong(key, leaf.threshold, "a method has no thresholds")
            _check_comparison(source, key, leaf)


def _check_known(source: _Source, key: str, names: list[str], known: Container[str]) -> None:
    for name in names:
        if name not in known:
            raise source.wrong(key, name, f"{name!r} does not exist")


def _check_comparison(source: _Source, key: str, leaf: Condition) -> None:
    """The facts exist, and what is compared can be compared."""
    for name in (leaf.fact, leaf.other):
        if name is not None and fact_name(name) is None:
            raise source.wrong(key, name, f"no fact is called {name!r}")
    assert leaf.fact is not None
    left = _kind_of(leaf.fact)
    right: type[Value | None] = float if leaf.threshold is not None else type(leaf.value)
    if leaf.other is not None:
        right = _kind_of(leaf.other)
    if left is not (float if right is int else right):
        raise source.wrong(key, leaf.fact, f"{leaf.fact} is compared with another type")
    if left is not float and leaf.op not in ("==", "!="):
        raise source.wrong(key, leaf.fact, f"{leaf.fact} has no order, so not `{leaf.op}`")


def _kind_of(name: str) -> type[Value | None]:
    known = fact_name(name)
    kinds: dict[str, type[Value | None]] = {"flag": bool, "text": str}
    return kinds.get(known.unit, float) if known else str
