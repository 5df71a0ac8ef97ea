"""Rules and methods on a terminal: the list, and everything about one."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.style import Style
from rich.syntax import Syntax
from rich.table import Table

from stepscope.advisor import rule_words, wording
from stepscope.advisor.rule_cards import Card, Item, Section
from stepscope.advisor.rule_list import Entry
from stepscope.advisor.terminal import Writer


def print_list(entries: Sequence[Entry], console: Console) -> None:
    """One row for each, and how many there are; at most 100 columns."""
    writer = Writer(console)
    if entries:
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
        table.add_column("id", no_wrap=True)
        for column in ("title", "cause, or what it helps", "kind"):
            table.add_column(column)
        for entry in entries:
            kind = f"{entry.kind}, {entry.mathematics}" if entry.mathematics else entry.kind
            causes = "; ".join(rule_words.causes_by_category(entry.causes))
            table.add_row(*map(writer.text, (entry.id, entry.title, causes, kind)))
        console.print(table, width=writer.width)
        console.print()
    writer.line(counted(entries))


def counted(entries: Sequence[Entry]) -> str:
    """`32 rules, 63 methods, 9 combinations`."""
    kinds = [entry.kind for entry in entries]
    return ", ".join(
        wording.plural(kinds.count(kind), kind) for kind in ("rule", "method", "combination")
    )


def print_card(card: Card, console: Console) -> None:
    """A rule or method with all its sections."""
    writer = Writer(console)
    writer.line(card.title, "bold")
    writer.line(f"{card.id}: {card.tags}", "dim")
    for section in card.sections:
        writer.heading(section.heading)
        _print_section(writer, section)


def _print_section(writer: Writer, section: Section) -> None:
    for item in section.items:
        if section.form == "code":
            _print_code(writer, item.text)
        elif section.form == "list":
            text = writer.text(f"{item.entry}: {item.text}" if item.entry else item.text)
            text.stylize(_link(item))
            writer.item("-", text)
        else:
            writer.indented(item.text)


def _link(item: Item) -> Style:
    return Style(link=item.url) if item.url else Style()


def _print_code(writer: Writer, code: str) -> None:
    """Not indented and not wrapped: code is copied."""
    lines = code.expandtabs(4).strip("\n").splitlines()
    shown = "\n".join("".join(filter(str.isprintable, line)) for line in lines)
    if writer.ascii:
        shown = shown.encode("ascii", "replace").decode("ascii")
    syntax = Syntax(shown, "python", theme="ansi_dark", background_color="default")
    text = syntax.highlight(shown)
    text.rstrip()
    writer.console.print(text, soft_wrap=True)
