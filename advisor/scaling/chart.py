"""Geometry and words of the scaling curve: both axes logarithmic, places in percent."""

from __future__ import annotations

from math import log2
from typing import NamedTuple

from stepscope.advisor import wording
from stepscope.advisor.charts import Tick
from stepscope.advisor.scaling.answer import Forecast
from stepscope.advisor.scaling.curve import Curve
from stepscope.advisor.scaling.terminal import link_words

_LEFT, _ROOM = 10.0, 4.0
"""Percent of the picture left free beside what is drawn, for the labels, and around it."""


class Dot(NamedTuple):
    """A number of ranks; `low` and `high` are ends of its interval."""

    x: float
    y: float
    low: float
    high: float
    title: str


class Line(NamedTuple):
    """One way of scaling."""

    name: str
    label: str
    dots: list[Dot]


class Row(NamedTuple):
    """A line of the table behind the picture."""

    ranks: int
    label: str
    step: str
    step_interval: str
    throughput: str
    interval: str
    samples: str
    efficiency: str
    cause: str


class Picture(NamedTuple):
    """What the template draws."""

    ranks: int
    lines: list[Line]
    ideal: tuple[float, float, float, float]
    """From where to where throughput goes as the ranks do: x1, y1, x2, y2."""
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    rows: list[Row]
    samples: bool
    """Whether the size of a batch is known."""
    link: str
    assumes: list[str]
    """Weak and strong."""


def picture(curve: Curve | None) -> Picture | None:
    """The scaling curve as a picture and a table; None of none."""
    if curve is None:
        return None
    everything = [*curve.weak, *curve.strong]
    last = max(found.predicted_ranks for found in everything)
    left, right = 0.0, log2(last)
    bounds = [b for found in everything for b in (found.throughput.low, found.throughput.high)]
    ideal = (log2(1 / curve.ranks), log2(last / curve.ranks))
    bottom, top = min(log2(min(bounds)), ideal[0]), max(log2(max(bounds)), ideal[1])

    def x(ranks: int) -> float:
        return _LEFT + (100 - _LEFT - _ROOM) * (log2(ranks) - left) / max(1e-9, right - left)

    def y(factor: float) -> float:
        return 100 - _ROOM - (100 - 2 * _ROOM) * (log2(factor) - bottom) / max(1e-9, top - bottom)

    def line(name: str, label: str, forecasts: list[Forecast]) -> Line:
        dots = [
            Dot(
                x(found.predicted_ranks),
                y(found.throughput.speedup),
                y(found.throughput.low),
                y(found.throughput.high),
                f"{found.predicted_ranks} ranks: {wording.prediction(found.throughput)}",
            )
            for found in forecasts
        ]
        return Line(name, label, dots)

    numbers = [found.predicted_ranks for found in curve.weak]
    factors = [2.0**i for i in range(round(bottom), round(top) + 1)]
    link = curve.weak[0].link
    return Picture(
        ranks=curve.ranks,
        lines=[
            line("weak", "each rank keeps its batch (weak)", curve.weak),
            line("strong", "all ranks together keep their batch (strong)", curve.strong),
        ],
        ideal=(x(1), y(1 / curve.ranks), x(last), y(last / curve.ranks)),
        x_ticks=[Tick(x(ranks), str(ranks)) for ranks in numbers],
        y_ticks=[Tick(y(factor), wording.speedup(factor)) for factor in factors],
        rows=[
            _row(found, label)
            for label, forecasts in (("weak", curve.weak), ("strong", curve.strong))
            for found in forecasts
        ],
        samples=curve.weak[0].samples_per_s is not None,
        link=link_words(link) if link else "",
        assumes=[forecasts[-1].throughput.assumes for forecasts in (curve.weak, curve.strong)],
    )


def _row(found: Forecast, label: str) -> Row:
    low, high = (wording.duration(s) for s in (found.step_low, found.step_high))
    rate = found.predicted_samples_per_s
    return Row(
        ranks=found.predicted_ranks,
        label=label,
        step=wording.duration(found.predicted_step_seconds),
        step_interval=f"{low} to {high}",
        throughput=wording.speedup(found.throughput.speedup),
        interval=wording.speedup_interval(found.throughput.low, found.throughput.high),
        samples="" if rate is None else f"{rate:,.4g}",
        efficiency=wording.share(found.predicted_efficiency),
        cause=wording.cause_label(found.next_cause),
    )
