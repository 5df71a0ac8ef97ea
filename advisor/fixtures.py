"""Rules against the fixtures they carry: `advise rules test`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from stepscope.advisor import wording
from stepscope.advisor.engine import Judgement, Truth, judge
from stepscope.advisor.knowledge import Case, Knowledge, Rule

_EXPECTED: dict[str, Truth] = {"fires": True, "silent": False, "unknown": None}
_SHOULD = {True: "should fire", False: "should be silent", None: "should not be decidable"}
_DOES = {True: "fires", False: "is silent", None: "cannot be decided"}


class Fixture(NamedTuple):
    """Facts for which a rule says itself what becomes of it."""

    rule: Rule
    key: str
    """Its place in the rule's file, e.g. `fixtures.fires[0]`."""
    case: Case
    expected: Truth

    def run(self) -> Judgement:
        """What becomes of the rule, with its own thresholds."""
        return judge(self.rule, self.case.facts)


class Failure(NamedTuple):
    """A fixture whose rule does something else."""

    fixture: Fixture
    found: Judgement
    place: str
    """File and line."""

    def __str__(self) -> str:
        fixture, found = self.fixture, self.found
        note = f" ({wording.one_line(fixture.case.note)})" if fixture.case.note else ""
        margin = "" if found.truth is None else f", margin {wording.share(found.margin)}"
        return (
            f"{self.place}: `{fixture.key}`: {fixture.rule.id} {_SHOULD[fixture.expected]}{note}, "
            f"but {_DOES[found.truth]}: {found.deciding}{margin}"
        )


def fixtures_of(knowledge: Knowledge) -> Iterator[Fixture]:
    """The fixtures of every rule, in the order of the files."""
    for rule in knowledge.rules.values():
        for name, expected in _EXPECTED.items():
            for i, case in enumerate(getattr(rule.fixtures, name)):
                yield Fixture(rule, f"fixtures.{name}[{i}]", case, expected)


def failures_of(knowledge: Knowledge) -> Iterator[Failure]:
    """Those that do not come out as they say."""
    for fixture in fixtures_of(knowledge):
        found = fixture.run()
        if found.truth is not fixture.expected:
            source = knowledge.sources[fixture.rule.id]
            place = f"{source.file}:{source.line_of(fixture.key)}"
            yield Failure(fixture, found, place)
