from __future__ import annotations

import json
from pathlib import Path

import pytest
from builders import a_data_bound_run, a_healthy_run
from click.testing import CliRunner

from stepscope.advisor.cli import cli
from stepscope.advisor.knowledge import KnowledgeError
from stepscope.advisor.rule_files import load_knowledge
from stepscope.advisor.what_if import what_if
from stepscope.profiler.storage import save

KNOWLEDGE = load_knowledge()


def test_each_is_told_alone_and_on_top_of_those_before() -> None:
    found = what_if(["sy-predecode", "sy-workers"], a_data_bound_run(), KNOWLEDGE)

    first, second = found.parts
    assert first.alone == first.on_top
    assert first.alone is not None
    assert second.alone is not None
    assert second.on_top is not None
    # Half of the preparation is gone: more workers have less left to gain.
    assert second.on_top.speedup < second.alone.speedup
    assert found.speedup == pytest.approx(first.alone.speedup * second.on_top.speedup)
    assert found.kappa == pytest.approx(second.on_top.speedup / second.alone.speedup)
    assert found.low < found.speedup < found.high


def test_methods_of_which_only_the_literature_speaks_multiply_nothing() -> None:
    found = what_if(["fa-sdblock", "fp-freeze"], a_healthy_run(), KNOWLEDGE)

    assert (found.speedup, found.kappa) == (1, 1)
    for part in found.parts:
        assert part.alone is None
        assert part.factors is not None
        assert part.factors.step_speedup_at_most > 1.5
        assert part.reported
    assert {each.title for each in found.interplay} == {"Regularisers"}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["sy-nothing"], "there is no method 'sy-nothing'"),
        (["sy-gc", "sy-gc"], "sy-gc is named twice"),
        (["sy-workers", "sy-serial-loading"], "sy-workers and sy-serial-loading exclude each"),
        (["sy-serial-loading", "sy-any-order"], "exclude each other"),
        (["sy-any-order", "sy-serial-loading"], "exclude each other"),
    ],
)
def test_what_does_not_go_together_is_refused(names: list[str], words: str) -> None:
    with pytest.raises(KnowledgeError, match=words):
        what_if(names, a_data_bound_run(), KNOWLEDGE)


def test_the_command_prints_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(a_data_bound_run(), Path("profile.json"))

    shown = CliRunner().invoke(cli, ["what-if", "profile.json", "sy-workers", "dt-sb", "oa-sam"])
    data = CliRunner().invoke(cli, ["what-if", "profile.json", "sy-workers", "--json"])
    refused = CliRunner().invoke(cli, ["what-if", "none.json", "sy-workers"])

    assert shown.exit_code == 0, shown.stderr
    for words in ("Together ", "kappa", "not predicted; reported: ", "which is free (model)"):
        assert words in " ".join(shown.stdout.split())
    assert json.loads(data.stdout)["parts"][0]["method"] == "sy-workers"
    assert refused.exit_code == 2
    assert refused.stderr.startswith("advise: none.json")
