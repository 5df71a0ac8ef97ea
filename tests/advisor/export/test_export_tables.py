"""CSV and Parquet."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import pytest
from builders import a_loader, a_profile, some_batches, some_steps
from click.testing import CliRunner
from trace_documents import DATA

from stepscope.advisor.cli import cli
from stepscope.advisor.export.tables import TABLES, document
from stepscope.profiler.format import Mark, Metric, Profile, Run, Steps
from stepscope.profiler.storage import save

ROOT = Path(__file__).parents[3]


def exported(folder: Path, *profiles: Profile, to: str = "csv") -> Path:
    paths = [folder / f"profile{i}.json" for i in range(len(profiles))]
    for path, profile in zip(paths, profiles, strict=True):
        save(profile, path)
    arguments = ["export", *map(str, paths), "--to", to, "--out", str(folder / "out")]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    return folder / "out"


def rows(folder: Path, table: str) -> list[dict[str, str]]:
    with (folder / f"{table}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def total(found: list[dict[str, str]], column: str) -> int:
    return sum(int(row[column]) for row in found)


def test_all_numbers_of_a_profile_are_there(tmp_path: Path) -> None:
    profile = a_profile(
        loaders=[a_loader(batches=some_batches([40, 50]))],
        metrics={"loss": Metric(step=[20, 21], time_ns=[1, 2], value=[0.5, None])},
    )
    out = exported(tmp_path, profile)
    steps, phases = rows(out, "steps"), rows(out, "phases")
    walls = profile.warmup.wall_ns + profile.steady.wall_ns
    assert [int(row["wall_ns"]) for row in steps] == walls
    assert total(phases, "wall_ns") == sum(walls)
    assert steps[0] | {"wall_ns": ""} == {
        "source": "profile0.json", "rank": "0", "part": "warmup", "first": "0", "start_ns": "",
        "count": "1", "wall_ns": "", "wall_max_ns": steps[0]["wall_ns"], "cpu_ns": "17000000",
        "process_cpu_ns": "40000000", "run_delay_ns": "100000", "wait_cpu_ns": "200000",
        "wait_run_delay_ns": "",
    }  # fmt: skip
    assert total(rows(out, "workers"), "totals_batches") == 220
    assert total(rows(out, "batches"), "wall_ns") == 90_000_000
    assert len(rows(out, "samples")) == 24  # of three signals one was never readable
    assert [row["value"] for row in rows(out, "metrics")] == ["0.5", ""]
    assert len(rows(out, "marks")) == 4
    assert sum(float(row["share"]) for row in rows(out, "breakdown")) == pytest.approx(1)
    assert rows(out, "plan")[0]["number"] == "1"
    assert rows(out, "verdicts")[0]["healthy"] in ("true", "false")
    facts = {row["name"]: row for row in rows(out, "facts")}
    assert facts["loader.num_workers"]["value"] == "2.0"
    assert rows(out, "kernels") == []


def test_a_trace_gives_kernels_and_copies(tmp_path: Path) -> None:
    trace = DATA / "resnet50_workers_0.json.gz"
    arguments = ["export", str(trace), "--to", "csv", "--out", str(tmp_path / "out")]
    assert CliRunner().invoke(cli, arguments).exit_code == 0
    kinds = rows(tmp_path / "out", "kernel_categories")
    assert {"convolution", "normalisation"} <= {row["name"] for row in kinds}
    assert rows(tmp_path / "out", "copies")[0]["direction"] == "HtoD"
    starts = [int(row["start_ns"]) for row in rows(tmp_path / "out", "steps")]
    assert starts == sorted(starts)


def test_several_profiles_share_the_tables(tmp_path: Path) -> None:
    run = Run(started_at="2026-01-15T10:00:00Z", wall_ns=1, ended="completed", rank=1)
    out = exported(tmp_path, a_profile(), a_profile(run=run))
    sources = {(row["source"], row["rank"]) for row in rows(out, "steps")}
    assert sources == {("profile0.json", "0"), ("profile1.json", "1")}
    assert [row["run_rank"] for row in rows(out, "runs")] == ["0", "1"]


def test_a_run_without_steps_has_tables_without_advice(tmp_path: Path) -> None:
    nothing = Steps(first=[], count=[], wall_ns=[], wall_max_ns=[], phases={})
    out = exported(tmp_path, a_profile(warmup=nothing, steady=nothing, window=None))
    assert len(rows(out, "marks")) == 4
    assert rows(out, "verdicts") == []


def test_no_text_of_a_profile_is_a_formula(tmp_path: Path) -> None:
    texts = [f'{start}HYPERLINK("http://example.com")' for start in "=+-@\t\r\n"]
    marks = [Mark(kind=text, step=1, time_ns=-5, detail='a "quoted"\nline') for text in texts]
    found = rows(exported(tmp_path, a_profile(marks=marks)), "marks")
    assert [row["kind"] for row in found] == [f"'{text}" for text in texts]
    assert {row["detail"] for row in found} == {'a "quoted"\nline'}
    assert {row["time_ns"] for row in found} == {"-5"}  # numbers stay numbers


def test_parquet_holds_the_same_and_leaves_text_alone(tmp_path: Path) -> None:
    parquet: Any = pytest.importorskip("pyarrow.parquet", reason="needs stepscope[parquet]")
    profile = a_profile(marks=[Mark(kind="=1+1", step=3, time_ns=7)])
    out = exported(tmp_path, profile, to="parquet")
    found = {table.name: parquet.read_table(out / f"{table.name}.parquet") for table in TABLES}
    assert found["steps"]["wall_ns"].to_pylist() == profile.warmup.wall_ns + profile.steady.wall_ns
    assert found["steps"]["start_ns"].null_count == 220
    assert found["marks"]["kind"].to_pylist() == ["=1+1"]
    assert str(found["verdicts"].schema.field("healthy").type) == "bool"
    for table in TABLES:
        assert found[table.name].column_names == list(table.columns)


def test_numbers_that_parquet_does_not_take_are_one_line(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs stepscope[parquet]")
    save(a_profile(marks=[Mark(kind="x", step=1 << 70, time_ns=0)]), tmp_path / "profile.json")
    result = CliRunner().invoke(cli, ["export", str(tmp_path / "profile.json"), "--to", "parquet"])
    assert result.exit_code == 2
    assert "profile.json: table marks" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["profile.json"]


def test_without_pyarrow_it_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    save(a_profile(), tmp_path / "profile.json")
    result = CliRunner().invoke(cli, ["export", str(tmp_path / "profile.json"), "--to", "parquet"])
    assert result.exit_code == 2
    assert "pip install 'stepscope[parquet]'" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_rows_that_are_sums_say_of_how_many_steps(tmp_path: Path) -> None:
    steady = some_steps(20, 100)
    steady.count = [10] * 100
    found = rows(exported(tmp_path, a_profile(steady=steady)), "phases")
    assert {row["count"] for row in found if row["part"] == "steady"} == {"10"}


def test_names_of_tables_and_columns_are_plain_and_unique() -> None:
    assert len({table.name for table in TABLES}) == len(TABLES)
    for table in TABLES:
        assert list(table.columns)[:2] == ["source", "rank"]
        assert all(name.isidentifier() for name in table.columns)


def test_the_documentation_lists_them() -> None:
    written = (ROOT / "docs" / "tables.md").read_text(encoding="utf-8")
    assert written == document(), "python -m stepscope.advisor.export.tables > docs/tables.md"
