from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

import pytest
from builders import a_data_bound_run, a_profile, some_steps

from stepscope.advisor import report
from stepscope.advisor.measure import NoStepsError
from stepscope.profiler.storage import ProfileError, save


def test_a_report_from_a_path_is_what_the_command_writes(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    save(a_data_bound_run(), path)

    found = report(path)

    assert found.advice.source == "mine.json"
    assert found.advice.verdict.category == "cpu_preprocessing"
    assert found.html.startswith("<!doctype html>")
    assert found.markdown.startswith("### stepscope")
    assert json.loads(found.json)["schema"] == "stepscope.advice/1"
    assert str(found).startswith("BOTTLENECK: CPU preprocessing")


def test_a_notebook_shows_it_in_a_frame_of_its_own() -> None:
    found = report(a_data_bound_run(), thresholds={"healthy_gain": 0.5})

    text = found._repr_html_()

    assert text.count("<") == 2
    assert 'sandbox="allow-scripts allow-popups"' in text
    source = re.search(r'srcdoc="([^"]*)"', text)
    assert source is not None
    assert unescape(source[1]) == found.html


def test_what_is_wrong_is_raised(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="no such file"):
        report(tmp_path / "none.json")
    nothing = some_steps(0, 0)
    with pytest.raises(NoStepsError):
        report(a_profile(warmup=nothing, steady=nothing))
