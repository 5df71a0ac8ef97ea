"""The catalogue as Markdown pages: `advise rules docs`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import get_args, get_type_hints

from stepscope.advisor import wording
from stepscope.advisor.causes import CATEGORIES, CAUSES
from stepscope.advisor.fact_names import FACTS
from stepscope.advisor.knowledge import Knowledge, Method
from stepscope.advisor.markdown import bullets, escaped, fenced
from stepscope.advisor.rule_cards import (
    Card,
    Item,
    Section,
    combination_card,
    method_card,
    rule_card,
)
from stepscope.profiler.storage import write_atomically

_MARK = "<!-- Written by `advise rules docs` from the rule files: do not edit. -->"
INDEX, FACT_PAGE = "README.md", "facts.md"
_COLUMNS = ["Cause", "Rules", "Methods, the mathematics as it is", "Methods that change it"]


def pages_of(knowledge: Knowledge) -> dict[str, str]:
    """Every page by its path, which has `/` whatever the system."""
    cards = [
        *(rule_card(rule, knowledge) for rule in knowledge.rules.values()),
        *(method_card(method, knowledge) for method in knowledge.methods.values()),
        *(combination_card(each, knowledge) for each in knowledge.combinations.values()),
    ]
    paths = {card.id: _path(card) for card in cards}
    pages = {_path(card): _page(card, paths) for card in cards}
    return {INDEX: _index(knowledge, cards, paths), FACT_PAGE: _facts(), **pages}


def write_pages(pages: dict[str, str], folder: Path) -> None:
    """Write pages where they differ, and delete those of an earlier call that are none any more.

    Raises:
        OSError: the folder cannot be written.
    """
    for name, text in pages.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != text.encode():
            write_atomically(path, text.encode())
    for path in folder.rglob("*.md"):
        gone = path.relative_to(folder).as_posix() not in pages
        if gone and path.is_file() and path.read_bytes().startswith(_MARK.encode()):
            path.unlink()


def _path(card: Card) -> str:
    return f"{card.kind}s/{card.id}.md"


def _page(card: Card, paths: dict[str, str]) -> str:
    parts = [f"# {escaped(card.title)}", f"`{card.id}`: {escaped(card.tags)}"]
    for section in card.sections:
        parts += [f"## {section.heading}", _section(section, paths)]
    return _document([*parts, f"[All rules and methods](../{INDEX})"])


def _section(section: Section, paths: dict[str, str]) -> str:
    if section.form == "code":
        return "\n\n".join(fenced(item.text) for item in section.items)
    texts = [_item(item, paths) for item in section.items]
    return bullets(texts) if section.form == "list" else "\n\n".join(texts)


def _item(item: Item, paths: dict[str, str]) -> str:
    text = escaped(item.text)
    if item.entry:
        return f"[{text}](../{paths[item.entry]}) (`{item.entry}`)"
    return f"[{text}](<{item.url}>)" if item.url else text


def _index(knowledge: Knowledge, cards: list[Card], paths: dict[str, str]) -> str:
    rules, methods = knowledge.rules.values(), knowledge.methods.values()
    parts = [
        "# What stepscope knows",
        f"{wording.plural(len(rules), 'rule')} that see a bottleneck and "
        f"{wording.plural(len(methods), 'method')} that relieve one, and "
        f"{wording.plural(len(knowledge.combinations), 'combination')} that say what methods do "
        "to each other. A rule compares "
        f"[measured facts]({FACT_PAGE}) with limits; `advise rules new` begins one of your own.",
        "## By bottleneck",
    ]
    for category, label in CATEGORIES.items():
        rows = []
        for cause in CAUSES.values():
            if cause.category == category:
                seen = _links((r.id for r in rules if r.cause == cause.id), paths)
                helping = [method for method in methods if cause.id in method.helps]
                exact = _links((m.id for m in helping if m.kind == "exact"), paths)
                others = _links((m.id for m in helping if m.kind != "exact"), paths)
                rows.append([f"{escaped(cause.label)} (`{cause.id}`)", seen, exact, others])
        parts += [f"### {label}", _table(_COLUMNS, rows)]
    parts += ["## By action and component", _actions(list(methods), paths)]
    for kind in ("rule", "method", "combination"):
        lines = [
            f"[{escaped(card.title)}]({paths[card.id]}) (`{card.id}`)"
            for card in sorted(cards, key=lambda card: card.id)
            if card.kind == kind
        ]
        parts += [f"## All {kind}s", bullets(lines)]
    return _document(parts)


def _actions(methods: list[Method], paths: dict[str, str]) -> str:
    """The survey's table: what a method does to which part of training."""
    hints = get_type_hints(Method)
    components = get_args(hints["component"])
    actions = get_args(get_args(hints["actions"])[0])
    rows = [
        [
            f"**{action}**",
            *(
                _links(
                    (m.id for m in methods if m.component == component and action in m.actions),
                    paths,
                )
                for component in components
            ),
        ]
        for action in actions
    ]
    return _table(["", *components], rows)


def _links(names: Iterable[str], paths: dict[str, str]) -> str:
    return ", ".join(f"[{name}]({paths[name]})" for name in sorted(names)) or "-"


def _facts() -> str:
    rows = [
        [f"`{name}`", known.unit, escaped(known.meaning)] for name, known in sorted(FACTS.items())
    ]
    causes = [[f"`{cause.id}`", escaped(cause.label)] for cause in CAUSES.values()]
    return _document(
        [
            "# Facts",
            "What a rule may ask for. A fact that was not measured is absent, never zero: a "
            "comparison with it is undecided. `share` is a part of one, `s` are seconds.",
            "## Measured",
            _table(["Fact", "Unit", "Meaning"], rows),
            "## For every cause",
            "`share.CAUSE` is the part of the step that a cause takes, and `gain.CAUSE` the "
            "predicted speedup minus one if it were gone; both are shares.",
            _table(["Cause", "Where the time goes"], causes),
            f"[All rules and methods]({INDEX})",
        ]
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _document(parts: list[str]) -> str:
    return "\n\n".join([_MARK, *parts]) + "\n"
