from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from stepscope.profiler.format import SCHEMA, Samples, Steps, json_schema

DOCUMENT = Path(__file__).parents[2] / "docs" / "profile.schema.json"


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = json.loads(DOCUMENT.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.fixture
def document(recorded_file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(recorded_file.read_text(encoding="utf-8"))
    return content


def test_the_documented_schema_is_generated_from_the_types() -> None:
    expected = json.dumps(json_schema(), indent=2) + "\n"
    assert DOCUMENT.read_text(encoding="utf-8") == expected


def test_a_recorded_profile_is_valid(
    validator: jsonschema.Draft202012Validator, document: dict[str, Any]
) -> None:
    assert [error.message for error in validator.iter_errors(document)] == []
    assert document["schema"] == SCHEMA
    assert next(iter(document)) == "schema"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["schema"], "stepscope.profile/9"),
        (["run", "ended"], "stopped"),
        (["run", "wall_ns"], "long"),
        (["steady", "wall_ns", 0], 1.5),
        (["loaders", 0, "num_workers"], None),
        (["configuration", "models", 0, "modules"], []),
    ],
)
def test_the_schema_rejects_what_the_reader_rejects(
    validator: jsonschema.Draft202012Validator,
    document: dict[str, Any],
    path: list[Any],
    value: object,
) -> None:
    changed = copy.deepcopy(document)
    place: Any = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    errors = list(validator.iter_errors(changed))
    assert errors
    assert list(errors[0].absolute_path)[:1] == path[:1]


def test_every_column_is_checked_for_its_length() -> None:
    columns: dict[str, Any] = {
        name: [1, 2]
        for name in ("first", "count", "wall_ns", "wall_max_ns", "cpu_ns", "process_cpu_ns")
    }
    columns |= {"wait_cpu_ns": [1, 2], "phases": {"python": [1, 2]}}
    assert Steps(**columns).total == 3
    for name in [*columns][1:-1]:
        with pytest.raises(ValueError, match=rf"`{name}` has 1 rows where `first` has 2"):
            Steps(**columns | {name: [1]})
    for name in ("run_delay_ns", "wait_run_delay_ns"):
        with pytest.raises(ValueError, match=rf"`{name}` has 3 rows"):
            Steps(**columns | {name: [1, 2, 3]})
    for name in ("phases", "calls"):
        with pytest.raises(ValueError, match=rf"`{name}\.x` has 1 rows"):
            Steps(**columns | {name: {"x": [1]}})
    with pytest.raises(ValueError, match=r"`columns\.rss_bytes` has 1 rows where `time_ns` has 2"):
        Samples(time_ns=[1, 2], columns={"rss_bytes": [1.0]})
