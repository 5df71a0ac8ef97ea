from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import a_data_bound_run
from click.testing import CliRunner, Result

from stepscope.advisor.cli import cli
from stepscope.advisor.config import Config, load_config
from stepscope.advisor.rule_stubs import rule_stub
from stepscope.advisor.run import Written, _judge
from stepscope.profiler.storage import save

needs_toml = pytest.mark.skipif(sys.version_info < (3, 11), reason="needs tomllib")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a profile and a rule of its own, which is the working directory."""
    save(a_data_bound_run(), tmp_path / "profile.json")
    path = tmp_path / "ours" / "detect" / "own" / "my_rule.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(rule_stub("my_rule"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings(folder: Path, text: str) -> Path:
    path = folder / "pyproject.toml"
    path.write_text(text, encoding="utf-8")
    return path


def advise(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def rules_in(result: Result, key: str) -> set[str]:
    assert result.exit_code == 0, result.output
    return {rule["rule"] for rule in json.loads(result.stdout)[key]}


@needs_toml
def test_rules_and_thresholds_of_the_project_take_part(project: Path) -> None:
    settings(project, '[tool.stepscope]\nrules = ["ours"]\n')
    with_rules = advise("profile.json", "--json", "-")
    settings(
        project,
        '[tool.stepscope]\nrules = ["ours"]\n[tool.stepscope.thresholds]\nmy_rule_gain = 1000\n',
    )
    with_limit = advise("profile.json", "--json", "-")

    assert "my_rule" in rules_in(with_rules, "findings")
    assert "my_rule" in rules_in(with_limit, "not_fired")


@needs_toml
def test_the_call_has_the_last_word(project: Path) -> None:
    text = '[tool.stepscope]\nrules = ["ours"]\nthresholds = {my_rule_gain = 1000}\n'
    settings(project, text)
    theirs = project / "theirs" / "detect" / "own" / "my_rule.yaml"
    theirs.parent.mkdir(parents=True)
    theirs.write_text(rule_stub("my_rule").replace("what is wrong", "theirs"), encoding="utf-8")

    set_lower = advise("profile.json", "--set", "my_rule_gain=0.01", "--json", "-")
    replaced = advise("profile.json", "--rules", "theirs", "--json", "-")

    assert "my_rule" in rules_in(set_lower, "findings")
    titles = {rule["title"] for rule in json.loads(replaced.stdout)["not_fired"]}
    assert "TODO theirs (my_rule)" in titles


@needs_toml
def test_settings_are_found_from_the_working_directory_upwards(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = settings(project, '[tool.stepscope]\nrules = ["ours"]\n')
    inner = project / "a" / "b"
    inner.mkdir(parents=True)
    settings(inner, '[project]\nname = "inner"\ndependencies = ["stepscope"]\n')
    settings(inner.parent, "[[[ of others, which names stepscope\n")

    assert load_config(inner) == Config(file, (project / "ours",))
    monkeypatch.chdir(inner)
    listed = advise("rules", "list", "--json")
    assert "my_rule" in {entry["id"] for entry in json.loads(listed.stdout)}


@needs_toml
def test_without_settings_nothing_is_set(project: Path) -> None:
    assert load_config(project / "ours").file is None
    (project / "pyproject.toml").mkdir()
    assert load_config(project).file is None


@needs_toml
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[tool.stepscope]\nrules = [\n", "is not TOML"),
        ("[tool.stepscope]\ncolour = 1\n", "unknown field `colour`"),
        ('[tool.stepscope]\nrules = "ours"\n', "tool.stepscope.rules: Expected `array`"),
        ("[tool.stepscope]\nrules = [1]\n", "tool.stepscope.rules[0]: Expected `str`"),
        ('[tool.stepscope]\nrules = ["none"]\n', "no such directory"),
        ("[tool]\nstepscope = 3\n", "tool.stepscope: Expected `object`"),
        (
            "[tool.stepscope.thresholds]\nhealthy_gain = 'much'\n",
            "healthy_gain: 'much' is no number",
        ),
        ("[tool.stepscope.thresholds]\nhealthy_gain = true\n", "healthy_gain: True is no number"),
        ("[tool.stepscope.thresholds]\nhealthy_gain = nan\n", "healthy_gain: nan is no limit"),
    ],
)
@pytest.mark.parametrize("command", [("profile.json",), ("rules", "list")])
def test_settings_that_cannot_be_meant_are_refused(
    project: Path, text: str, words: str, command: tuple[str, ...]
) -> None:
    file = settings(project, text)
    before = sorted(project.rglob("*"))

    result = advise(*command)

    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert line.startswith(f"advise: {file}: ")
    assert words in line
    assert sorted(project.rglob("*")) == before


@needs_toml
def test_a_threshold_that_is_not_there_is_refused(project: Path) -> None:
    settings(project, "[tool.stepscope.thresholds]\nluck = 1\n")

    result = advise("profile.json")

    assert result.exit_code == 2
    assert "tool.stepscope.thresholds: no 'luck'; there are " in result.stderr


@needs_toml
def test_lint_and_test_reach_the_rules_of_the_project(project: Path) -> None:
    settings(project, '[tool.stepscope]\nrules = ["ours"]\n')

    linted = advise("rules", "lint")
    path = project / "ours" / "detect" / "own" / "my_rule.yaml"
    path.write_text(rule_stub("my_rule").replace("0.09}", "0.9}"), encoding="utf-8")
    tested = advise("rules", "test")

    assert linted.exit_code == 2
    assert "my_rule.yaml:7: is unfinished" in linted.stdout
    assert tested.exit_code == 1
    assert "my_rule should be silent" in tested.stdout


def without_tomllib(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Python 3.10."""
    monkeypatch.setitem(sys.modules, "tomllib", None)


def test_python_3_10_says_that_it_does_not_read_them(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = settings(project, '[tool.stepscope]\nrules = ["ours"]\n')
    without_tomllib(monkeypatch)

    result = advise("profile.json", "--json", "-")

    assert result.stderr == (
        f"advise: {file}: [tool.stepscope] is not read on Python 3.10; use --rules and --set\n"
    )
    assert "my_rule" not in rules_in(result, "findings")


def test_python_3_10_says_nothing_where_there_is_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings(project, '[project]\ndependencies = ["stepscope"]\n')
    without_tomllib(monkeypatch)

    assert advise("profile.json").stderr == ""


@pytest.mark.parametrize("broken", [lambda: b"\xff\xfe[tool.other", lambda: b"[[[", lambda: b""])
def test_files_of_others_are_none_of_our_business(
    project: Path, broken: Callable[[], bytes]
) -> None:
    (project / "pyproject.toml").write_bytes(broken() + b'\nx = "stepscope"\n')

    assert advise("profile.json").exit_code == 0


@needs_toml
def test_advise_run_uses_them_and_their_faults_are_no_trouble_of_the_program(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings(project, '[tool.stepscope]\nrules = ["ours"]\nthresholds = {healthy_gain = 1000}\n')
    _judge([Written(0, project / "profile.json")])
    judged = capsys.readouterr().err
    settings(project, "[tool.stepscope]\ncolour = 1\n")
    _judge([Written(0, project / "profile.json")])
    refused = capsys.readouterr().err

    assert "HEALTHY" in judged
    assert refused.startswith("advise: ")
    assert "unknown field `colour`" in refused
