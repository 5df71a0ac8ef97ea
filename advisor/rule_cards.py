"""All there is to say about one rule, method or combination, for a terminal or a page."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

from stepscope.advisor import rule_words, wording
from stepscope.advisor.knowledge import Citation, Combination, Condition, Knowledge, Method, Rule

_URL = r"https?://[\w.~:/?#@!$&*+,;=%()-]+[\w/]"  # nothing that a terminal or a page acts on
_LINK = re.compile(rf"(?P<url>{_URL})|\barXiv:(?P<arxiv>\d{{4}}\.\d{{4,5}})", re.IGNORECASE)


class Item(NamedTuple):
    """A line, with what it points to."""

    text: str
    url: str = ""
    entry: str = ""
    """Or the id of the rule or method it names."""


class Section(NamedTuple):
    """A heading with what stands under it."""

    heading: str
    items: list[Item]
    form: Literal["text", "list", "code"] = "text"


class Card(NamedTuple):
    """A rule, a method or a combination."""

    id: str
    kind: Literal["rule", "method", "combination"]
    title: str
    tags: str
    """Its place in the catalogue in one line."""
    sections: list[Section]


def rule_card(rule: Rule, knowledge: Knowledge) -> Card:
    """A rule with the methods it advises."""
    fixtures = rule.fixtures
    counts = (
        f"{len(fixtures.fires)} in which it fires, {len(fixtures.silent)} in which it is silent, "
        f"{len(fixtures.unknown)} in which too little is known"
    )
    sections = [
        _text("What goes on", rule.why),
        _list("Fires when", _joined(rule_words.clauses(rule.when, rule.thresholds))),
        _list("Limits", rule_words.thresholds_of(rule)),
        _text("Evidence it shows", rule.evidence),
        _entries("Advises", [(name, knowledge.methods[name].name) for name in rule.advise]),
        _entries(
            "Only a symptom where one of these fires too",
            [(name, knowledge.rules[name].title) for name in rule.suppressed_by],
        ),
        _text("Its own test cases", counts),
        Section("References", [_reference(text) for text in rule.references], "list"),
    ]
    place = f"{wording.category_label(rule.cause)}: {wording.cause_label(rule.cause)}"
    tags = f"rule, {place} ({rule.cause})"
    return Card(rule.id, "rule", rule.title, tags, _filled(sections))


def method_card(method: Method, knowledge: Knowledge) -> Card:
    """A method with the rules that advise it."""
    advised_by = [rule for rule in knowledge.rules.values() if method.id in rule.advise]
    effect = method.effect
    reported = f"{effect.text} Source: {effect.source} ({wording.provenance(effect.provenance)})."
    together = [
        c for c in knowledge.combinations.values() if method.id in (*c.methods, *c.partners)
    ]
    conflicts = [(name, knowledge.methods[name].name) for name in method.conflicts_with]
    sections = [
        _text("What it does", method.summary),
        _text("Mathematics", wording.KINDS[method.kind]),
        _list("Helps with", rule_words.causes_by_category(method.helps)),
        _list("Adds to", rule_words.causes_by_category(method.loads)),
        _condition("Possible where", method.requires),
        _condition("Already on where", method.already_on),
        _text("Training time", _cost(method)),
        _entries("Not together with", conflicts),
        _entries(
            "Together with others",
            [(c.id, f"{c.title} ({wording.RELATIONS[c.relation]})") for c in together],
        ),
        _text("Predicted gain", rule_words.predictor(method.predictor)),
        Section("How", [Item(method.how_to)], "code"),
        _text("Test it", method.try_command or ""),
        _text("Effort", method.effort),
        _text("Risk", method.quality_risk),
        _text("When not", method.when_not),
        _text("What others report", reported),
        _text("Where we have it from", wording.provenance(method.provenance)),
        _list("Remarks", _remarks(method)),
        _entries("Advised by", [(rule.id, rule.title) for rule in advised_by]),
        Section("Citations", [_citation(cited) for cited in method.citations], "list"),
    ]
    actions = ", ".join(method.actions)
    tags = f"method, {method.component} ({method.subcomponent}), {actions}, {method.kind}"
    return Card(method.id, "method", method.name, tags, _filled(sections))


def _cost(method: Method) -> str:
    if method.cost is None:
        return ""
    step, steps = _STEP[method.cost.step], _STEPS[method.cost.steps]
    return f"Time per step times number of steps: {step}, {steps} to the same quality."


_STEP = {
    "shorter": "a step gets shorter",
    "as long": "a step takes as long as before",
    "longer": "a step gets longer where what it adds to is short",
}
_STEPS = {"fewer": "fewer steps", "as many": "as many steps", "more": "more steps"}


def combination_card(combination: Combination, knowledge: Knowledge) -> Card:
    """What is known of some methods together."""

    def named(methods: list[str]) -> list[tuple[str, str]]:
        return [(name, knowledge.methods[name].name) for name in methods]

    sections = [
        _text("Why", combination.why),
        _entries("These" if combination.partners else "Any of these", named(combination.methods)),
        _entries(_PARTNERS.get(combination.relation, "With these"), named(combination.partners)),
        _text("Source", combination.source),
        _text("Where we have it from", wording.provenance(combination.provenance)),
    ]
    tags = f"combination, {wording.RELATIONS[combination.relation]}"
    return Card(combination.id, "combination", combination.title, tags, _filled(sections))


_PARTNERS = {"ordered": "Before these", "paired": "Beside these", "harmful": "Spoil these"}


def cards_of(name: str, knowledge: Knowledge) -> list[Card]:
    """The rule, the method and the combination of that id, as far as there are any."""
    cards = []
    if name in knowledge.rules:
        cards.append(rule_card(knowledge.rules[name], knowledge))
    if name in knowledge.methods:
        cards.append(method_card(knowledge.methods[name], knowledge))
    if name in knowledge.combinations:
        cards.append(combination_card(knowledge.combinations[name], knowledge))
    return cards


def _remarks(method: Method) -> list[str]:
    remarks = []
    if method.outside:
        remarks.append("Acts on the machine, not on the program: no part of the plan.")
    if method.tempting:
        remarks.append("Popular: the report says so where it would be useless.")
    return remarks


def _joined(words: list[str]) -> list[str]:
    """Clauses that must all hold; each but the last ends in `and`."""
    return [f"{clause}, and" for clause in words[:-1]] + words[-1:]


def _condition(heading: str, condition: Condition | None) -> Section:
    return _list(heading, _joined(rule_words.clauses(condition, {})) if condition else [])


def _text(heading: str, text: str) -> Section:
    return Section(heading, [Item(text)] if text.strip() else [])


def _list(heading: str, texts: Iterable[str]) -> Section:
    return Section(heading, [Item(text) for text in texts], "list")


def _entries(heading: str, named: Iterable[tuple[str, str]]) -> Section:
    return Section(heading, [Item(title, entry=name) for name, title in named], "list")


def _filled(sections: Iterable[Section]) -> list[Section]:
    return [section for section in sections if section.items]


def _reference(text: str) -> Item:
    link = _LINK.search(text)
    if link is None:
        return Item(text)
    return Item(text, link["url"] or f"https://arxiv.org/abs/{link['arxiv']}")


def _citation(cited: Citation) -> Item:
    if cited.arxiv is not None:
        return _reference(f"{cited.title}, arXiv:{cited.arxiv}")
    return _reference(f"{cited.title}, {cited.url}" if cited.url else cited.title)
