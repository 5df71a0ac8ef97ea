"""Rules and methods as types: what a YAML file under `rules/` may say, and how it is read.

A detection rule compares facts with named thresholds; a method says what relieves a cause and
which predictor estimates its gain. There is no `eval`: a condition is a tree of comparisons.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from difflib import get_close_matches
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

import msgspec
import yaml
from msgspec import Struct, field

from stepscope.advisor.causes import CAUSES
from stepscope.advisor.fact_names import fact_name

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable  # Python 3.10 has it elsewhere

Value = bool | int | float | str
Draft = dict[str, Value | None]
"""Facts while they are gathered, by name; None was not measured."""
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class KnowledgeError(Exception):
    """A rule or method file that cannot be used; its text names file, line and key."""

    def __init__(self, message: str, file: str = "", line: int = 1) -> None:
        super().__init__(f"{file}:{line}: {message}" if file else message)
        self.message = message
        self.file = file
        self.line = line


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


class Source(NamedTuple):
    """What an entry was read from."""

    file: Traversable
    text: str

    def error(self, line: int, message: str) -> KnowledgeError:
        """An error that names the place."""
        return KnowledgeError(message, str(self.file), line)

    def wrong(self, key: str, message: str, name: str = "") -> KnowledgeError:
        """An error about `name` under `key`, a path such as `when.all[0].op`."""
        begin = self.line_of(key)
        lines = self.text.splitlines()[begin - 1 :]
        offset = next((i for i, line in enumerate(lines) if name in line), 0)
        return self.error(begin + offset, f"`{key}`: {message}")

    def line_of(self, path: str) -> int:
        """The line on which the key that `path` names stands, or the nearest one above it."""
        return _line_of(self.tree(), path)

    def tree(self) -> yaml.Node | None:
        """The document with the place of every key and value in it."""
        node: yaml.Node | None = yaml.compose(self.text, Loader=_Loader)
        return node


class Knowledge(Struct):
    """All rules and methods, by id, in the order of their files."""

    rules: dict[str, Rule]
    methods: dict[str, Method]
    sources: dict[str, Source] = {}
    """Where each was read from."""

    def threshold_names(self) -> set[str]:
        """Every name that `--set` accepts."""
        return {"healthy_gain", *(name for rule in self.rules.values() for name in rule.thresholds)}


def thresholds_like(name: str, known: set[str]) -> str:
    """What there is instead of a threshold that does not exist, in words."""
    near = get_close_matches(name, sorted(known), n=5, cutoff=0.0)
    return (
        f"there are {', '.join(near)} and {len(known) - len(near)} others, which "
        "`advise rules explain RULE` shows"
    )


def load_knowledge(extra: list[Path] | None = None) -> Knowledge:
    """Read the built-in files and those of `extra` folders (`detect/` and `methods/` inside).

    A file of a later folder replaces an earlier one of the same id.

    Raises:
        KnowledgeError: a file does not parse, does not fit, or names an unknown cause or method.
    """
    roots: list[Traversable] = [built_in(), *(extra or [])]
    for root in roots[1:]:
        if not root.is_dir():
            raise KnowledgeError(f"{root}: no such directory of rules")
    rules = {entry.id: (entry, s) for root in roots for entry, s in _read_all(root, Rule)}
    methods = {entry.id: (entry, s) for root in roots for entry, s in _read_all(root, Method)}
    knowledge = Knowledge(
        rules={name: rule for name, (rule, _) in rules.items()},
        methods={name: method for name, (method, _) in methods.items()},
        sources={name: source for name, (_, source) in [*rules.items(), *methods.items()]},
    )
    of_rules = (check_rule(rule, source, knowledge) for rule, source in rules.values())
    of_methods = (check_method(method, source, knowledge) for method, source in methods.values())
    error = next(chain.from_iterable(chain(of_rules, of_methods)), None)
    if error:
        raise error
    return knowledge


def built_in() -> Traversable:
    """The folder of the rules and methods that come with stepscope."""
    return files("stepscope.rules")


_Entry = TypeVar("_Entry", Rule, Method)
FOLDERS: dict[type[Rule | Method], str] = {Rule: "detect", Method: "methods"}
"""Where in a folder of rules the files of each kind lie, in folders of their own choice."""


def _read_all(root: Traversable, kind: type[_Entry]) -> Iterator[tuple[_Entry, Source]]:
    return (read_entry(file, kind) for file in entry_files(root, kind))


def entry_files(root: Traversable, kind: type[Rule | Method]) -> Iterator[Traversable]:
    """The files of one kind in a folder of rules, in order."""
    folder = root / FOLDERS[kind]
    if not folder.is_dir():
        return
    for group in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if group.is_dir():
            for file in sorted(group.iterdir(), key=lambda entry: entry.name):
                if file.name.endswith(".yaml"):
                    yield file


def read_entry(file: Traversable, kind: type[_Entry]) -> tuple[_Entry, Source]:
    """Read one rule or method; the names in it may still be unknown.

    Raises:
        KnowledgeError: the file does not parse, or does not fit its kind.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise KnowledgeError(f"cannot be read as UTF-8 text: {error}", str(file)) from None
    source = Source(file, text)
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
        line = source.line_of(f"{path}.{unknown[1]}".lstrip(".") if unknown else path)
        raise source.error(line, where + message) from None
    if entry.id != file.name.removesuffix(".yaml"):
        raise source.wrong("id", f"is {entry.id!r}, the file name says otherwise")
    return entry, source


_UNKNOWN_KEY = re.compile(r"unknown field `(.+)`")


def _line_of(node: yaml.Node | None, path: str) -> int:
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


def check_rule(rule: Rule, source: Source, knowledge: Knowledge) -> Iterator[KnowledgeError]:
    """What keeps a rule from being used."""
    yield from _unknown(source, "cause", [rule.cause], CAUSES)
    yield from _unknown(source, "advise", rule.advise, knowledge.methods)
    yield from _unknown(source, "suppressed_by", rule.suppressed_by, knowledge.rules)
    for leaf in rule.when.comparisons():
        if leaf.threshold is not None:
            yield from _unknown(source, "when", [leaf.threshold], rule.thresholds)
        yield from _wrong_in(leaf, source, "when")


def check_method(method: Method, source: Source, knowledge: Knowledge) -> Iterator[KnowledgeError]:
    """What keeps a method from being used."""
    yield from _unknown(source, "helps", method.helps, CAUSES)
    yield from _unknown(source, "loads", method.loads, CAUSES)
    yield from _unknown(source, "predictor", method.predictor.causes, CAUSES)
    yield from _unknown(source, "conflicts_with", method.conflicts_with, knowledge.methods)
    conditions = {"requires": method.requires, "already_on": method.already_on}
    for key, condition in conditions.items():
        for leaf in condition.comparisons() if condition else ():
            if leaf.threshold is not None:
                yield source.wrong(key, "a method has no thresholds", leaf.threshold)
            else:
                yield from _wrong_in(leaf, source, key)


def _unknown(
    source: Source, key: str, names: list[str], known: Container[str]
) -> Iterator[KnowledgeError]:
    for name in names:
        if name not in known:
            yield source.wrong(key, f"{name!r} does not exist", name)


def _wrong_in(leaf: Condition, source: Source, key: str) -> Iterator[KnowledgeError]:
    """Facts that do not exist, else values that cannot be compared."""
    assert leaf.fact is not None
    names = [name for name in (leaf.fact, leaf.other) if name is not None]
    unknown = [name for name in names if fact_name(name) is None]
    for name in unknown:
        yield source.wrong(key, f"no fact is called {name!r}", name)
    if unknown:
        return
    left = _kind_of(leaf.fact)
    right: type[Value | None] = float if leaf.threshold is not None else type(leaf.value)
    if leaf.other is not None:
        right = _kind_of(leaf.other)
    if left is not (float if right is int else right):
        yield source.wrong(key, f"{leaf.fact} is compared with another type", leaf.fact)
    if left is not float and leaf.op not in ("==", "!="):
        yield source.wrong(key, f"{leaf.fact} has no order, so not `{leaf.op}`", leaf.fact)


def _kind_of(name: str) -> type[Value | None]:
    known = fact_name(name)
    kinds: dict[str, type[Value | None]] = {"flag": bool, "text": str}
    return kinds.get(known.unit, float) if known else str
