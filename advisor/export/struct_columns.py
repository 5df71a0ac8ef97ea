"""Records of the profile and of the advice as rows of plain values.

A column is a field that holds a number, a text or a truth value, under the field's own name. Of a
nested record the names are joined by `_`, a list of texts becomes one text. Any other list or
dictionary, and a record of such, is left out: it is a table of its own.
"""

from __future__ import annotations

from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from msgspec import Struct, structs

Plain = type[str] | type[int] | type[float] | type[bool]
Cell = str | int | float | bool | None
_PLAIN = (str, int, float, bool)
_FLAT = (*_PLAIN, list[str])


class Column(NamedTuple):
    """One column."""

    name: str
    type: Plain
    path: tuple[str, ...]
    """Fields that lead to it."""
    joined: bool = False
    """Whether it is a list of texts."""


@cache
def columns_of(struct: type[Struct]) -> tuple[Column, ...]:
    """The columns of a type of record, in the order of its fields."""
    found: list[Column] = []
    for field in structs.fields(struct):
        kind = _plain(field.type)
        if kind in _PLAIN:
            found.append(Column(field.name, kind, (field.name,)))
        elif kind == list[str]:
            found.append(Column(field.name, str, (field.name,), joined=True))
        elif isinstance(kind, type) and issubclass(kind, Struct) and _is_flat(kind):
            found += [
                Column(f"{field.name}_{c.name}", c.type, (field.name, *c.path), c.joined)
                for c in columns_of(kind)
            ]
    return tuple(found)


def _is_flat(struct: type[Struct]) -> bool:
    return all(_plain(field.type) in _FLAT for field in structs.fields(struct))


def cells_of(record: Struct) -> tuple[Cell, ...]:
    """A record's values, in the order of its type's columns."""
    return tuple(_cell(record, column) for column in columns_of(type(record)))


def _cell(record: Any, column: Column) -> Cell:
    for name in column.path:
        if record is None:
            return None
        record = getattr(record, name)
    return " ".join(record) if column.joined and record is not None else record


def _plain(annotation: Any) -> Any:
    """A field's type without None and annotations; Literals are what they are made of."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _plain(get_args(annotation)[0])
    if origin is Literal:
        return type(get_args(annotation)[0])
    if origin in (Union, UnionType):
        kinds = {_plain(each) for each in get_args(annotation) if each is not NoneType}
        return kinds.pop() if len(kinds) == 1 else None
    return annotation
