from __future__ import annotations

import pytest
from builders import a_prediction

from stepscope.advisor import wording


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "0 s"),
        (1.2e-9, "0.00 µs"),
        (4.12e-4, "412 µs"),
        (9.996e-4, "1.00 ms"),
        (0.0123, "12.3 ms"),
        (0.9996, "1.00 s"),
        (3.42, "3.42 s"),
        (119.6, "2 min 0 s"),
        (7265.0, "2 h 1 min"),
        (-0.5, "-500 ms"),
        (float("nan"), "unknown"),
    ],
)
def test_duration(seconds: float, words: str) -> None:
    assert wording.duration(seconds) == words


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (0.0, "0 %"),
        (0.0004, "< 0.1 %"),
        (0.0324, "3.2 %"),
        (0.0996, "10 %"),
        (0.64, "64 %"),
        (1.0, "100 %"),
    ],
)
def test_share(part: float, words: str) -> None:
    assert wording.share(part) == words


@pytest.mark.parametrize(
    ("factor", "words"),
    [(1.0, "1.00x"), (9.996, "10.0x"), (12.42, "12.4x"), (1e999, "unknown")],
)
def test_speedup(factor: float, words: str) -> None:
    assert wording.speedup(factor) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (247, "247 B"), (999_600, "1.00 MB"), (3e17, "300 PB")],
)
def test_size(count: float, words: str) -> None:
    assert wording.size(count) == words


def test_a_best_case_is_told_from_a_modelled_gain() -> None:
    bound = a_prediction(basis="bound", speedup=1.2, low=1.0, high=1.4)
    nothing = a_prediction(speedup=1.0, low=0.999, high=1.001)

    assert wording.prediction(a_prediction()) == "1.84x (1.62x to 2.05x)"
    assert wording.prediction(bound) == "at most 1.40x (1.20x if half of it comes true)"
    assert wording.prediction(nothing) == "no gain"


@pytest.mark.parametrize("tag", ["M", "F", "D", "S", "S5", "M+", "", "?", "Private"])
def test_only_a_paper_is_called_a_paper(tag: str) -> None:
    assert wording.provenance(tag) != "paper"
    assert wording.provenance("P") == "paper"


def test_one_line_removes_what_could_steer_a_terminal() -> None:
    assert wording.one_line(" a\n\tb\x1b[2J\u202ec ") == "a b [2J c"


def test_margins_far_past_a_threshold_are_multiples() -> None:
    assert wording.past_threshold(0.9) == "90 % past"
    assert wording.past_threshold(12.36) == "13 times"
