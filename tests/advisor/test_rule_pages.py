from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

import pytest
from click.testing import CliRunner

from stepscope.advisor.cli import cli
from stepscope.advisor.fact_names import FACTS
from stepscope.advisor.rule_files import load_knowledge
from stepscope.advisor.rule_pages import pages_of, write_pages
from stepscope.advisor.rule_stubs import rule_stub

KNOWLEDGE = load_knowledge()
PAGES = pages_of(KNOWLEDGE)
COMMITTED = Path(__file__).parents[2] / "docs" / "knowledge"
LINK = re.compile(r"\]\(<?([^)>]+)>?\)")


def files_in(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in folder.rglob("*")
        if path.is_file()
    }


def docs(folder: Path, *options: str | Path) -> int:
    arguments = ["rules", "docs", str(folder), *map(str, options)]
    return CliRunner().invoke(cli, arguments).exit_code


def test_the_committed_pages_are_up_to_date() -> None:
    committed = files_in(COMMITTED)

    stale = sorted(name for name in PAGES if committed.get(name) != PAGES[name])
    assert stale == [], "run `make docs`"
    assert sorted(set(committed) - set(PAGES)) == [], "run `make docs`"


def test_there_is_a_page_for_each_rule_and_method() -> None:
    expected = {f"rules/{name}.md" for name in KNOWLEDGE.rules}
    expected |= {f"methods/{name}.md" for name in KNOWLEDGE.methods}
    expected |= {f"combinations/{name}.md" for name in KNOWLEDGE.combinations}

    assert set(PAGES) == expected | {"README.md", "facts.md"}


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_somewhere(name: str) -> None:
    text = re.sub(r"```.*?```", "", PAGES[name], flags=re.DOTALL)
    for target in LINK.findall(text):
        if not target.startswith("https://"):
            parts: list[str] = []
            for part in (PurePosixPath(name).parent / target).parts:
                parts = parts[:-1] if part == ".." else [*parts, part]
            assert "/".join(parts) in PAGES, target


def test_the_index_reaches_everything() -> None:
    index = PAGES["README.md"]
    by_bottleneck = index.partition("## By bottleneck")[2].partition("## By action")[0]
    by_action = index.partition("## By action")[2].partition("## All")[0]

    for rule in KNOWLEDGE.rules.values():
        row = next(line for line in by_bottleneck.splitlines() if f"`{rule.cause}`" in line)
        assert f"[{rule.id}](rules/{rule.id}.md)" in row
    for method in KNOWLEDGE.methods.values():
        assert f"[{method.id}](methods/{method.id}.md)" in by_bottleneck
        for action in method.actions:
            row = next(line for line in by_action.splitlines() if f"**{action}**" in line)
            assert f"[{method.id}](methods/{method.id}.md)" in row


def test_every_fact_is_described() -> None:
    assert all(f"| `{name}` | {known.unit} |" in PAGES["facts.md"] for name, known in FACTS.items())


def test_tables_have_as_many_cells_in_each_row() -> None:
    for name, text in PAGES.items():
        for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
            cells = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
            assert len(cells) == 1, name


def test_pages_are_written_and_old_ones_go(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "docs"

    assert docs(folder) == 0
    assert files_in(folder) == PAGES
    gone = folder / "rules" / "gone.md"
    gone.write_text(PAGES["rules/idle_cores.md"], encoding="utf-8")
    (folder / "rules" / "mine.md").write_text("# Written by hand\n", encoding="utf-8")
    (folder / "methods" / "sy-gc.md").unlink()
    assert docs(folder) == 0
    assert files_in(folder) == PAGES | {"rules/mine.md": "# Written by hand\n"}


def test_pages_that_did_not_change_are_left_alone(tmp_path: Path) -> None:
    write_pages({"a.md": "x"}, tmp_path)
    before = (tmp_path / "a.md").stat().st_ino

    write_pages({"a.md": "x"}, tmp_path)

    assert (tmp_path / "a.md").stat().st_ino == before


def test_rules_of_ones_own_get_pages_too_and_cannot_break_them(tmp_path: Path) -> None:
    path = tmp_path / "mine" / "detect" / "own" / "my_rule.yaml"
    path.parent.mkdir(parents=True)
    hostile = "title: '</h1><script>a|b [x](javascript:y) `c`'"
    path.write_text(re.sub(r"^title:.*$", hostile, rule_stub("my_rule"), flags=re.M), "utf-8")

    assert docs(tmp_path / "docs", "--rules", tmp_path / "mine") == 0

    pages = files_in(tmp_path / "docs")
    for name in ("README.md", "rules/my_rule.md"):
        assert "<script>" not in pages[name]
        assert "a|b" not in pages[name]
        assert re.search(r"(?<!\\)\]\(javascript", pages[name]) is None


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")

    assert docs(tmp_path / "file") == 2
