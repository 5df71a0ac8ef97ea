"""Whatever a file is like, its events arrive; or one line says why they do not."""

from __future__ import annotations

import gzip
import json
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from trace_documents import DATA, document, host, write

from stepscope.advisor.inputs import is_trace
from stepscope.advisor.traces.errors import TraceError
from stepscope.advisor.traces.files import Source
from stepscope.advisor.traces.reader import AnyEvent, Event, Reader

MANY, PIECE = 6000, 256 << 10


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several pieces even of a small file."""
    monkeypatch.setattr("stepscope.advisor.traces.reader.PIECE", PIECE)


def many(**metadata: Any) -> dict[str, Any]:
    """More events than fit one piece."""
    events = [host(f"aten::op{i % 7}", i * 10, 5, nested=[{"a": {"b": i}}]) for i in range(MANY)]
    return document(events, **metadata)


def read(path: Path) -> tuple[Reader, list[AnyEvent]]:
    reader = Reader(Source(path))
    with closing(reader):
        return reader, [event for events in reader.events() for event in events]


def complete(events: list[AnyEvent]) -> list[Event]:
    return [event for event in events if isinstance(event, Event)]


@pytest.mark.parametrize(
    "style",
    [{}, {"indent": 2}, {"separators": (",", ":")}, {"indent": 1, "separators": (" ,", " : ")}],
    ids=["spaces", "indented", "compact", "odd"],
)
def test_every_style_of_writing_gives_the_same_events(
    tmp_path: Path, style: dict[str, Any]
) -> None:
    path = write(tmp_path / "trace.json", many(), **style)
    assert path.stat().st_size > 2 * PIECE
    reader, events = read(path)
    assert [(e.name, e.ts) for e in complete(events)] == [
        (f"aten::op{i % 7}", i * 10.0) for i in range(MANY)
    ]
    assert (reader.lost, reader.truncated) == (0, False)


@pytest.mark.parametrize("path", sorted(DATA.rglob("*.json.gz")), ids=lambda path: path.name)
def test_recorded_traces_are_read_like_the_json_module_reads_them(path: Path) -> None:
    with gzip.open(path, "rt") as file:
        expected = [e for e in json.load(file)["traceEvents"] if e["ph"] == "X"]
    reader, events = read(path)
    assert [(e.name, e.cat, e.ts, e.dur) for e in complete(events)] == [
        (e["name"], e.get("cat", ""), e["ts"], e.get("dur", 0)) for e in expected
    ]
    assert reader.lost == 0


def test_a_bare_list_is_a_trace(tmp_path: Path) -> None:
    path = write(tmp_path / "trace.json", many()["traceEvents"])
    reader, events = read(path)
    assert len(events) == MANY
    assert not reader.truncated


@pytest.mark.parametrize("where", ["before", "behind"])
def test_metadata_is_found_on_both_sides(tmp_path: Path, where: str) -> None:
    known = {
        "deviceProperties": [{"id": 3, "name": "A", "totalGlobalMem": 5, "computeMajor": 8}],
        "distributedInfo": {"rank": 2, "world_size": 4, "backend": "nccl"},
        "baseTimeNanoseconds": 12,
    }
    content = many(**known)
    if where == "behind":
        content = {"traceEvents": content["traceEvents"], **known, "traceName": "x" * 2 * PIECE}
    reader, events = read(write(tmp_path / "trace.json", content, indent=2))
    assert len(events) == MANY
    assert reader.metadata.devices[0].major == 8
    assert reader.metadata.distributed is not None
    assert reader.metadata.distributed.rank == 2
    assert reader.metadata.base_ns == 12


def test_a_zip_of_one_trace_is_read(tmp_path: Path) -> None:
    path = tmp_path / "trace.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("trace.json.gz", gzip.compress(json.dumps(many()).encode()))
    assert len(read(path)[1]) == MANY


@pytest.mark.parametrize("packed", [False, True])
def test_of_a_truncated_file_the_part_that_is_there_is_used(tmp_path: Path, packed: bool) -> None:
    content = json.dumps(many()).encode()
    path = tmp_path / ("trace.json.gz" if packed else "trace.json")
    data = gzip.compress(content) if packed else content
    path.write_bytes(data[: len(data) // 2])
    reader, events = read(path)
    assert reader.truncated
    assert MANY // 4 < len(events) < 3 * MANY // 4
    assert reader.lost <= 1


@pytest.mark.parametrize(
    ("odd", "lost"),
    [
        ('"x": NaN, "y": [Infinity, -Infinity]', 0),
        ('"x": 1, "x": 2, "External id": 1, "External id": 2', 0),
        ('"Comms Id": 10159970886766084423, "y": 1e400, "z": 123456789012345678901234567890', 0),
        ('"stack": "tab\there \x01"', 0),
        ('"name": "a "quoted" word"', 1),
        ('"x": N/A', 1),
    ],
    ids=["nan", "duplicate-keys", "big-integers", "control-characters", "quotes", "bare-words"],
)
def test_what_is_no_json_costs_at_most_its_own_event(tmp_path: Path, odd: str, lost: int) -> None:
    content = json.dumps(many())
    cut = content.index('"args"', len(content) // 2)
    path = tmp_path / "trace.json"
    path.write_text(
        content[:cut] + '"args": {' + odd + "}, " + content[cut:].replace('"args"', '"more"', 1)
    )
    reader, events = read(path)
    assert reader.lost == lost
    assert len(events) == MANY - lost
    assert not reader.truncated


@pytest.mark.parametrize("which", [0, 1, 3])
def test_one_bad_event_of_a_small_file_costs_only_itself(tmp_path: Path, which: int) -> None:
    names = ["aten::zero", "aten::one", "aten::two", "aten::three", "aten::four"]
    content = json.dumps(document([host(name, 0, 1) for name in names]), indent=1)
    path = tmp_path / "trace.json"
    path.write_text(content.replace(names[which], 'torch.compile "x"'), encoding="utf-8-sig")
    reader, events = read(path)
    assert [e.name for e in complete(events)] == names[:which] + names[which + 1 :]
    assert (reader.lost, reader.truncated) == (1, False)


def test_bytes_that_are_no_text_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    content = json.dumps(many()).encode()
    path.write_bytes(content.replace(b"aten::op3", b"aten::\xff\xfe3", 1))
    assert len(read(path)[1]) == MANY


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"  \n", "is empty"),
        (b"<html></html>", "is no trace"),
        (b'{"schema": "other", "data": []}', "is no trace"),
        (b"PK\x03\x04 not really", "damaged zip"),
    ],
)
def test_what_is_no_trace_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "trace.json"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=words):
        read(path)


def test_a_zip_of_several_files_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.json", "{}")
        archive.writestr("b.json", "{}")
    with pytest.raises(TraceError, match="holds 2 files"):
        read(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no such file"):
        Source(tmp_path / "none.json")


def test_traces_are_told_from_profiles(tmp_path: Path) -> None:
    assert is_trace(write(tmp_path / "a.json", many()))
    assert is_trace(DATA / "mi250_rocm.json.gz")
    assert not is_trace(write(tmp_path / "b.json", {"schema": "stepscope.profile/1"}))
    assert not is_trace(tmp_path / "none.json")
