from __future__ import annotations

import os
import shutil
from importlib.resources import files
from pathlib import Path

import pytest

from stepscope.advisor import rule_files
from stepscope.advisor.rule_files import load_knowledge


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache folder and built-in rules of the test's own."""
    shutil.copytree(str(files("stepscope.rules")), tmp_path / "rules")
    monkeypatch.setattr(rule_files, "built_in", lambda: tmp_path / "rules")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are parsed from now on."""
    names: list[str] = []
    read_entry = rule_files.read_entry

    def noting(file, kind):  # type: ignore[no-untyped-def]
        names.append(file.name)
        return read_entry(file, kind)

    monkeypatch.setattr(rule_files, "read_entry", noting)
    return names


def the_file(tmp_path: Path) -> Path:
    [file] = (tmp_path / "cache" / "stepscope").iterdir()
    return file


def test_files_are_parsed_once_and_say_the_same_then(parsed: list[str]) -> None:
    first = load_knowledge()
    count = len(parsed)

    second = load_knowledge()

    assert count == len(first.rules) + len(first.methods) + len(first.combinations)
    assert len(parsed) == count
    assert second == first
    assert second.sources["sy-gc"].line_of("kind") == first.sources["sy-gc"].line_of("kind")


def test_a_file_that_says_something_else_counts_at_once(tmp_path: Path) -> None:
    load_knowledge()
    file = next((tmp_path / "rules").rglob("gc_pauses.yaml"))
    before = file.stat()
    file.write_text(file.read_text("utf-8").replace("title: ", "title: Xx", 1), "utf-8")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert load_knowledge().rules["gc_pauses"].title.startswith("Xx")


def test_a_file_that_is_gone_is_gone(tmp_path: Path) -> None:
    load_knowledge()
    next((tmp_path / "rules").rglob("input-size.yaml")).unlink()

    assert "input-size" not in load_knowledge().combinations


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "noise", "folder"])
def test_a_damaged_cache_is_not_believed(damage: str, tmp_path: Path) -> None:
    whole = load_knowledge()
    file = the_file(tmp_path)
    content = file.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    file.unlink()
    if damage == "folder":
        file.mkdir()
    else:
        ways = {"cut": content[:-9], "bit": flipped, "empty": b"", "noise": b"\0" * 99}
        file.write_bytes(ways[damage])

    assert load_knowledge() == whole


def test_another_form_of_rules_does_not_read_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parsed: list[str]
) -> None:
    load_knowledge()
    parsed.clear()
    monkeypatch.setattr("stepscope.advisor.rule_cache._types", lambda: "another version")

    load_knowledge()

    assert parsed


@pytest.mark.parametrize("place", ["/proc/nowhere", "/dev/null"])
def test_where_nothing_can_be_kept_nothing_is_missed(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", place)

    assert load_knowledge() == load_knowledge()


def test_folders_of_users_are_read_as_they_are(tmp_path: Path, parsed: list[str]) -> None:
    mine = tmp_path / "mine" / "detect" / "own"
    mine.mkdir(parents=True)
    shutil.copy(next((tmp_path / "rules").rglob("gc_pauses.yaml")), mine)
    load_knowledge([tmp_path / "mine"])
    parsed.clear()

    load_knowledge([tmp_path / "mine"])

    assert parsed == ["gc_pauses.yaml"]
    assert len(list((tmp_path / "cache" / "stepscope").iterdir())) == 1
