"""`advise trace.json.gz`, as a user calls it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from trace_documents import DATA

from stepscope.advisor.cli import cli


def test_a_trace_gives_verdict_report_and_json(tmp_path: Path) -> None:
    trace = shutil.copy(DATA / "resnet50_workers_0.json.gz", tmp_path / "run.json.gz")
    result = CliRunner().invoke(cli, [str(trace), "--json", str(tmp_path / "advice.json")])
    assert result.exit_code == 0, result.output
    assert "preparing samples" in result.output
    assert (tmp_path / "run.html").stat().st_size > 10_000
    advice = json.loads((tmp_path / "advice.json").read_text(encoding="utf-8"))
    assert advice["verdict"]["category"] == "cpu_preprocessing"
    assert advice["environment"]["GPU 0"].startswith("Tesla V100")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"traceEvents": []}', "has no events"),
        (b'[{"ph": "X", "cat": "blink", "name": "x", "ts": 1, "dur": 1}]', "another tool"),
        (b"\x1f\x8bnot gzip at all", "cut short"),
    ],
)
def test_bad_traces_are_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    result = CliRunner().invoke(cli, [str(path)])
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert any(word in result.stderr for word in words.split("|"))


def test_profiles_are_judged_without_numpy() -> None:
    code = (
        "import sys; from stepscope.advisor import advise, inputs, cli, html, terminal; "
        "bad = {'numpy', 'isal', 'torch'} & set(sys.modules); sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
