from __future__ import annotations

import io
import subprocess
import sys

import pytest
from builders import a_place, a_verdict, an_advice
from rich.cells import cell_len
from rich.console import Console

from stepscope.advisor.advice import Advice, Useless
from stepscope.advisor.terminal import print_verdict


def printed(
    advice: Advice,
    *,
    width: int = 100,
    color: bool = False,
    encoding: str = "utf-8",
    path: str | None = None,
) -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    print_verdict(advice, Console(file=file, width=width, force_terminal=color), path)
    file.flush()
    return raw.getvalue().decode(encoding)


def test_says_what_is_slow_what_to_do_and_where_the_report_is() -> None:
    text = printed(an_advice(), path="out/report.html")

    assert "BOTTLENECK: CPU preprocessing" in text
    assert "six would" in text
    assert "preparing samples (decode, augment, tokenise)" in text
    assert "27.0 ms" in text
    assert "Use 6 loader workers instead of 2 [exact, minutes]" in text
    assert "1.84x (1.62x to 2.05x), measured 1.79x" in text
    assert "next bottleneck: forward" in text
    assert "Fused optimizer: " in text
    assert "The middle 80 % of steps" in text
    assert text.rstrip().endswith("out/report.html")
    assert len(text.splitlines()) <= 40


@pytest.mark.parametrize("width", [60, 80, 100, 240])
def test_stays_within_100_columns(width: int) -> None:
    long = "a very long reason " * 20
    advice = an_advice(
        notes=[long] * 3, tempting=[Useless(method="m", title="t", reason=long)], left=long
    )

    lines = printed(advice, width=width).splitlines()

    assert max(map(cell_len, lines)) <= min(width, 100)


def test_a_healthy_run_without_a_plan_says_so() -> None:
    verdict = a_verdict(
        category="compute",
        cause="compute.arithmetic",
        healthy=True,
        sentence="Nothing to fix: at most 4 % is left.",
        share=0.93,
        places=[],
    )

    text = printed(
        an_advice(
            verdict=verdict, plan=[], tempting=[], notes=[], breakdown=[], left="At most 4 %."
        )
    )

    assert "HEALTHY: Compute" in text
    assert "Nothing to fix" in text
    assert "Plan" not in text
    assert "Where" not in text


def test_names_the_places_where_the_cause_was_seen() -> None:
    places = [a_place(), a_place(line=7, function="flip", transform=None, share=0.1)]

    text = printed(an_advice(verdict=a_verdict(places=places)))

    assert "train.py:42 in __call__, transform Blur (81 % of it); train.py:7 in flip" in text
    assert "/home/user" not in text


def test_colour_is_for_terminals_only() -> None:
    assert "\x1b[" not in printed(an_advice())
    assert "\x1b[" in printed(an_advice(), color=True)


def test_text_of_the_profile_can_neither_style_nor_steer_the_terminal() -> None:
    hostile = "[red]x[/red] [/] \x1b[2J\x1b]0;owned\x07 \x9b1m \u202eevil"

    text = printed(an_advice(notes=[hostile], left=hostile))

    assert not set(text) & {"\x1b", "\x07", "\x9b", "\u202e"}
    assert "[red]x[/red] [/]" in text


def test_prints_where_only_ascii_is_possible() -> None:
    text = printed(an_advice(), encoding="ascii")

    assert "###########" in text
    assert "964 us" in text


def test_importing_it_does_not_import_rich() -> None:
    code = "import sys, stepscope.advisor.terminal as t; sys.exit('rich' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
