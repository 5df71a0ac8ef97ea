from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from stepscope.advisor.cli import cli
from stepscope.advisor.knowledge import Knowledge, KnowledgeError
from stepscope.advisor.lint import Problem, lint
from stepscope.advisor.rule_files import built_in, load_knowledge
from stepscope.advisor.rule_stubs import combination_stub, method_stub, rule_stub

KNOWLEDGE = load_knowledge()
RULE = rule_stub("my_rule").replace("TODO", "Done,")
METHOD = method_stub("my-method").replace("TODO", "Done,")
COMBINATION = combination_stub("my-group").replace("TODO", "Done,")


def place(folder: Path, kind: str, name: str, text: str, group: str = "own") -> Path:
    path = folder / kind / group / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def errors(folder: Path) -> list[Problem]:
    return [problem for problem in lint(folder, KNOWLEDGE).problems if problem.is_error]


def notes(folder: Path) -> list[Problem]:
    return [problem for problem in lint(folder, KNOWLEDGE).problems if not problem.is_error]


def line_with(text: str, part: str) -> int:
    return next(i for i, line in enumerate(text.splitlines(), 1) if part in line)


def changed(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new, 1)


RULE_FAULTS = {
    "no close call": (
        "{gain.cpu_preprocessing.transform: 0.09}",
        "{gain.cpu_preprocessing.transform: 0.05}",
        "silent:",
        "`fixtures.silent`: none is just short of firing",
    ),
    "schema": ("op: ", "operator: ", "- {fact:", "`when.all[0]`: "),
    "not YAML": ("title: ", "title: [", "cause:", "is not YAML"),
    "cause": ("cause: cpu_pre", "cause: gpu_pre", "cause:", "`cause`: 'gpu_preprocessing"),
    "method": ("sy-workers", "sy-wonders", "advise:", "`advise`: 'sy-wonders' does not exist"),
    "root": (
        "references:",
        "suppressed_by: [nobody]\nreferences:",
        "suppressed_by: [no",
        "`suppressed_by`: 'nobody' does not exist",
    ),
    "own root": (
        "references:",
        "suppressed_by: [my_rule]\nreferences:",
        "suppressed_by: [my",
        "`suppressed_by`: a rule is not its own root",
    ),
    "fact": ("{fact: gain.cpu", "{fact: pain.cpu", "pain.cpu", "no fact is called 'pain.cpu"),
    "fact of a fixture": (
        "{data.wait_share: 0.5}",
        "{data.weight: 0.5}",
        "data.weight",
        "`fixtures.unknown[0]`: no fact is called 'data.weight'",
    ),
    "flag as a number": (
        "{data.wait_share: 0.5}",
        "{loader.pin_memory: 1}",
        "loader.pin_memory",
        "`fixtures.unknown[0]`: loader.pin_memory is measured as flag, not 1",
    ),
    "number as a flag": (
        "{data.wait_share: 0.5}",
        "{run.steps: true}",
        "run.steps",
        "`fixtures.unknown[0]`: run.steps is measured as count, not True",
    ),
    "fact in evidence": (
        "{gain.cpu_preprocessing.transform} more",
        "{gain.luck} more",
        "{gain.luck}",
        "`evidence`: no fact is called 'gain.luck'",
    ),
    "nothing in evidence": (
        "{gain.cpu_preprocessing.transform} more",
        "some more",
        "evidence:",
        "`evidence`: shows no measured value",
    ),
    "limit without reason": (
        "reason: Done, why this limit and no other",
        'reason: " "',
        "reason:",
        "`thresholds.my_rule_gain.reason`: is empty",
    ),
    "limit that is not used": (
        "thresholds:\n",
        "thresholds:\n  spare: {default: 1, reason: none}\n",
        "spare:",
        "`thresholds.spare`: is not used",
    ),
    "limit that is not there": (
        "threshold: my_rule_gain",
        "threshold: your_gain",
        "your_gain",
        "`when`: 'your_gain' does not exist",
    ),
    "few that fire": (
        "    - facts: {gain.cpu_preprocessing.transform: 0.5}\n      note: well past the limit\n",
        "",
        "fires:",
        "`fixtures.fires`: 1 case, at least 2 needed",
    ),
    "few that are silent": (
        "    - facts: {gain.cpu_preprocessing.transform: 0.0}\n      note: far from it\n",
        "",
        "silent:",
        "`fixtures.silent`: 1 case, at least 2 needed",
    ),
    "none that is undecided": (
        "  unknown:\n    - facts: {data.wait_share: 0.5}\n"
        "      note: the deciding fact was not measured\n",
        "",
        "fixtures:",
        "`fixtures.unknown`: 0 cases, at least 1 needed",
    ),
    "no source": (
        "references:\n  - Done, where this can be read about; a link, or arXiv:1234.56789\n",
        "",
        "# A detection rule",
        "`references`: name at least one source",
    ),
    "no advice": ("[sy-workers]", "[]", "advise:", "`advise`: names no method"),
    "useless advice": ("[sy-workers]", "[sy-gc]", "advise:", "`advise`: none of these methods"),
    "advice given twice": (
        "[sy-workers]",
        "[sy-workers, sy-collate, sy-workers]",
        "advise:",
        "`advise`: names sy-workers more than once",
    ),
    "key given twice": (
        "fixtures:\n",
        "why: again\nfixtures:\n",
        "why: again",
        "`why`: stands here a second time",
    ),
    "nested key given twice": (
        "    default: 0.1",
        "    default: 0.2\n    default: 0.1",
        "default: 0.1",
        "`default`: stands here a second time",
    ),
    "blank title": (
        "title: Done, what is wrong (my_rule)",
        "title: ''",
        "title:",
        "`title`: is empty",
    ),
    "title of another": (
        "Done, what is wrong (my_rule)",
        KNOWLEDGE.rules["idle_cores"].title,
        "title:",
        "`title`: idle_cores is called the same",
    ),
    "to do": ("note: far from it", "note: TODO", "note: TODO", "is unfinished: note: TODO"),
}

METHOD_FAULTS = {
    "no cost": ("kind: exact", "kind: algorithmic", "kind:", "`kind`: is algorithmic: say under"),
    "cost of an exact one": (
        "loads: []",
        "loads: []\ncost: {step: shorter, steps: more}",
        "steps: more}",
        "`cost`: belongs to algorithmic methods; this one is exact",
    ),
    "schema": ("kind: exact", "kind: magic", "kind: magic", "`kind`: "),
    "cause": ("helps: [cpu", "helps: [gpu", "helps:", "`helps`: 'gpu_preprocessing"),
    "no help": ("helps: [cpu_preprocessing.transform]", "helps: []", "helps:", "`helps`: is empty"),
    "no action": ("actions: [replace]", "actions: []", "actions:", "`actions`: is empty"),
    "helps and loads": (
        "loads: []",
        "loads: [cpu_preprocessing.transform]",
        "loads: [",
        "`loads`: cpu_preprocessing.transform stands in `helps` too",
    ),
    "fact": (
        "# conflicts_with: [other-method]",
        "requires: {fact: gpu.luck, op: '==', value: 1}",
        "gpu.luck, op",
        "`requires`: no fact is called 'gpu.luck'",
    ),
    "conflict": (
        "# conflicts_with: [other-method]",
        "conflicts_with: [none-such]",
        "none-such",
        "`conflicts_with`: 'none-such' does not exist",
    ),
    "conflict with itself": (
        "# conflicts_with: [other-method]",
        "conflicts_with: [my-method]",
        "conflicts_with: [my",
        "`conflicts_with`: a method does not conflict with itself",
    ),
    "predictor without causes": (
        ", causes: [cpu_preprocessing.transform]}",
        "}",
        "predictor:",
        "`predictor`: `at_most` needs `causes`",
    ),
    "predictor with causes": (
        "name: at_most, causes",
        "name: workers, causes",
        "predictor:",
        "`predictor`: `workers` takes no `causes`",
    ),
    "predictor of something else": (
        "causes: [cpu_preprocessing.transform]",
        "causes: [host.gc]",
        "predictor:",
        "`predictor`: host.gc does not stand in `helps`",
    ),
    "code": (
        "  import torch\n",
        "  import torch as\n",
        "import torch as",
        "`how_to`: is not Python",
    ),
    "no code": (
        METHOD[METHOD.index("how_to:") : METHOD.index("effort:")],
        "how_to: ''\n",
        "how_to:",
        "`how_to`: is empty",
    ),
    "source": ("source: Done, who says so", "source: ''", "source:", "`effect.source`: is empty"),
    "paper that is not named": (
        "  provenance: F",
        "  provenance: P",
        "# A method, begun",
        "`citations`: the effect is said to come from a paper; cite it",
    ),
    "citation that leads nowhere": (
        "# citations:",
        "citations: [{title: A title}]\n#",
        "citations: [",
        "`citations[0]`: has neither `arxiv` nor `url`",
    ),
    "number of no paper": (
        "# citations:",
        "citations: [{title: A title, arxiv: '12.3'}]\n#",
        "citations: [",
        "`citations[0].arxiv`: '12.3' is no number",
    ),
    "address of nothing": (
        "# citations:",
        "citations: [{title: A title, url: 'javascript:alert(1)'}]\n#",
        "citations: [",
        "`citations[0].url`: 'javascript:alert(1)' is no address",
    ),
}


@pytest.mark.parametrize("fault", RULE_FAULTS)
def test_a_fault_of_a_rule_is_found_where_it_is(fault: str, tmp_path: Path) -> None:
    old, new, at, words = RULE_FAULTS[fault]
    text = changed(RULE, old, new)
    path = place(tmp_path, "detect", "my_rule", text)

    found = errors(tmp_path)

    # One fault may have a second one in its train, such as a limit that is then not used.
    assert 1 <= len(found) <= 2
    place_of_it = f"{path}:{line_with(text, at)}: "
    assert any(str(p).startswith(place_of_it) and words in p.message for p in found), found


@pytest.mark.parametrize("fault", METHOD_FAULTS)
def test_a_fault_of_a_method_is_found_where_it_is(fault: str, tmp_path: Path) -> None:
    old, new, at, words = METHOD_FAULTS[fault]
    text = changed(METHOD, old, new)
    path = place(tmp_path, "methods", "my-method", text)

    found = errors(tmp_path)

    # One fault may have a second one in its train, such as a limit that is then not used.
    assert 1 <= len(found) <= 2
    place_of_it = f"{path}:{line_with(text, at)}: "
    assert any(str(p).startswith(place_of_it) and words in p.message for p in found), found


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("sy-gpuaug]", "sy-gpuaid]", "`methods`: 'sy-gpuaid' does not exist"),
        (", sy-gpuaug]", "]", "`methods`: names too few methods to combine"),
        ("sy-gpuaug]", "sy-predecode]", "`methods`: names sy-predecode more than once"),
        ("relation: overlapping", "relation: ordered", "`relation`: `ordered` needs `partners`"),
        ("# partners", "partners", "`relation`: `overlapping` takes no `partners`"),
        ("relation: overlapping", "relation: friendly", "`relation`: Invalid enum value"),
        ("Done, who says so", "''", "`source`: is empty"),
        ("id: my-group", "id: your-group", "`id`: is 'your-group', the file name says otherwise"),
    ],
)
def test_a_fault_of_a_combination_is_found(old: str, new: str, words: str, tmp_path: Path) -> None:
    path = place(tmp_path, "combinations", "my-group", changed(COMBINATION, old, new))

    [problem] = errors(tmp_path)

    assert problem.file == str(path)
    assert problem.message.startswith(words)


def test_nothing_is_wrong_with_a_finished_combination(tmp_path: Path) -> None:
    place(tmp_path, "combinations", "my-group", COMBINATION)

    report = lint(tmp_path, KNOWLEDGE)

    assert (report.problems, report.combinations) == ([], 1)


def test_nothing_is_wrong_with_a_finished_rule_and_method(tmp_path: Path) -> None:
    place(tmp_path, "detect", "my_rule", changed(RULE, "[sy-workers]", "[my-method]"))
    place(tmp_path, "methods", "my-method", METHOD)

    report = lint(tmp_path, KNOWLEDGE)

    assert report.problems == []
    assert (report.rules, report.methods) == (1, 1)


def test_all_faults_of_all_files_are_told_at_once_in_order(tmp_path: Path) -> None:
    place(tmp_path, "detect", "my_rule", changed(RULE, "sy-workers", "sy-wonders"))
    place(tmp_path, "detect", "broken", "id: [\n")
    place(tmp_path, "methods", "my-method", changed(METHOD, "effort: hours", "effort: years"))

    found = errors(tmp_path)

    assert [Path(problem.file).stem for problem in found] == ["broken", "my_rule", "my-method"]
    assert found == sorted(found)


def test_a_method_that_nobody_advises_is_no_error(tmp_path: Path) -> None:
    place(tmp_path, "methods", "my-method", METHOD)

    assert errors(tmp_path) == []
    assert [note.message for note in notes(tmp_path)] == ["`id`: no rule advises my-method"]


def test_replacing_a_built_in_rule_is_told(tmp_path: Path) -> None:
    source = KNOWLEDGE.sources["idle_cores"]
    place(tmp_path, "detect", "idle_cores", changed(source.text, "default: 0.6", "default: 0.5"))

    assert errors(tmp_path) == []
    assert f"replaces {source.file}" in notes(tmp_path)[0].message


def test_a_copy_of_the_built_in_files_replaces_nothing(tmp_path: Path) -> None:
    place(tmp_path, "detect", "idle_cores", KNOWLEDGE.sources["idle_cores"].text)

    assert lint(tmp_path, KNOWLEDGE).problems == []


def test_an_id_that_is_taken_is_an_error(tmp_path: Path) -> None:
    place(tmp_path, "detect", "my_rule", RULE)
    place(tmp_path, "detect", "my_rule", RULE, group="more")
    place(tmp_path, "detect", "sy-gc", RULE.replace("my_rule", "sy-gc", 1))

    found = " ".join(problem.message for problem in errors(tmp_path))

    assert "'my_rule' is also the id of" in found
    assert "'sy-gc' is also the id of" in found


def test_an_id_that_cannot_stand_in_an_address_is_an_error(tmp_path: Path) -> None:
    place(tmp_path, "detect", "My rule", RULE.replace("id: my_rule", "id: My rule"))

    assert "small letters" in errors(tmp_path)[0].message


def test_two_rules_are_not_each_others_root(tmp_path: Path) -> None:
    roots = {"my_rule": "your_rule", "your_rule": "my_rule"}
    for name, root in roots.items():
        text = RULE.replace("my_rule", name)
        place(
            tmp_path,
            "detect",
            name,
            changed(text, "references:", f"suppressed_by: [{root}]\nreferences:"),
        )

    assert len([p for p in errors(tmp_path) if "names this rule as its root too" in p.message]) == 2


@pytest.mark.parametrize(
    "name", ["detect/loose.yaml", "methods/own/other.yml", "detect/a/b/deep.yaml"]
)
def test_files_that_nobody_reads_are_told(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_text(RULE, encoding="utf-8")

    [problem] = errors(tmp_path)

    assert str(problem).startswith(f"{path}:1: is not read")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"a: &a [*a]\n", b"- \n" * 9, b"{" * 5000])
def test_files_that_are_no_rules_are_errors_like_others(content: bytes, tmp_path: Path) -> None:
    place(tmp_path, "detect", "bad", "").write_bytes(content)

    assert len(errors(tmp_path)) == 1


def test_a_folder_without_rules_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KnowledgeError, match="has none of detect, methods, combinations inside"):
        lint(tmp_path, KNOWLEDGE)
    with pytest.raises(KnowledgeError, match="no such directory"):
        lint(tmp_path / "none", KNOWLEDGE)


def run(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli, ["rules", "lint", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_the_command_prints_each_problem_and_the_count(tmp_path: Path) -> None:
    path = place(tmp_path, "detect", "my_rule", changed(RULE, "sy-workers", "sy-wonders"))
    place(tmp_path, "methods", "my-method", METHOD)

    code, out, err = run(tmp_path)

    assert (code, err) == (2, "")
    first, second, last = out.splitlines()
    at = line_with(path.read_text(encoding="utf-8"), "sy-wonders")
    assert first == f"{path}:{at}: `advise`: 'sy-wonders' does not exist"
    assert ": note: `id`: no rule advises my-method" in second
    assert last == "1 rule, 1 method, 0 combinations: 1 error, 1 note"


def test_notes_alone_are_no_failure(tmp_path: Path) -> None:
    place(tmp_path, "methods", "my-method", METHOD)

    code, out, _ = run(tmp_path)

    assert code == 0
    assert out.endswith("0 rules, 1 method, 0 combinations: 0 errors, 1 note\n")


def test_without_a_folder_the_built_in_files_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    report = lint(built_in(), Knowledge({}, {}))

    code, out, _ = run()

    assert out.splitlines()[-1].startswith(f"{report.rules} rules, {report.methods} methods, ")
    assert code == (2 if any(problem.is_error for problem in report.problems) else 0)
