from __future__ import annotations

import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from builders import a_data_bound_run

from stepscope.advisor.advise import advise
from stepscope.advisor.causes import CATEGORIES, CAUSES
from stepscope.advisor.engine import fill
from stepscope.advisor.facts import Facts
from stepscope.advisor.fixtures import Fixture, fixtures_of
from stepscope.advisor.knowledge import Condition, Knowledge, KnowledgeError, Predictor, Rule
from stepscope.advisor.lint import lint
from stepscope.advisor.predict import PREDICTORS
from stepscope.advisor.rule_files import built_in, load_knowledge

KNOWLEDGE = load_knowledge()
ROOT = Path(str(files("stepscope.rules")))
PLACE = re.compile(r"\{([^{}]*)\}")

every_rule = pytest.mark.parametrize("rule", KNOWLEDGE.rules.values(), ids=lambda r: r.id)


@pytest.mark.parametrize(
    "fixture", list(fixtures_of(KNOWLEDGE)), ids=lambda fixture: f"{fixture.rule.id}-{fixture.key}"
)
def test_a_rule_judges_its_fixtures_as_it_says(fixture: Fixture) -> None:
    found = fixture.run()

    assert found.truth is fixture.expected, f"{fixture.case.note}: {found.deciding}"
    assert bool(found.missing) is (fixture.expected is None)


def test_the_built_in_files_pass_the_lint() -> None:
    report = lint(built_in(), Knowledge({}, {}))

    assert [str(problem) for problem in report.problems if problem.is_error] == []
    assert (report.rules, report.methods) == (len(KNOWLEDGE.rules), len(KNOWLEDGE.methods))


@every_rule
def test_a_rule_is_written_in_the_house_style(rule: Rule) -> None:
    assert rule.title[0].isupper()
    assert not rule.title.endswith(".")
    assert rule.why.rstrip().endswith(".")
    assert rule.evidence.rstrip().endswith(".")


@every_rule
def test_evidence_reads_as_a_sentence_once_filled(rule: Rule) -> None:
    facts: Facts = dict.fromkeys(PLACE.findall(rule.evidence), 1)

    filled = fill(rule.evidence, facts)

    assert "{" not in filled
    assert "not measured" not in filled


def test_there_is_something_for_every_category() -> None:
    assert len(KNOWLEDGE.rules) >= 10
    assert len(KNOWLEDGE.methods) >= 25
    assert {CAUSES[rule.cause].category for rule in KNOWLEDGE.rules.values()} == set(CATEGORIES)
    helped = {CAUSES[cause].category for m in KNOWLEDGE.methods.values() for cause in m.helps}
    assert helped == set(CATEGORIES)


def test_the_five_actions_and_all_components_occur() -> None:
    methods = KNOWLEDGE.methods.values()

    actions = {action for method in methods for action in method.actions}
    assert actions == {"remove", "restrict", "reorder", "replace", "retrofit"}
    components = {method.component for method in methods}
    assert components == {"function", "data", "optimization", "systems"}


def test_every_file_is_loaded_once() -> None:
    names = [path.stem for path in ROOT.rglob("*.yaml")]

    known = [*KNOWLEDGE.rules, *KNOWLEDGE.methods, *KNOWLEDGE.combinations]
    assert sorted(names) == sorted(known)
    assert {path.suffix for path in ROOT.rglob("*") if path.is_file()} <= {
        ".yaml",
        ".py",
        "",
        ".pyc",
        ".typed",
    }


def test_files_lie_where_they_belong() -> None:
    for path in ROOT.glob("detect/*/*.yaml"):
        assert KNOWLEDGE.rules[path.stem].cause.startswith(f"{path.parent.name}.")
    for path in ROOT.glob("methods/*/*.yaml"):
        assert KNOWLEDGE.methods[path.stem].component == path.parent.name


def test_the_format_and_the_predictors_agree() -> None:
    assert set(get_args(get_type_hints(Predictor)["name"])) == set(PREDICTORS)


def test_threshold_names_are_those_of_the_rules() -> None:
    assert {"healthy_gain", "worthwhile_gain"} <= KNOWLEDGE.threshold_names()


def text_of(kind: str, name: str) -> str:
    return next((ROOT / kind).rglob(f"{name}.yaml")).read_text(encoding="utf-8")


def written(folder: Path, kind: str, name: str, text: str | bytes) -> Path:
    """`folder` with one rule or method in it."""
    path = folder / kind / "mine" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def line_with(text: str, part: str) -> int:
    return next(i for i, line in enumerate(text.splitlines(), 1) if part in line)


@pytest.mark.parametrize(
    ("old", "new", "at", "key"),
    [
        ("title: ", "title: [", "cause:", None),
        ("advise: ", "colour: red\nadvise: ", "colour:", "colour"),
        ("default: 0.05", "default: much", "thresholds:", "thresholds[...].default"),
        ("threshold: worthwhile_gain}", "value: [1]}", "op:", "when.all[0].value"),
        ('op: ">="', 'op: "=~"', "op:", "when.all[0].op"),
        ('op: ">=", ', "", "fact:", "when.all[0]"),
        ("fact: gain.", "fact: gaim.", "gaim.", "when"),
        ("threshold: worthwhile_gain", "threshold: unheard_of", "unheard_of", "when"),
        ("threshold: worthwhile_gain", "value: high", "value: high", "when"),
        ("threshold: worthwhile_gain", "other: torch.autocast", "torch.autocast", "when"),
        ("cause: cpu_preprocessing.", "cause: cpu.", "cause:", "cause"),
        ("sy-collate", "sy-conjure", "sy-conjure", "advise"),
        ("advise: ", "suppressed_by: [nobody]\nadvise: ", "nobody", "suppressed_by"),
        ("id: slow_collate", "id: slow_colatte", "id:", "id"),
    ],
)
def test_a_bad_rule_is_refused_with_file_line_and_key(
    tmp_path: Path, old: str, new: str, at: str, key: str | None
) -> None:
    text = text_of("detect", "slow_collate")
    assert old in text
    changed = text.replace(old, new, 1)
    path = written(tmp_path, "detect", "slow_collate", changed)

    with pytest.raises(KnowledgeError) as caught:
        load_knowledge([tmp_path])

    message = str(caught.value)
    place, _, reason = message.removeprefix(f"{path}:").partition(": ")
    assert message.startswith(f"{path}:")
    assert int(place) == line_with(changed, at)
    assert (f"`{key}`" if key else "is not YAML") in reason


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, "detect", "mine", "id: mine\n")

    with pytest.raises(KnowledgeError, match=re.escape(f"{path}:1: ") + ".*required field `title`"):
        load_knowledge([tmp_path])


@pytest.mark.parametrize(
    ("old", "new", "at", "key"),
    [
        ("predictor: {name: workers}", "predictor: {name: wishes}", "wishes", "predictor.name"),
        (
            "predictor: {name: workers}",
            "predictor: {name: remove, causes: [x.y]}",
            "x.y",
            "predictor",
        ),
        ("kind: exact", "kind: magic", "kind:", "kind"),
        ("helps:", "helps:\n  - data_loading.luck", "data_loading.luck", "helps"),
        ("loads: [", "loads: [memory.luck, ", "memory.luck", "loads"),
        ("tempting:", "conflicts_with: [sy-none]\ntempting:", "sy-none", "conflicts_with"),
        (
            "tempting:",
            "requires: {fact: no.fact, op: '>', value: 1}\ntempting:",
            "no.fact",
            "requires",
        ),
        (
            "tempting:",
            "already_on: {fact: loader.pin_memory, op: '>', value: true}\ntempting:",
            "already_on",
            "already_on",
        ),
        (
            "tempting:",
            "requires: {fact: gpu.count, op: '>', threshold: some}\ntempting:",
            "some",
            "requires",
        ),
    ],
)
def test_a_bad_method_is_refused_with_file_line_and_key(
    tmp_path: Path, old: str, new: str, at: str, key: str
) -> None:
    text = text_of("methods", "sy-workers")
    assert old in text
    changed = text.replace(old, new, 1)
    path = written(tmp_path, "methods", "sy-workers", changed)

    with pytest.raises(KnowledgeError) as caught:
        load_knowledge([tmp_path])

    assert str(caught.value).startswith(f"{path}:{line_with(changed, at)}: `{key}`: ")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"- a list\n",
        b"just words\n",
        b"a: \x00\n",
        "title: ä".encode("latin-1"),
        b"\xff\xfe",
        b"a: &a [*b]",
    ],
)
def test_files_that_are_no_mapping_are_refused(tmp_path: Path, content: bytes) -> None:
    path = written(tmp_path, "detect", "mine", content)

    with pytest.raises(KnowledgeError, match=re.escape(f"{path}:1: ")):
        load_knowledge([tmp_path])


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KnowledgeError, match="no such directory"):
        load_knowledge([tmp_path / "none"])


@pytest.mark.parametrize(
    "make",
    [
        Condition,
        lambda: Condition(fact="run.steps"),
        lambda: Condition(fact="run.steps", op=">"),
        lambda: Condition(fact="run.steps", op=">", value=1, threshold="much"),
        lambda: Condition(fact="run.steps", op=">", value=1, all=[]),
        lambda: Condition(all=[], any=[]),
        lambda: Condition(all=[], op=">"),
    ],
)
def test_a_condition_has_exactly_one_form(make: Callable[[], Condition]) -> None:
    with pytest.raises(ValueError, match=r"condition|comparison|takes no"):
        make()


def test_a_users_rule_replaces_the_one_of_the_same_name(tmp_path: Path) -> None:
    text = text_of("detect", "slow_transform")
    changed = re.sub(r"^title: .*$", "title: Our own words for it", text, flags=re.MULTILINE)
    written(tmp_path, "detect", "slow_transform", changed)

    mine = load_knowledge([tmp_path])

    assert set(mine.rules) == set(KNOWLEDGE.rules)
    findings = advise(a_data_bound_run(), mine).findings
    assert "Our own words for it" in [finding.title for finding in findings]


def test_a_users_rule_and_method_join_the_others(tmp_path: Path) -> None:
    method = text_of("methods", "sy-collate").replace("id: sy-collate", "id: my-method", 1)
    rule = text_of("detect", "slow_transform").replace("id: slow_transform", "id: my_rule", 1)
    rule = re.sub(r"^advise:", "advise:\n  - my-method", rule, flags=re.MULTILINE)
    written(tmp_path, "methods", "my-method", method)
    written(tmp_path, "detect", "my_rule", rule)

    mine = load_knowledge([tmp_path])

    assert set(mine.rules) - set(KNOWLEDGE.rules) == {"my_rule"}
    assert mine.rules["my_rule"].advise[0] == "my-method"
    fired = [finding.rule for finding in advise(a_data_bound_run(), mine).findings]
    assert {"my_rule", "slow_transform"} <= set(fired)


def test_later_folders_win(tmp_path: Path) -> None:
    text = text_of("detect", "slow_collate")
    for name in ("first", "second"):
        changed = re.sub(r"^title: .*$", f"title: The {name}", text, flags=re.MULTILINE)
        written(tmp_path / name, "detect", "slow_collate", changed)

    mine = load_knowledge([tmp_path / "first", tmp_path / "second"])

    assert mine.rules["slow_collate"].title == "The second"
