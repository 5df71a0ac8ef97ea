"""The same tables as Parquet, for pandas, polars, DuckDB and Spark."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepscope.advisor.export.judged import judged
from stepscope.advisor.export.registry import Format
from stepscope.advisor.export.sources import Source
from stepscope.advisor.export.tables import TABLES, Row, Table
from stepscope.profiler.storage import ProfileError

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS = 1 << 16
"""Rows that are held at once."""
_TYPES = {str: "string", int: "int64", float: "float64", bool: "bool"}


def _names(sources: Sequence[Source]) -> list[str]:
    return [f"{table.name}.parquet" for table in TABLES]


def _write(sources: Sequence[Source], paths: list[Path]) -> None:
    try:
        import pyarrow as pa  # noqa: PLC0415  # an extra
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ProfileError(
            f"--to parquet needs the package {error.name}; pip install 'stepscope[parquet]'"
        ) from None
    with ExitStack() as stack:
        schemas = [_schema(table, pa) for table in TABLES]
        writers = [
            stack.enter_context(pq.ParquetWriter(path, schema))
            for path, schema in zip(paths, schemas, strict=True)
        ]
        for each in judged(sources):
            for table, schema, writer in zip(TABLES, schemas, writers, strict=True):
                for rows in _pieces(table.rows(each)):
                    columns = dict(zip(table.columns, zip(*rows, strict=True), strict=True))
                    try:
                        writer.write_table(pa.Table.from_pydict(columns, schema))
                    except (ValueError, OverflowError) as error:
                        raise ProfileError(
                            f"{each.source}: table {table.name} holds what Parquet does not take "
                            f"({error}); use --to csv"
                        ) from None


def _schema(table: Table, pa: Any) -> pa.Schema:
    return pa.schema(
        [(name, pa.type_for_alias(_TYPES[kind])) for name, kind in table.columns.items()]
    )


def _pieces(rows: Iterable[Row]) -> Iterator[list[Row]]:
    rows = iter(rows)
    while piece := list(islice(rows, _ROWS)):
        yield piece


FORMAT = Format("the same tables for pandas, polars, DuckDB", ".parquet", _names, _write)
