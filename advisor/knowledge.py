"""Rules and methods as types: what a YAML file under `rules/` may say.

A detection rule compares facts with named thresholds; a method says what relieves a cause and
which predictor estimates its gain; a combination says how methods go together. There is no
`eval`: a condition is a tree of comparisons.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from msgspec import Struct, field

from stepscope.advisor.advice import Effort, Kind, Relation

if TYPE_CHECKING:
    from stepscope.advisor.rule_source import Source

Value = bool | int | float | str
Draft = dict[str, Value | None]
"""Facts while they are gathered, by name; None was not measured."""
Provenance = Literal["P", "S", "M", "F", "D"]
"""Paper, stored source, memory, field knowledge, derived."""


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
        "overlap",
        "rarer",
        "workers",
        "serial",
        "smooth",
        "any_order",
        "threads",
        "fewer_threads",
        "fused_optimizer",
        "bf16",
        "compile",
        "clock",
        "link",
        "even_links",
        "joined_messages",
        "no_pickles",
        "no_barriers",
        "literature",
    ]
    causes: list[str] = []


class Effect(Struct, forbid_unknown_fields=True):
    """What others report; shown beside our prediction, never used in it."""

    text: str
    source: str
    provenance: Provenance


class Citation(Struct, forbid_unknown_fields=True):
    """A publication."""

    title: str
    arxiv: str | None = None
    url: str | None = None


class Cost(Struct, forbid_unknown_fields=True, kw_only=True):
    """What a method does to the two factors of training time: time per step, number of steps."""

    step: Literal["shorter", "as long", "longer"]
    steps: Literal["fewer", "as many", "more"]
    """To the same quality."""


class Method(Struct, forbid_unknown_fields=True, kw_only=True):
    """One entry of the catalogue: something that makes training faster."""

    id: str
    name: str
    """Imperative: what to do."""
    component: Literal["function", "data", "optimization", "systems"]
    subcomponent: str
    actions: list[Literal["remove", "restrict", "reorder", "replace", "retrofit"]]
    kind: Kind
    """`exact` leaves the mathematics alone, `numerics` changes rounding, else `algorithmic`."""
    summary: str
    helps: list[str]
    loads: list[str] = []
    """Causes that get worse: not proposed while one of them is the bottleneck."""
    cost: Cost | None = None
    """Of an algorithmic method; any other changes the time of a step and no number of steps."""
    requires: Condition | None = None
    """Must hold for the method to be possible here; an absent fact does not forbid it."""
    already_on: Condition | None = None
    """Holds where the program does it already."""
    conflicts_with: list[str] = []
    """Methods that make no sense beside it; said on one side, it holds on both."""
    outside: bool = False
    """Acts on the machine, not on the program: no part of the plan, no fault of the run."""
    tempting: bool = False
    """Popular enough that the report says so where it would be useless."""
    predictor: Predictor
    how_to: str
    """Python that runs."""
    try_command: str | None = None
    effort: Effort
    quality_risk: str
    when_not: str
    effect: Effect
    citations: list[Citation] = []
    provenance: Provenance


class Combination(Struct, forbid_unknown_fields=True, kw_only=True):
    """What happens when methods are used together."""

    id: str
    title: str
    relation: Relation
    """`exclusive`: they do the same job, so only the best is proposed; `overlapping`: together
    they gain less than the product; `ordered`: methods first, then partners; `paired`: each makes
    room for the other; `harmful`: a method spoils a partner."""
    methods: list[str]
    partners: list[str] = []
    """Unless empty, it holds between each of `methods` and each of these, else among `methods`."""
    why: str
    source: str
    provenance: Provenance


class Knowledge(Struct):
    """All rules, methods and combinations, by id, in the order of their files."""

    rules: dict[str, Rule]
    methods: dict[str, Method]
    combinations: dict[str, Combination] = {}
    sources: dict[str, Source] = {}
    """Where each was read from."""

    def __post_init__(self) -> None:
        """See to it that who is excluded excludes in turn."""
        for method in self.methods.values():
            for name in method.conflicts_with:
                other = self.methods.get(name)
                if other is not None and method.id not in other.conflicts_with:
                    other.conflicts_with = [*other.conflicts_with, method.id]

    def rivals(self, method: str) -> list[str]:
        """Methods that do the same job as `method`."""
        groups = [c.methods for c in self.combinations.values() if c.relation == "exclusive"]
        found = (name for group in groups if method in group for name in group)
        return [name for name in dict.fromkeys(found) if name != method]

    def excluded(self, method: str) -> set[str]:
        """Methods that are out of the question once `method` is taken."""
        return {method, *self.methods[method].conflicts_with, *self.rivals(method)}

    def threshold_names(self) -> set[str]:
        """Every name that `--set` accepts."""
        return {"healthy_gain", *(name for rule in self.rules.values() for name in rule.thresholds)}


def thresholds_like(name: str, known: set[str]) -> str:
    """What there is instead of a threshold that does not exist, in words."""
    from difflib import get_close_matches  # noqa: PLC0415  # only a mistake needs it

    near = get_close_matches(name, sorted(known), n=5, cutoff=0.0)
    return (
        f"there are {', '.join(near)} and {len(known) - len(near)} others, which "
        "`advise rules explain RULE` shows"
    )
