"""The table that maps other advisors' conditions to our rules, against the rules that exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from stepscope.advisor.rule_files import load_knowledge

DOCUMENT = (Path(__file__).parents[2] / "docs" / "peer-rules.md").read_text(encoding="utf-8")
RULES = load_knowledge().rules
IDS = re.compile(r"`([a-z_]+)`")
MIN_CONDITIONS = 70
"""So many distinct conditions are in the other advisors' rules, at least."""


class Row(NamedTuple):
    """One condition of other advisors."""

    number: str
    condition: str
    tools: str
    rules: str
    remark: str

    @property
    def ids(self) -> list[str]:
        """The rules that cover it."""
        return IDS.findall(self.rules)


def rows_of(text: str) -> list[Row]:
    lines = [line for line in text.splitlines() if re.match(r"\| \d", line)]
    return [Row(*(cell.strip() for cell in line.strip("|").split("|"))) for line in lines]


ROWS = rows_of(DOCUMENT)

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.number)


def test_there_is_a_row_for_every_condition() -> None:
    assert len(ROWS) >= MIN_CONDITIONS
    assert [int(row.number) for row in ROWS] == list(range(1, len(ROWS) + 1))
    assert len({row.condition for row in ROWS}) == len(ROWS)


@every_row
def test_a_row_names_rules_that_exist_or_says_why_there_is_none(row: Row) -> None:
    assert row.condition
    assert [name for name in row.ids if name not in RULES] == []
    assert row.ids or row.remark
    assert IDS.sub("", row.rules).strip() == ""
    assert len(set(row.ids)) == len(row.ids)


@every_row
def test_a_row_names_tools_that_are_introduced(row: Row) -> None:
    introduced = DOCUMENT.partition("| # |")[0].partition("Tools:")[2]

    assert row.tools
    assert [tool for tool in row.tools.split() if not re.search(rf"\b{tool}\b", introduced)] == []


def test_rules_named_beside_the_table_exist() -> None:
    prose = "\n".join(line for line in DOCUMENT.splitlines() if not line.startswith("|"))

    assert {name for name in IDS.findall(prose) if "_" in name} <= set(RULES)


def test_most_conditions_are_covered() -> None:
    covered = [row for row in ROWS if row.ids]

    assert len(covered) >= 0.7 * len(ROWS)
