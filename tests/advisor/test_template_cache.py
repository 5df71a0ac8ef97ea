from __future__ import annotations

from pathlib import Path

import jinja2
import pytest

from stepscope.advisor.template_cache import template_cache


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "stepscope"


def rendered(text: str, *, autoescape: bool = True) -> str:
    environment = jinja2.Environment(
        autoescape=autoescape,
        bytecode_cache=template_cache({"autoescape": autoescape}),
        loader=jinja2.DictLoader({"page": text}),
    )
    return environment.get_template("page").render(word="<b>")


def test_a_template_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rendered("a {{ word }}") == "a &lt;b&gt;"
    monkeypatch.setattr(jinja2.Environment, "_generate", lambda *_, **__: pytest.fail("again"))
    assert rendered("a {{ word }}") == "a &lt;b&gt;"


def test_a_changed_template_is_compiled_again() -> None:
    rendered("a {{ word }}")
    assert rendered("b {{ word }}") == "b &lt;b&gt;"


def test_other_options_have_a_cache_of_their_own() -> None:
    rendered("a {{ word }}", autoescape=False)
    assert rendered("a {{ word }}") == "a &lt;b&gt;"


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_a_damaged_file_is_made_anew(cache: Path, damage: bytes | None) -> None:
    rendered("a {{ word }}")
    [file] = cache.rglob("*.cache")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2] if damage is None else damage)
    assert rendered("a {{ word }}") == "a &lt;b&gt;"


def test_without_a_place_to_write_nothing_is_kept(cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    assert rendered("a {{ word }}") == "a &lt;b&gt;"
