from __future__ import annotations

import gzip
import json
import math
import os
import re
import stat
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from builders import a_profile, an_advice

from stepscope.profiler import storage
from stepscope.profiler.format import Metric, Profile
from stepscope.profiler.recorder import Recorder
from stepscope.profiler.storage import ProfileError, load, save, write_atomically

TRACE = b'{"schemaVersion": 1, "deviceProperties": [], "traceEvents": [{"ph": "X", "name": "mm"}]}'


def refusal(path: Path) -> str:
    """The message with which `path` is refused: one line that names it."""
    with pytest.raises(ProfileError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert len(message.splitlines()) == 1
    assert caught.value.__cause__ is None
    return message.removeprefix(f"{path}: ")


def refusal_of(folder: Path, content: bytes) -> str:
    file = folder / "profile.json"
    file.write_bytes(content)
    return refusal(file)


def edited(*path: Any, value: object) -> bytes:
    """A good document with one value changed."""
    document = json.loads(msgspec.json.encode(a_profile()))
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(document).encode()


# Writing ------------------------------------------------------------------------------------------


def test_what_is_saved_is_what_is_loaded(tmp_path: Path, recorded: Profile) -> None:
    for number, given in enumerate((a_profile(), recorded)):
        file = tmp_path / f"{number}.json"
        save(given, file)
        assert load(file) == given


def test_folders_are_made_and_no_other_file_is_left(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / "profile.json"
    save(a_profile(), file)
    save(a_profile(tool_version="9"), file)
    assert load(file).tool_version == "9"
    assert list(file.parent.iterdir()) == [file]


def test_the_users_umask_decides_who_may_read_it(tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        save(a_profile(), tmp_path / "profile.json")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "profile.json").stat().st_mode) == 0o640


def test_the_old_file_stays_when_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "profile.json"
    write_atomically(file, b"old")

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(file, b"new")
    monkeypatch.undo()
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_the_old_file_stays_when_the_write_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "profile.json"
    write_atomically(file, b"old")

    def interrupted(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(file, b"new")
    monkeypatch.undo()
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_that_is_a_file_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"exists|Not a directory"):
        save(a_profile(), tmp_path / "file" / "profile.json")


def test_a_million_steps_stay_small(tmp_path: Path) -> None:
    recorder = Recorder(warmup_steps=10)
    numbers = [recorder.phase(f"phase{i}") for i in range(12)]
    for step in range(1_000_000):
        recorder.leave(recorder.enter(numbers[step % 12]))
        recorder.end_step()
    recorder.close()
    profile = a_profile(
        warmup=recorder.steps("warmup"),
        steady=recorder.steps("steady"),
        step_time=recorder.step_time(),
    )
    file = tmp_path / "profile.json"
    save(profile, file)

    assert profile.warmup.total + profile.steady.total == 1_000_000
    assert sum(profile.step_time.counts) == 999_990
    assert len(profile.steady.first) <= 4096
    assert file.stat().st_size < 5_000_000
    assert load(file) == profile


def test_what_is_no_number_is_saved_as_unknown(tmp_path: Path) -> None:
    metric = Metric(step=[0, 1], time_ns=[5, 6], value=[None, 1.5])
    save(a_profile(metrics={"loss": metric}), tmp_path / "profile.json")
    assert load(tmp_path / "profile.json").metrics == {"loss": metric}


# Reading what is no profile -----------------------------------------------------------------------


def test_a_missing_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.json").startswith("no such file; record one with")
    assert refusal(tmp_path / "no" / "none.json").startswith("no such file")


@pytest.mark.parametrize("content", [b"", b" \n\t\n"])
def test_an_empty_file(tmp_path: Path, content: bytes) -> None:
    assert refusal_of(tmp_path, content).startswith("is empty")


def test_a_directory(tmp_path: Path) -> None:
    assert refusal(tmp_path).startswith("is a directory; record one")
    save(a_profile(), tmp_path / "rank0.json")
    assert refusal(tmp_path).startswith(f"is a directory; name one file in it, e.g. {tmp_path}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    save(a_profile(), file)
    file.chmod(0)
    assert refusal(file) == "cannot be read (Permission denied)"


def test_a_document_that_was_cut_anywhere(tmp_path: Path) -> None:
    content = msgspec.json.encode(a_profile())
    cuts = {1, 2, 10, len(content) - 1, *range(3, len(content), max(1, len(content) // 150))}
    for cut in sorted(cuts):
        message = refusal_of(tmp_path, content[:cut])
        assert f"ends in the middle of the document ({cut} bytes)" in message


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"hello", id="text"),
        pytest.param(b"\x7fELF\x02\x01\x01" + bytes(range(256)) * 40, id="program"),
        pytest.param(bytes(4096), id="zeros"),
        pytest.param("schön".encode("utf-16"), id="utf-16"),
        pytest.param(b"\x80\x02}q\x00.", id="pickle"),
        pytest.param(b"schema: stepscope.profile/1\n", id="yaml"),
    ],
)
def test_something_that_is_no_json(tmp_path: Path, content: bytes) -> None:
    assert refusal_of(tmp_path, content).startswith("is not JSON")


@pytest.mark.parametrize("content", [b"[]", b"null", b"3", b'"text"', b"{}", b'{"schema": 5}'])
def test_json_that_is_something_else(tmp_path: Path, content: bytes) -> None:
    assert "give a profile.json" in refusal_of(
        tmp_path, content
    ) or "record it again" in refusal_of(tmp_path, content)


def test_json_with_something_behind_it(tmp_path: Path) -> None:
    content = msgspec.json.encode(a_profile())
    assert refusal_of(tmp_path, content + b"x").startswith("is not valid JSON")


def test_text_that_is_not_utf_8(tmp_path: Path) -> None:
    content = msgspec.json.encode(a_profile()).replace(b"train.py", b"train\xff.py")
    assert refusal_of(tmp_path, content).startswith("is not")


def test_a_document_that_is_nested_without_end(tmp_path: Path) -> None:
    assert refusal_of(tmp_path, b'{"x":' * 200_000).startswith("is nested too deep")
    refusal_of(tmp_path, b"[" * 200_000)


@pytest.mark.parametrize("content", [TRACE, b'\n{"traceEvents": []}', TRACE[:60]])
def test_a_trace(tmp_path: Path, content: bytes) -> None:
    assert refusal_of(tmp_path, content).startswith("is a Kineto trace, not a profile; give a")


def test_a_compressed_file(tmp_path: Path) -> None:
    content = gzip.compress(msgspec.json.encode(a_profile()))
    assert refusal_of(tmp_path, content).startswith("is gzip-compressed; unpack it first")


def test_an_advice(tmp_path: Path) -> None:
    content = msgspec.json.encode(an_advice())
    assert refusal_of(tmp_path, content).startswith("is the advice, not the profile")


def test_another_version_names_both(tmp_path: Path) -> None:
    message = refusal_of(tmp_path, edited("schema", value="stepscope.profile/2"))
    assert "stepscope.profile/2" in message
    assert "stepscope.profile/1" in message


def test_a_hostile_version_stays_on_one_line(tmp_path: Path) -> None:
    refusal_of(tmp_path, edited("schema", value="stepscope.profile/2\nall is well\x1b[2J"))


def test_200_megabytes_of_nonsense_are_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    file.touch()
    os.truncate(file, 200_000_000)
    began = time.monotonic()
    assert refusal(file).startswith("200 MB is not a stepscope profile")
    assert time.monotonic() - began < 5

    with file.open("r+b") as opened:
        opened.write(TRACE)
    assert "looks like a Kineto trace" in refusal(file)


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_know(tmp_path: Path, literal: str) -> None:
    value = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}[literal]
    content = edited("samples", "columns", "rss_bytes", 3, value=value)
    assert literal.encode() in content
    assert refusal_of(tmp_path, content).startswith("is not valid JSON")


@pytest.mark.parametrize(
    ("path", "value", "key"),
    [
        (("run", "wall_ns"), "long", "$.run.wall_ns"),
        (("run", "ended"), "stopped", "$.run.ended"),
        (("steady", "wall_ns", 5), 1.5, "$.steady.wall_ns[5]"),
        (("steady", "phases", "data_wait", 2), None, "$.steady.phases[...][2]"),
        (
            ("loaders", 0, "workers", 1, "totals", "cpu_ns"),
            [],
            "$.loaders[0].workers[1].totals.cpu_ns",
        ),
        (("environment", "calibration"), 3, "$.environment.calibration"),
        (
            ("configuration", "models", 0, "parameters"),
            None,
            "$.configuration.models[0].parameters",
        ),
        (("marks", 0), "checkpoint", "$.marks[0]"),
        (("window", "operators", 1, "calls"), "200", "$.window.operators[1].calls"),
    ],
)
def test_a_wrong_type_is_named_by_its_place(
    tmp_path: Path, path: tuple[Any, ...], value: object, key: str
) -> None:
    message = refusal_of(tmp_path, edited(*path, value=value))
    assert f"`{key}`" in message
    assert message.endswith("the file was edited or damaged, record it again")


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    document = json.loads(msgspec.json.encode(a_profile()))
    del document["steady"]["wall_ns"]
    message = refusal_of(tmp_path, json.dumps(document).encode())
    assert "`wall_ns`" in message
    assert "`$.steady`" in message


@pytest.mark.parametrize(
    ("path", "named"),
    [
        (("steady", "wall_ns"), r"`wall_ns` has 2 rows where `first` has 200 - at `\$\.steady`"),
        (("warmup", "phases", "python"), r"`phases\.python` has 2 rows .* at `\$\.warmup`"),
        (("samples", "columns", "rss_bytes"), r"`columns\.rss_bytes` has 2 rows .*`\$\.samples`"),
    ],
)
def test_columns_of_unequal_length(tmp_path: Path, path: tuple[str, ...], named: str) -> None:
    assert re.search(named, refusal_of(tmp_path, edited(*path, value=[1, 2])))


def test_unknown_keys_of_a_later_minor_version_are_no_error(tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    file.write_bytes(edited("run", "colour", value="blue"))
    assert load(file) == a_profile()


def test_nothing_is_too_large_to_be_written(tmp_path: Path) -> None:
    assert storage.MAX_BYTES > 10 * 5_000_000
    save(a_profile(problems=["x" * 1000] * 100), tmp_path / "profile.json")
    assert len(load(tmp_path / "profile.json").problems) == 100
