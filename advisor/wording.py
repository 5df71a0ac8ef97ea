"""Numbers and tags in words, the same in every report.

Seconds, shares and speedups come in as plain numbers and leave with a unit and no more digits
than a reader can use.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable

from stepscope.advisor.advice import (
    Alternative,
    CauseShare,
    Factors,
    Finding,
    PathItem,
    Place,
    Prediction,
    WhatIf,
)
from stepscope.advisor.causes import CATEGORIES, CAUSES

KINDS = {
    "exact": "exact: the mathematics stays as it is",
    "numerics": "numerics: rounding changes",
    "algorithmic": "algorithmic: what is computed changes",
}
RELATIONS = {
    "exclusive": "the same job: take one",
    "conflicting": "one rules the other out",
    "overlapping": "gains overlap",
    "ordered": "in this order",
    "paired": "each makes room for the other",
    "harmful": "one spoils the other",
}
ROLES = {"root": "Root cause", "contributing": "Contributing", "symptom": "Symptom"}

_PROVENANCE = {
    "P": "paper",
    "S": "published source",
    "M": "field knowledge, not checked against a paper",
    "F": "field knowledge, not checked against a paper",
    "D": "derived by stepscope from other figures, not a measurement",
}
_TIME_UNITS = ((1e-6, "µs"), (1e-3, "ms"), (1.0, "s"))
_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_BYTE_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
# Bidirectional overrides can make a line read differently from what it says.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]+")


def duration(seconds: float) -> str:
    """A time with three digits and a unit: `412 µs`, `12.3 ms`, `3.42 s`, `12 min 5 s`."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds == 0:
        return "0 s"
    size = abs(seconds)
    if size >= 119.5:
        return ("-" if seconds < 0 else "") + _long(round(size))
    # 999.6 µs is 1 ms, not 1000 µs.
    factor, unit = next(u for u in _TIME_UNITS if size / u[0] < 999.5)
    return f"{_digits(seconds / factor)} {unit}"


def place(found: Place) -> str:
    """A place in the source with its part of the cause: `train.py:42 in blur (81 % of it)`."""
    where = f"{found.file.replace(chr(92), '/').rpartition('/')[2]}:{found.line}"
    inside = f" in {found.function}" if found.function else ""
    transform = (found.transform or "").rpartition(".")[2]
    called = f", transform {found.transform}" if transform not in ("", found.function) else ""
    return one_line(f"{where}{inside}{called} ({share(found.share)} of it)")


def share(part: float) -> str:
    """A part of a whole in percent: `64 %`, `3.2 %`, `< 0.1 %`."""
    if not math.isfinite(part):
        return "unknown"
    percent = 100 * part
    if percent == 0:
        return "0 %"
    if 0 < percent < 0.1:
        return "< 0.1 %"
    return f"{percent:.1f} %" if abs(percent) < 9.95 else f"{percent:.0f} %"


def speedup(factor: float) -> str:
    """How many times as fast: `1.84x`, `12.4x`, `150x`."""
    if not math.isfinite(factor):
        return "unknown"
    return f"{factor:.2f}x" if factor < 9.995 else f"{_digits(factor)}x"


def share_interval(line: CauseShare) -> str:
    """Bounds of a share: `61 % to 67 %`."""
    return f"{share(line.low)} to {share(line.high)}"


def speedup_interval(low: float, high: float) -> str:
    """Bounds of a speedup: `1.62x to 2.05x`."""
    return f"{speedup(low)} to {speedup(high)}"


MAY_LOSE = 0.97
"""A bound whose worst case is below this may make training slower, and says so."""


def prediction(predicted: Prediction) -> str:
    """A prediction with its bounds, a mere best case told from a modelled gain."""
    if all(abs(x - 1) < 0.005 for x in (predicted.speedup, predicted.low, predicted.high)):
        return "no gain"
    if predicted.basis == "bound":
        half = f"{speedup(predicted.speedup)} if half of it comes true"
        worst = f", at worst {speedup(predicted.low)}" if predicted.low < MAY_LOSE else ""
        return f"at most {speedup(predicted.high)} ({half}{worst})"
    return f"{speedup(predicted.speedup)} ({speedup_interval(predicted.low, predicted.high)})"


def alternatives(found: Iterable[Alternative]) -> str:
    """Methods that do the same job, each with its prediction where there is one."""
    return ", ".join(
        f"{other.title} ({prediction(other.predicted)})" if other.predicted else other.title
        for other in found
    )


def factors(found: Factors) -> str:
    """Time per step and number of steps: what the model bounds, and what others report."""
    step = f"a step takes {found.step} as before" if found.step == "as long" else ""
    if found.step == "shorter":
        step = f"a step gets at most {speedup(found.step_speedup_at_most)} as fast"
    elif found.step == "longer":
        step = "a step gets longer"
        if found.free_share is not None:
            step += f" by what goes beyond {share(found.free_share)} of it, which is free"
    return f"{step} (model); {found.steps} steps to the same quality (reported)"


def what_if(found: WhatIf, then: str) -> str:
    """A replay: `the next batch is always there: 1.52x (119 ms a step), then ...`."""
    return (
        f"{found.scenario}: {speedup(found.speedup)} ({duration(found.predicted_seconds)} "
        f"a step), then {share(found.next_share)} {then}"
    )


def path_item(item: PathItem) -> str:
    """A rank, say, with its part of the critical path: `rank 7 (48 %)`."""
    return f"{item.name} ({share(item.share)})"


def past_threshold(margin: float) -> str:
    """How far past its thresholds a rule is: `90 % past`, `13 times`."""
    return f"{share(margin)} past" if margin < 2 else f"{number(round(1 + margin))} times"


def size(count: float) -> str:
    """Bytes with a decimal unit: `3.21 MB`."""
    value, unit = float(count), _BYTE_UNITS[0]
    for name in _BYTE_UNITS:
        unit = name
        if abs(value) < 999.5 or name == _BYTE_UNITS[-1]:
            break
        value /= 1000
    return f"{value:.0f} B" if unit == "B" else f"{_digits(value)} {unit}"


def bit_rate(bytes_per_s: float) -> str:
    """As links are named: `50 Mbit/s`."""
    return scaled(8 * bytes_per_s, "bit/s")


def scaled(value: float, unit: str) -> str:
    """A number of something with three digits and a decimal prefix, e.g. `211 GFLOP/s`."""
    factor, prefix = next(((f, p) for f, p in _PREFIXES if value >= f), (1.0, ""))
    return f"{number(float(f'{value / factor:.3g}'))} {prefix}{unit}"


def number(value: float) -> str:
    """A plain number, with thousands separated and three digits where it is small."""
    if not math.isfinite(value):
        return "unknown"
    return f"{value:,.0f}" if abs(value) >= 99.95 or value == int(value) else _digits(value)


def fact(value: bool | int | float | str, unit: str) -> str:
    """The value of a fact in its unit (see `stepscope.advisor.fact_names`)."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    words: dict[str, Callable[[float], str]] = {
        "share": share,
        "s": duration,
        "bytes": size,
        "bytes/s": lambda rate: f"{size(rate)}/s",
        "cores": lambda cores: f"{number(cores)} cores",
        "J": lambda joules: f"{number(joules)} J",
        "W": lambda watts: f"{number(watts)} W",
        "°C": lambda degrees: f"{number(degrees)} °C",
        "MHz": lambda clock: f"{number(clock)} MHz",
        "FLOP": lambda count: scaled(count, "FLOP"),
        "FLOP/s": lambda rate: scaled(rate, "FLOP/s"),
        "FLOP/byte": lambda ratio: f"{number(ratio)} FLOP per byte",
        "1/s": lambda rate: f"{number(rate)} a second",
    }
    return words.get(unit, number)(value)


def plural(count: int, noun: str) -> str:
    """`1 rule`, `3 rules`, `2 batches`."""
    ending = "" if count == 1 else "es" if noun.endswith(("ch", "s", "x")) else "s"
    return f"{count:,} {noun}{ending}"


def cause_label(cause: str) -> str:
    """What a cause is, in words; the id itself where it is not one of ours."""
    return CAUSES[cause].label if cause in CAUSES else cause


def category_of(cause: str) -> str:
    """The id of a cause's category."""
    return cause.partition(".")[0]


def category_label(cause: str) -> str:
    """The category of a cause, or a category itself, in words."""
    category = category_of(cause)
    return CATEGORIES.get(category, category)


def provenance(tag: str) -> str:
    """Where a claim comes from; only a paper that was read is called a paper."""
    known = _PROVENANCE.get(tag[:1]) if re.fullmatch(r"[A-Z]\d*[+-]?", tag) else None
    return known or {"literature": "paper"}.get(tag, "source not classified")


def by_share(breakdown: list[CauseShare]) -> list[CauseShare]:
    """The lines of a breakdown, largest first."""
    return sorted(breakdown, key=lambda line: -line.share)


def by_role(findings: list[Finding]) -> list[Finding]:
    """Findings with root causes before contributing ones before symptoms."""
    order = list(ROLES)
    return sorted(findings, key=lambda finding: order.index(finding.role))


def one_line(text: str) -> str:
    """`text` without line breaks, control characters and escape sequences."""
    return " ".join(_CONTROL.sub(" ", text).split())


def _digits(value: float) -> str:
    """Three significant digits without an exponent."""
    if abs(value) >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"


def _long(seconds: int) -> str:
    hours, minutes, rest = seconds // 3600, seconds // 60 % 60, seconds % 60
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
