"""`advise trace.json.gz`, as a user calls it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from trace_documents import DATA

from stepscope.advisor.api import report
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


def test_the_critical_path_is_told_everywhere(tmp_path: Path) -> None:
    found = report(DATA / "resnet50_workers_0.json.gz")
    assert found.advice.critical_path is not None
    first = found.advice.critical_path.owners[0]
    assert (first.owner, round(first.share, 2)) == ("data_loading", 0.34)
    assert sum(line.share for line in found.advice.critical_path.owners) == pytest.approx(1)
    assert all(0 < (item.critical_share or 0) <= 1 for item in found.advice.critical_path.kernels)
    assert "taking the next batch 34 %" in str(found)
    assert "the next batch is always there: 1.52x" in " ".join(str(found).split())
    assert "| taking the next batch | 62.1 ms | 34 % |" in found.markdown
    assert 'id="path"' in found.html
    assert "aten::cudnn_convolution_backward_weight" in found.html


def test_what_if_replays_a_trace_or_judges_methods_on_it() -> None:
    def what_if(*arguments: str) -> Result:
        trace = str(DATA / "resnet50_workers_0.json.gz")
        return CliRunner().invoke(cli, ["what-if", trace, *arguments])

    shown = what_if("--faster", "data_loading=inf", "--launch-free")
    assert shown.exit_code == 0, shown.output
    assert "data_loading costs nothing and launching" in " ".join(shown.output.split())
    data = json.loads(what_if("--faster", "gemm=2", "--json").stdout)
    assert data["step_seconds"] > data["predicted_seconds"]
    assert data["next_owner"] == "data_loading"
    assert "Prepare batches in more worker processes" in what_if("sy-workers").output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.json", "--launch-free"], "none.json"),
        ([str(DATA), "--launch-free"], "only a trace of torch.profiler (one file)"),
        ([str(DATA / "event_sync.json.gz")], "name methods, or changes of a trace"),
        ([str(DATA / "event_sync.json.gz"), "--faster", "gemm"], "give NAME=K"),
        ([str(DATA / "event_sync.json.gz"), "--faster", "gem=2"], "no such operator or kernel"),
    ],
)
def test_what_cannot_be_replayed_is_one_line(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(cli, ["what-if", *arguments])
    assert result.exit_code == 2
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_profiles_are_judged_without_numpy() -> None:
    code = (
        "import sys; from stepscope.advisor import advise, inputs, cli, html, terminal; "
        "bad = {'numpy', 'isal', 'torch'} & set(sys.modules); sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
