"""Predicted against true speedup, as a picture."""

from __future__ import annotations

import math
from typing import NamedTuple

from jinja2 import Environment

SIZE, MARGIN = 480, 50
_TICKS = (1, 1.5, 2, 3, 4, 6, 8, 12)


class Point(NamedTuple):
    """A speedup with its 90 % interval."""

    value: float
    low: float
    high: float


_TEMPLATE = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{ size }} {{ size }}" \
font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="white"/>
{% for label, at in ticks %}
<path d="M{{ at }},{{ bottom }}V{{ top }}M{{ bottom_x }},{{ size - at }}H{{ top_x }}" \
stroke="#e5e5e5"/>
<text x="{{ at }}" y="{{ bottom + 18 }}" text-anchor="middle">{{ label }}</text>
<text x="{{ bottom_x - 8 }}" y="{{ size - at + 4 }}" text-anchor="end">{{ label }}</text>
{% endfor %}
<path d="M{{ bottom_x }},{{ bottom }}L{{ top_x }},{{ top }}" stroke="#999" \
stroke-dasharray="4 3"/>
{% for colour, name, lines, dot in points %}
<g stroke="{{ colour }}" fill="{{ colour }}"><title>{{ name }}</title>
<path d="{{ lines }}"/><circle cx="{{ dot[0] }}" cy="{{ dot[1] }}" r="3"/></g>
{% endfor %}
<text x="{{ size / 2 }}" y="{{ size - 10 }}" text-anchor="middle">measured speedup</text>
<text transform="translate(14 {{ size / 2 }}) rotate(-90)" text-anchor="middle">\
predicted speedup</text>
<g><circle cx="70" cy="30" r="3" fill="#1f6fb2"/><text x="80" y="34">tuned</text>
<circle cx="140" cy="30" r="3" fill="#c2571a"/><text x="150" y="34">held out</text></g>
</svg>
""")


def calibration_plot(
    tuned: list[tuple[str, Point, Point]], held_out: list[tuple[str, Point, Point]]
) -> str:
    """An SVG with a point for each (name, true, predicted); on the diagonal they agree."""
    both = [(entry, "#1f6fb2") for entry in tuned] + [(entry, "#c2571a") for entry in held_out]
    values = [value for (_, *pair), _ in both for point in pair for value in point]
    low, high = min([0.9, *values]), max([2.0, *values]) * 1.05

    def at(value: float) -> float:
        part = math.log(value / low) / math.log(high / low)
        return round(MARGIN + part * (SIZE - 2 * MARGIN), 1)

    def cross(true: Point, predicted: Point) -> str:
        x, y = at(true.value), SIZE - at(predicted.value)
        return (
            f"M{at(true.low)},{y}H{at(true.high)}"
            f"M{x},{SIZE - at(predicted.low)}V{SIZE - at(predicted.high)}"
        )

    return _TEMPLATE.render(
        size=SIZE,
        bottom=SIZE - MARGIN,
        top=MARGIN,
        bottom_x=MARGIN,
        top_x=SIZE - MARGIN,
        ticks=[(f"{tick:g}", at(tick)) for tick in _TICKS if low <= tick <= high],
        points=[
            (colour, name, cross(true, predicted), (at(true.value), SIZE - at(predicted.value)))
            for (name, true, predicted), colour in both
        ],
    )
