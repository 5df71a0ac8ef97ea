"""One CSV file for each table, for spreadsheets and scripts."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from stepscope.advisor.export.judged import judged
from stepscope.advisor.export.registry import Format
from stepscope.advisor.export.sources import Source
from stepscope.advisor.export.struct_columns import Cell
from stepscope.advisor.export.tables import TABLES

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def _names(sources: Sequence[Source]) -> list[str]:
    return [f"{table.name}.csv" for table in TABLES]


def _write(sources: Sequence[Source], paths: list[Path]) -> None:
    with ExitStack() as stack:
        writers = []
        for table, path in zip(TABLES, paths, strict=True):
            file = stack.enter_context(
                path.open("w", encoding="utf-8", errors="replace", newline="")
            )
            writers.append(csv.writer(file))
            writers[-1].writerow(table.columns)
        for each in judged(sources):
            for table, writer in zip(TABLES, writers, strict=True):
                writer.writerows(map(_safe, row) for row in table.rows(each))


def _safe(cell: Cell) -> Cell:
    """The cell as no spreadsheet takes it for a formula: names in a profile are not ours."""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


FORMAT = Format("tables for spreadsheets and scripts, one file each", ".csv", _names, _write)
