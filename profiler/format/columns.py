"""Tables in columns, and the quantities that all parts of a profile share."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

Count = Annotated[int, Meta(ge=0)]
Rate = Annotated[float, Meta(gt=0)]


def same_length(key: str, rows: int, columns: dict[str, list[Any] | None]) -> None:
    """Raise ValueError, naming the column, unless every column has as many rows as `key`."""
    for name, column in columns.items():
        if column is not None and len(column) != rows:
            raise ValueError(f"`{name}` has {len(column)} rows where `{key}` has {rows}")
