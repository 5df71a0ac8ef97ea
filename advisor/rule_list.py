"""The catalogue as a list that can be narrowed down: `advise rules list`."""

from __future__ import annotations

from typing import Literal, NamedTuple

from msgspec import Struct

from stepscope.advisor.knowledge import Combination, Knowledge
from stepscope.advisor.wording import category_of


class Entry(Struct):
    """One line of the list; what only methods have is None or empty for the others."""

    id: str
    kind: Literal["rule", "method", "combination"]
    title: str
    causes: list[str]
    """The cause a rule sees, the causes a method or the methods of a combination help with."""
    component: str | None = None
    actions: list[str] = []
    mathematics: str | None = None
    """`exact`, `numerics` or `algorithmic`."""
    effort: str | None = None


class Filters(NamedTuple):
    """What an entry has to be; None is anything."""

    kind: str | None = None
    category: str | None = None
    component: str | None = None
    action: str | None = None
    effort: str | None = None

    def match(self, entry: Entry) -> bool:
        """Whether an entry is all that."""
        categories = {category_of(cause) for cause in entry.causes}
        return (
            self.kind in (None, entry.kind)
            and (self.category is None or self.category in categories)
            and self.component in (None, entry.component)
            and (self.action is None or self.action in entry.actions)
            and self.effort in (None, entry.effort)
        )


def entries_of(knowledge: Knowledge, filters: Filters) -> list[Entry]:
    """Rules, methods, combinations, in the order of their files."""
    rules = [Entry(rule.id, "rule", rule.title, [rule.cause]) for rule in knowledge.rules.values()]
    methods = [
        Entry(
            id=method.id,
            kind="method",
            title=method.name,
            causes=method.helps,
            component=method.component,
            actions=list(method.actions),
            mathematics=method.kind,
            effort=method.effort,
        )
        for method in knowledge.methods.values()
    ]
    combinations = [
        Entry(each.id, "combination", each.title, _helped(each, knowledge))
        for each in knowledge.combinations.values()
    ]
    return [entry for entry in (*rules, *methods, *combinations) if filters.match(entry)]


def _helped(combination: Combination, knowledge: Knowledge) -> list[str]:
    methods = [knowledge.methods[name] for name in combination.methods]
    return list(dict.fromkeys(cause for method in methods for cause in method.helps))
