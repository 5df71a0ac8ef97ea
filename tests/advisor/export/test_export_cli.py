"""`advise export`, as a user calls it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from builders import a_profile
from click.testing import CliRunner, Result
from trace_documents import DATA

from stepscope.advisor.cli import cli
from stepscope.advisor.export import formats
from stepscope.profiler.storage import save

FORMATS = ("csv", "parquet", "perfetto", "tensorboard")


def export(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["export", *map(str, arguments)])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save(a_profile(), tmp_path / "profile.json")
    return tmp_path / "profile.json"


def one_line(result: Result) -> str:
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    return result.stderr


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("csv", "profile.csv/steps.csv"),
        ("parquet", "profile.parquet/steps.parquet"),
        ("perfetto", "profile.perfetto.json.gz"),
        ("tensorboard", "profile.tensorboard/profile.pt.trace.json.gz"),
    ],
)
def test_the_output_lies_beside_the_profile(path: Path, name: str, output: str) -> None:
    if name == "parquet":
        pytest.importorskip("pyarrow", reason="needs stepscope[parquet]")
    result = export(path, "--to", name)
    assert result.exit_code == 0, result.output
    assert (path.parent / output).stat().st_size > 100
    assert result.output.strip() == str(path.parent / Path(output).parts[0])
    assert not list(path.parent.rglob(".*"))


def test_the_help_lists_every_format() -> None:
    result = export("--help")
    assert all(name in result.output for name in FORMATS)


def test_a_format_that_is_not_there_is_told_those_that_are(path: Path) -> None:
    assert "csv, parquet, perfetto, tensorboard" in one_line(export(path, "--to", "excel"))


def test_a_format_is_one_new_file(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "names.py").write_text(
        "from stepscope.advisor.export.registry import Format\n"
        "def write(sources, paths):\n"
        "    paths[0].write_text(sources[0].name)\n"
        "FORMAT = Format('only the name', '.names', None, write)\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(folder)])
    assert "only the name" in export("--help").output
    assert export(path, "--to", "names").exit_code == 0
    assert (tmp_path / "profile.names").read_text(encoding="utf-8") == "profile"


@pytest.mark.parametrize("name", ["perfetto", "tensorboard"])
def test_nothing_is_replaced_without_force(path: Path, name: str) -> None:
    assert export(path, "--to", name).exit_code == 0
    before = {file: file.stat().st_mtime_ns for file in path.parent.rglob("*")}
    assert "--force" in one_line(export(path, "--to", name))
    assert before == {file: file.stat().st_mtime_ns for file in path.parent.rglob("*")}
    assert export(path, "--to", name, "--force").exit_code == 0


@pytest.mark.parametrize("name", ["csv", "perfetto", "tensorboard"])
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text("{}", encoding="utf-8")
    assert "bad.json" in one_line(export(bad, "--to", name))
    assert "no such file" in one_line(export(tmp_path / "none.json", "--to", name))
    assert list(tmp_path.iterdir()) == [bad]


def test_the_input_is_never_the_output(path: Path) -> None:
    before = path.read_bytes()
    words = one_line(export(path, "--to", "perfetto", "--out", path, "--force"))
    assert "is the profile itself" in words
    assert path.read_bytes() == before


def test_an_output_that_cannot_be_written_is_one_line(path: Path) -> None:
    inside = path / "out.json.gz"
    assert "cannot be written" in one_line(export(path, "--to", "perfetto", "--out", inside))
    folder = path.parent / "folder"
    folder.mkdir()
    assert "is a directory" in one_line(export(path, "--to", "perfetto", "--out", folder))


@pytest.mark.parametrize("name", ["csv", "perfetto", "tensorboard"])
def test_traces_are_taken_too(tmp_path: Path, name: str) -> None:
    trace = shutil.copy(DATA / "launch_bound_a100.json.gz", tmp_path / "run.json.gz")
    assert export(trace, "--to", name, "--out", tmp_path / "out").exit_code == 0


def test_a_log_folder_takes_more_runs(path: Path) -> None:
    again = shutil.copy(path, path.parent / "again.json")
    logs = path.parent / "logs"
    for each in (path, again):
        assert export(each, "--to", "tensorboard", "--out", logs).exit_code == 0
    names = sorted(file.name for file in logs.iterdir())
    assert names == ["again.pt.trace.json.gz", "profile.pt.trace.json.gz"]
