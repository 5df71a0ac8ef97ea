from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from builders import a_data_bound_run
from click.testing import CliRunner, Result
from rich.cells import cell_len
from rich.console import Console

from stepscope.advisor import rule_words
from stepscope.advisor.cli import cli
from stepscope.advisor.knowledge import Combination, Method, Predictor, Rule
from stepscope.advisor.lint import NEED_CAUSES
from stepscope.advisor.predict import PREDICTORS
from stepscope.advisor.rule_cards import cards_of
from stepscope.advisor.rule_files import load_knowledge
from stepscope.advisor.rule_terminal import print_card
from stepscope.profiler.storage import save

KNOWLEDGE = load_knowledge()
DOCUMENT = Path(__file__).parents[2] / "docs" / "rules.md"


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A terminal of known width, in a folder without settings."""
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["rules", *(str(argument) for argument in arguments)])


def refusal(result: Result) -> str:
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith("advise: ")
    return result.stderr


def flat(result: Result) -> str:
    """What was printed, without line breaks and indentation."""
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


def write_rule(folder: Path, name: str, old: str = "", new: str = "") -> Path:
    """The stub of a rule with nothing left to do, and one more change."""
    call("new", "rule", name, "--dir", folder)
    return finish(folder / "detect" / "own" / f"{name}.yaml", old, new)


def write_method(folder: Path, name: str, old: str = "", new: str = "") -> Path:
    call("new", "method", name, "--dir", folder)
    return finish(folder / "methods" / "own" / f"{name}.yaml", old, new)


def finish(path: Path, old: str, new: str) -> Path:
    text = path.read_text(encoding="utf-8").replace("TODO", "Done,")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return path


# list


def test_list_shows_everything_and_counts_it() -> None:
    result = call("list")

    shown = flat(result)
    for name in (*KNOWLEDGE.rules, *KNOWLEDGE.methods, *KNOWLEDGE.combinations):
        assert name in shown
    assert f"{len(KNOWLEDGE.rules)} rules, {len(KNOWLEDGE.methods)} methods" in shown
    assert max(map(cell_len, result.stdout.splitlines())) <= 100
    assert "\x1b" not in result.stdout


def listed(*arguments: str | Path) -> list[dict[str, object]]:
    result = call("list", "--json", *arguments)
    assert result.exit_code == 0, result.output
    found: list[dict[str, object]] = json.loads(result.stdout)
    return found


def test_list_as_json_says_what_each_is() -> None:
    entries = {entry["id"]: entry for entry in listed()}

    assert entries["slow_collate"] == {
        "id": "slow_collate",
        "kind": "rule",
        "title": KNOWLEDGE.rules["slow_collate"].title,
        "causes": ["cpu_preprocessing.collate"],
        "component": None,
        "actions": [],
        "mathematics": None,
        "effort": None,
    }
    assert entries["sy-workers"]["component"] == "systems"
    assert entries["sy-workers"]["effort"] == "minutes"
    everything = [*KNOWLEDGE.rules, *KNOWLEDGE.methods, *KNOWLEDGE.combinations]
    assert len(entries) == len(everything)


@pytest.mark.parametrize(
    ("options", "there", "not_there"),
    [
        (["--kind", "rule"], "slow_collate", "sy-workers"),
        (["--kind", "method"], "sy-workers", "slow_collate"),
        (["--category", "host"], "device_sync", "slow_collate"),
        (["--category", "cpu_preprocessing"], "sy-workers", "sy-gc"),
        (["--component", "data"], "dt-prune", "sy-workers"),
        (["--action", "remove"], "dt-prune", "sy-workers"),
        (["--effort", "days"], "dt-prune", "sy-workers"),
        (["--effort", "minutes", "--component", "systems"], "sy-workers", "dt-prune"),
    ],
)
def test_filters_narrow_the_list(options: list[str], there: str, not_there: str) -> None:
    ids = {entry["id"] for entry in listed(*options)}

    assert there in ids
    assert not_there not in ids


def test_filters_hold_together() -> None:
    both = listed("--category", "host", "--kind", "method", "--effort", "minutes")

    expected = {
        method.id
        for method in KNOWLEDGE.methods.values()
        if method.effort == "minutes" and any(cause.startswith("host.") for cause in method.helps)
    }
    assert {entry["id"] for entry in both} == expected
    assert listed("--kind", "rule", "--effort", "minutes") == []
    nothing = call("list", "--kind", "rule", "--effort", "minutes")
    assert flat(nothing) == "0 rules, 0 methods, 0 combinations"


def test_list_shows_ones_own(tmp_path: Path) -> None:
    write_rule(tmp_path / "mine", "my_rule")

    assert "my_rule" in {entry["id"] for entry in listed("--rules", tmp_path / "mine")}
    assert "my_rule" not in {entry["id"] for entry in listed()}


def test_an_unknown_filter_is_refused() -> None:
    assert call("list", "--category", "luck").exit_code == 2
    assert call("list", "--effort", "none").exit_code == 2


# explain


def card(name: str) -> str:
    """What `explain` shows, without reading all rules again."""
    shown = io.StringIO()
    for found in cards_of(name, KNOWLEDGE):
        print_card(found, Console(file=shown, width=100))
    assert shown.getvalue()
    return " ".join(shown.getvalue().split())


def test_a_rule_is_explained_with_limits_and_reasons() -> None:
    rule = KNOWLEDGE.rules["idle_cores"]
    shown = flat(call("explain", "idle_cores"))

    assert rule.title in shown
    assert "forward and backward arithmetic (compute.arithmetic)" in shown
    assert "gpu.count (CUDA devices that the model lives on) is 0, and" in shown
    assert "is less than cpu.usable_cores (cores granted by affinity and cgroup quota)" in shown
    assert "is at least 30 % (relevant_share)" in shown
    for name, threshold in rule.thresholds.items():
        assert f"{name} = " in shown
        assert " ".join(threshold.reason.split()) in shown
    assert "sy-threads: Let operators use all cores" in shown
    assert f"{len(rule.fixtures.fires)} in which it fires" in shown
    assert "https://docs.pytorch.org/tutorials" in shown


def test_a_method_is_explained_with_code_and_sources() -> None:
    method = KNOWLEDGE.methods["fp-amp"]
    result = call("explain", "fp-amp")
    shown = flat(result)

    assert method.how_to.strip() in result.stdout
    for text in (method.name, method.summary, method.quality_risk, method.when_not):
        assert " ".join(text.split()) in shown
    assert "numerics: rounding changes" in shown
    assert "Compute: arithmetic" in shown
    assert "is more than 1.10" in shown
    assert "is not off" in shown
    assert "Mixed Precision Training, arXiv:1710.03740" in shown
    assert "arithmetic_bound: " in shown


def test_only_what_was_read_in_a_paper_is_called_a_paper() -> None:
    for method in KNOWLEDGE.methods.values():
        shown = card(method.id)
        effect = shown.partition("What others report")[2].partition("Where we have it from")[0]
        assert effect
        if method.effect.provenance == "P":
            assert "(paper)" in effect
        else:
            assert "(paper)" not in effect
        if method.effect.provenance in ("M", "F"):
            assert "field knowledge, not checked against a paper" in effect


@pytest.mark.parametrize("name", [*KNOWLEDGE.rules, *KNOWLEDGE.methods, *KNOWLEDGE.combinations])
def test_everything_can_be_explained(name: str) -> None:
    shown = card(name)

    for text in ("None", "[]", "()", "{}"):
        assert f" {text} " not in shown.partition(" How ")[0]


@pytest.mark.parametrize("name", get_args(get_type_hints(Predictor)["name"]))
def test_every_predictor_is_put_in_words(name: Any) -> None:
    words = rule_words.predictor(Predictor(name=name, causes=["host.gc"]))

    assert words.endswith(".")
    assert ("garbage collection" in words) is (name in NEED_CAUSES)


def test_on_a_terminal_code_is_coloured_and_citations_are_links(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")

    result = CliRunner().invoke(cli, ["rules", "explain", "fp-amp"], color=True)

    assert ";https://arxiv.org/abs/1710.03740\x1b\\" in result.stdout
    assert re.search(r"\x1b\[[0-9;]+mimport", result.stdout)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("idle_core", "nearest: idle_cores"),
        ("sy-worker", "sy-workers"),
        ("xyzzy", "`advise rules list` shows them all"),
        ("", "there is no rule, method or combination ''"),
        ("../../etc/passwd", "there is no rule, method or combination"),
    ],
)
def test_an_unknown_id_is_refused_with_the_nearest(name: str, words: str) -> None:
    assert words in refusal(call("explain", name))


def test_text_of_a_rule_cannot_act_on_the_terminal(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    write_rule(folder, "my_rule", "Done, what is wrong", r'"\e[31mred \u202E [bold]x[/bold]"#')
    text = r'"http://x.org/\e]8;;evil \a"'
    write_method(folder, "my-method", "# citations:", f"citations: [{{title: A, url: {text}}}]\n#")

    rule = call("explain", "my_rule", "--rules", folder)
    method = call("explain", "my-method", "--rules", folder)

    assert "[bold]x[/bold]" in rule.stdout
    assert "\x1b" not in rule.stdout + method.stdout
    assert "\u202e" not in rule.stdout


# test


def test_the_fixtures_of_the_built_in_rules_come_out_as_they_say() -> None:
    assert re.fullmatch(r"\d+ rules, \d+ fixtures: all as they say", flat(call("test")))


def test_a_fixture_that_does_not_come_out_is_shown_with_file_and_margin(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    path = write_rule(folder, "my_rule", "transform: 0.09}", "transform: 0.2}")

    result = call("test", folder)

    assert result.exit_code == 1
    lines = path.read_text(encoding="utf-8").splitlines()
    line = next(i for i, text in enumerate(lines, 1) if "transform: 0.2}" in text)
    first, last = result.stdout.splitlines()
    assert first.startswith(f"{path}:{line}: `fixtures.silent[0]`: my_rule should be silent (just")
    assert "but fires: gain.cpu_preprocessing.transform is 20 %, needs at least 10 %" in first
    assert first.endswith("margin 100 %")
    assert last.endswith(": 1 failed")


def test_undecided_fixtures_are_tested_too(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    write_rule(folder, "my_rule", "data.wait_share: 0.5", "gain.cpu_preprocessing.transform: 0.0")
    write_rule(folder, "other_rule", "{gain.cpu_preprocessing.transform: 0.5}", "{run.steps: 5}")

    result = call("test", folder)

    assert result.exit_code == 1
    assert "my_rule should not be decidable" in result.stdout
    assert "other_rule should fire (well past the limit), but cannot be decided" in result.stdout


@pytest.mark.parametrize("command", ["test", "lint"])
def test_a_folder_that_is_not_there_is_refused(command: str, tmp_path: Path) -> None:
    assert "no such directory" in refusal(call(command, tmp_path / "none"))


def test_rules_that_cannot_be_read_are_refused_by_test(tmp_path: Path) -> None:
    write_rule(tmp_path / "mine", "my_rule", "op: ", "colour: ")

    assert "my_rule.yaml:" in refusal(call("test", tmp_path / "mine"))


# new


@pytest.mark.parametrize("kind", ["rule", "method"])
def test_a_new_file_lacks_only_what_says_so(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    written = call("new", kind, "my-own", "--dir", folder)

    path = Path(written.stdout.splitlines()[0])
    assert path.is_relative_to(folder)
    linted = call("lint", folder)
    assert linted.exit_code == 2
    errors = [line for line in linted.stdout.splitlines() if ": note: " not in line][:-1]
    assert errors
    assert all("TODO" in error for error in errors)
    finish(path, "", "")
    assert call("lint", folder).exit_code == 0, call("lint", folder).stdout
    assert call("test", folder).exit_code == 0


def test_new_never_overwrites(tmp_path: Path) -> None:
    path = write_rule(tmp_path, "my_rule")
    before = path.read_bytes()

    assert "is there already" in refusal(call("new", "rule", "my_rule", "--dir", tmp_path))
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["", "Big", "a b", "../up", "a/b", ".x", "ä", "1st", "-x y"])
def test_new_refuses_an_id_that_is_no_good_name(name: str, tmp_path: Path) -> None:
    result = call("new", "rule", "--dir", tmp_path / "mine", "--", name)

    assert "small letters" in refusal(result)
    assert list(tmp_path.iterdir()) == []


def test_new_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")

    assert "copy that file" in refusal(call("new", "rule", "idle_cores", "--dir", tmp_path))
    assert "copy that file" in refusal(call("new", "rule", "sy-workers", "--dir", tmp_path))
    assert "cannot be written" in refusal(call("new", "rule", "a", "--dir", tmp_path / "file"))
    assert call("new", "wish", "a").exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_new_goes_to_the_folder_of_the_project_or_a_plain_one(tmp_path: Path) -> None:
    call("new", "rule", "first")
    assert (tmp_path / "stepscope-rules" / "detect" / "own" / "first.yaml").is_file()

    (tmp_path / "ours").mkdir()
    (tmp_path / "pyproject.toml").write_text('[tool.stepscope]\nrules = ["ours"]\n', "utf-8")
    if "Python 3.10" in call("new", "rule", "second").output:
        pytest.skip("needs Python 3.11")
    assert (tmp_path / "ours" / "detect" / "own" / "second.yaml").is_file()


# What the documentation shows.


def examples() -> dict[str, str]:
    """The YAML files of the document by the path in their first line."""
    blocks = re.findall(r"```yaml\n# (\S+)\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    return dict(blocks)


def test_the_documents_example_passes_lint_and_test(tmp_path: Path) -> None:
    for name, text in examples().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")

    linted = call("lint", "my_rules")
    tested = call("test", "my_rules")

    assert linted.stdout == "1 rule, 1 method, 1 combination: 0 errors, 0 notes\n"
    assert tested.exit_code == 0, tested.stdout
    count = f"{len(KNOWLEDGE.rules) + 1} rules"
    assert tested.stdout.startswith(count)
    assert "tokenising_in_the_loop" in {entry["id"] for entry in listed("--rules", "my_rules")}


def test_the_documents_example_takes_part_in_advice(tmp_path: Path) -> None:
    for name, text in examples().items():
        changed = text.replace("tokenise_batch", "default_collate")
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(changed, encoding="utf-8")
    save(a_data_bound_run(), tmp_path / "profile.json")

    result = CliRunner().invoke(cli, ["profile.json", "--rules", "my_rules", "--json", "-"])

    assert "tokenising_in_the_loop" in json.dumps(json.loads(result.stdout))


def test_the_document_names_every_key_and_predictor() -> None:
    text = DOCUMENT.read_text("utf-8")
    fields = [name for kind in (Rule, Method, Combination) for name in kind.__struct_fields__]
    for name in (*fields, *PREDICTORS):
        assert f"`{name}`" in text, name
