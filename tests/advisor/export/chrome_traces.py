"""What holds for every Chrome trace that a viewer is to show in full."""

from __future__ import annotations

import gzip
import json
from math import floor
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

_TIME = {"type": "number", "minimum": 0}
_NUMBER = {"type": ["integer", "string"]}
_EVENT = {
    "type": "object",
    "required": ["ph", "name", "pid"],
    "properties": {"name": {"type": "string"}, "pid": _NUMBER, "tid": _NUMBER, "args": {}},
    "oneOf": [
        {
            "properties": {
                "ph": {"const": "X"}, "cat": {"type": "string"}, "ts": _TIME, "dur": _TIME,
            },
            "required": ["cat", "ts", "dur", "tid"],
        },
        {
            "properties": {"ph": {"const": "i"}, "ts": _TIME, "s": {"enum": ["g", "p", "t"]}},
            "required": ["ts", "tid", "s"],
        },
        {
            "properties": {
                "ph": {"const": "C"},
                "ts": _TIME,
                "args": {"type": "object", "additionalProperties": {"type": "number"}},
            },
            "required": ["ts", "args"],
        },
        {
            "properties": {
                "ph": {"const": "M"},
                "name": {
                    "enum": [
                        "process_name", "process_labels", "process_sort_index",
                        "thread_name", "thread_sort_index",
                    ]
                },
                "args": {"type": "object"},
            },
            "required": ["args"],
        },
        {
            "properties": {"ph": {"enum": ["s", "t", "f"]}, "ts": _TIME},
            "required": ["ts", "tid", "id"],
        },
    ],
}  # fmt: skip
_DOCUMENT = {
    "type": "object",
    "required": ["traceEvents"],
    "properties": {
        "traceEvents": {"type": "array", "items": _EVENT},
        "displayTimeUnit": {"enum": ["ms", "ns"]},
        "otherData": {"type": "object"},
    },
}
"""The Trace Event Format, as far as it is used here."""


def read(path: Path) -> dict[str, Any]:
    """A trace that is strict JSON and of the format."""

    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is no JSON")

    found = json.loads(gzip.decompress(path.read_bytes()), parse_constant=refuse)
    # Of the many events that are made alike one is enough.
    alike = {(e.get("ph"), e.get("cat"), *map(str, sorted(e))): e for e in found["traceEvents"]}
    errors = Draft202012Validator(_DOCUMENT).iter_errors(
        found | {"traceEvents": list(alike.values())}
    )
    first = next(errors, None)
    assert first is None, f"{first.instance}: {first.message}" if first else ""
    return dict(found)


def slices(trace: dict[str, Any], name: str | None = None) -> list[dict[str, Any]]:
    """Its slices, of one name if that is given."""
    found = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    return [event for event in found if name in (None, event["name"])]


def partly_overlapping(trace: dict[str, Any]) -> list[tuple[str, str]]:
    """Slices of one thread that lie neither side by side nor inside each other.

    Times are cut to nanoseconds one by one, as Perfetto does.
    """
    threads: dict[Any, list[tuple[int, int, str]]] = {}
    for event in slices(trace):
        begin, end = floor(event["ts"] * 1000), floor(event["dur"] * 1000)
        threads.setdefault((event["pid"], event["tid"]), []).append(
            (begin, begin + end, event["name"])
        )
    wrong = []
    for found in threads.values():
        open_: list[tuple[int, int, str]] = []
        for each in sorted(found, key=lambda e: (e[0], -e[1])):
            while open_ and open_[-1][1] <= each[0]:
                open_.pop()
            if open_ and each[1] > open_[-1][1]:
                wrong.append((open_[-1][2], each[2]))
            else:
                open_.append(each)
    return wrong
