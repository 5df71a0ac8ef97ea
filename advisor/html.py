"""The HTML report: one file, no network, readable by someone who was not there.

Everything stands in tables and static pictures; the script only adds zooming, hovering and copying.
Text of a profile is untrusted: jinja2 escapes all of it, and the page's content security policy
runs and styles nothing but what has the hash of our own script and style.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
import re
from collections.abc import Callable, Iterable
from importlib.resources import files
from typing import Any, Final, NamedTuple, TypeVar, get_args

import jinja2
from markupsafe import Markup, escape

from stepscope.advisor import (
    charts,
    live_tables,
    rank_tables,
    roofline_chart,
    series,
    tables,
    wording,
)
from stepscope.advisor.advice import (
    RISKS,
    Advice,
    CauseShare,
    CriticalPath,
    Effort,
    Finding,
    PathShare,
    PlanStep,
    Recommendation,
)
from stepscope.advisor.critical_path import colour as owner_colour
from stepscope.advisor.critical_path import label as owner_label
from stepscope.advisor.device_tables import device
from stepscope.advisor.ladder import ladder
from stepscope.advisor.lanes import worker_timelines
from stepscope.advisor.message_tables import link_words, message_rows, recorded_rows
from stepscope.advisor.noise import noise
from stepscope.advisor.scaling import chart
from stepscope.advisor.scaling.curve import curve
from stepscope.advisor.signals import signals
from stepscope.advisor.template_cache import template_cache
from stepscope.advisor.trial_tables import trial_tables
from stepscope.profiler.format import Profile

_LINK = re.compile(
    r"(?P<url>https://[^\s<>\"']+[\w/])|(?P<arxiv>\barXiv:(?P<id>\d{4}\.\d{4,5}))", re.I
)
_UNIT = re.compile(r"(?<=\d) (?=(?:[µm]?s|[kMGTP]?B|cores?)\b|%)")
_SYNTAX: Final[dict[str, Any]] = {
    "autoescape": True,
    "trim_blocks": True,
    "lstrip_blocks": True,
}
"""What decides how jinja2 compiles a template."""
_T = TypeVar("_T")
_SMALL = 0.005
"""Causes below this share are folded into one line."""


class _Fix(NamedTuple):
    """A recommendation under a finding, or a pointer to where it was described."""

    recommendation: Recommendation
    anchor: str
    repeated: bool


class _Card(NamedTuple):
    """A finding with its place on the page."""

    finding: Finding
    anchor: str
    fixes: list[_Fix]
    follows_from: tuple[str, str] | None
    """Anchor and title of the finding that names the root."""


class _PathLine(NamedTuple):
    """One owner of the critical path and where its part of the bar begins, from 0 to 1."""

    name: str
    colour: str
    x: float
    line: PathShare


class _Segment(NamedTuple):
    """One part of the stacked bar, in percent of its width."""

    line: CauseShare
    x: float
    width: float


def render(advice: Advice, profile: Profile) -> str:
    """The report as one self-contained HTML page."""
    lines = wording.by_share(advice.breakdown)
    cards = _cards(wording.by_role(advice.findings))
    sampled = signals(profile.samples)
    style, script = _style(), _script()
    context: dict[str, Any] = {
        "advice": advice,
        "profile": profile,
        "cards": cards,
        "cause_anchor": next(
            (card.anchor for card in cards if card.finding.cause == advice.verdict.cause), None
        ),
        "fix_anchors": {
            fix.recommendation.method: fix.anchor for card in reversed(cards) for fix in card.fixes
        },
        "segments": _segments(lines),
        "large": [line for line in lines if line.share >= _SMALL],
        "small": [line for line in lines if 0 < line.share < _SMALL],
        "categories": list(
            dict.fromkeys(wording.category_of(line.cause) for line in lines if line.share >= _SMALL)
        ),
        "efforts": _efforts(advice.plan),
        "not_fired": sorted(advice.not_fired, key=lambda rule: rule.margin),
        "timeline": charts.timeline(profile),
        "distribution": charts.distribution(profile.step_time),
        "ladder": ladder(advice.plan),
        "heat": rank_tables.heat_picture(profile.ranks.heat if profile.ranks else None),
        "rank_table": rank_tables.rank_table(profile.ranks),
        "host_rows": rank_tables.host_rows(profile.ranks),
        "link_rows": rank_tables.link_rows(profile.ranks),
        "scaling": chart.picture(curve(profile)),
        "loaders": [tables.loader(loader) for loader in profile.loaders],
        "timelines": worker_timelines(profile.loaders),
        "messages_called": message_rows(profile),
        "messages_recorded": recorded_rows(profile),
        "link_words": link_words(profile),
        "operators": tables.operators(profile.window),
        "device": device(profile),
        "roofline": roofline_chart.picture(profile, advice.step_seconds),
        "trial": trial_tables(profile),
        "live": live_tables.live(profile),
        "path": advice.critical_path and _path(advice.critical_path),
        "machine": tables.machine(profile.environment.calibration),
        "topics": {
            topic: tables.resources(members) for topic, members in series.topics(sampled).items()
        },
        "resources": tables.resources(sampled),
        "marks": tables.marks(profile),
        "configuration": tables.configuration(profile),
        "facts": tables.facts(advice.facts),
        "problems": [problem for problem in profile.problems if problem not in advice.notes],
        "noise": noise(advice, profile),
        "figures": Markup(series.encoded(series.figures(profile))),
        "style": Markup(style),
        "script": Markup(script),
        "policy": _policy(style, script),
    }
    return _environment().get_template("report.html.j2").render(context)


def _path(path: CriticalPath) -> list[_PathLine]:
    """The owners of a path that are worth a line, largest first, and the rest as one."""
    lines = [line for line in path.owners if line.share >= _SMALL]
    rest = [line for line in path.owners if line.share < _SMALL]
    found, x = [], 0.0
    for line in lines:
        found.append(_PathLine(owner_label(line.owner), owner_colour(line.owner), x, line))
        x += line.share
    if rest:
        seconds = sum(line.seconds_per_step for line in rest)
        less = PathShare(owner="", seconds_per_step=seconds, share=max(0.0, 1 - x))
        found.append(_PathLine("everything else", "host", x, less))
    return found


def _efforts(plan: list[PlanStep]) -> dict[str, dict[str, list[tuple[int, str]]]]:
    """Number and title of the plan's steps by effort, least first, and by risk."""
    table: dict[str, dict[str, list[tuple[int, str]]]] = {
        effort: {risk: [] for risk in RISKS.values()} for effort in get_args(Effort)
    }
    for number, step in enumerate(plan, 1):
        table[step.effort][step.risk].append((number, step.title))
    return {effort: cells for effort, cells in table.items() if any(cells.values())}


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        **_SYNTAX,
        bytecode_cache=template_cache(_SYNTAX),
        loader=jinja2.PackageLoader("stepscope.templates", ""),
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "alternatives": wording.alternatives,
        "category": wording.category_of,
        "category_label": wording.category_label,
        "cause_label": wording.cause_label,
        "duration": _unbroken(wording.duration),
        "factors": wording.factors,
        "interval": _unbroken(wording.share_interval),
        "linked": _linked,
        "number": wording.number,
        "owner_label": owner_label,
        "past_threshold": wording.past_threshold,
        "place": wording.place,
        "path_item": wording.path_item,
        "percent": lambda part: f"{min(max(100 * part, 0.0), 100.0):.2f}%",
        "prediction": wording.prediction,
        "provenance": wording.provenance,
        "share": _unbroken(wording.share),
        "speedup": wording.speedup,
        "unbroken": lambda text: _UNIT.sub("\N{NO-BREAK SPACE}", text),
    }
    environment.globals |= {
        "kinds": wording.KINDS,
        "relations": wording.RELATIONS,
        "risks": list(RISKS.values()),
        "plural": wording.plural,
        "roles": wording.ROLES,
        "speedup_interval": wording.speedup_interval,
    }
    return environment


@functools.cache
def _asset(name: str) -> str:
    return files("stepscope.templates").joinpath(name).read_text("utf-8")


@functools.cache
def _style() -> str:
    return _asset("uplot.min.css") + "\n" + _asset("report.css")


@functools.cache
def _script() -> str:
    """The chart library with its licence, and what uses it."""
    licence = f"/*! uPlot\n{_asset('uplot.LICENSE.txt')}*/"
    return "\n".join([licence, _asset("uplot.min.js"), _asset("report.js")])


def _policy(style: str, script: str) -> str:
    """Content security policy: our own style and script by hash, and nothing else at all."""

    def source(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {source(script)}",
            f"style-src {source(style)}",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _unbroken(words: Callable[[_T], str]) -> Callable[[_T], str]:
    """`words` with spaces at which no line breaks: a unit stays with its number."""
    return lambda value: words(value).replace(" ", "\N{NO-BREAK SPACE}")


def _linked(text: str) -> Markup:
    """`text` escaped, with https addresses and arXiv numbers as links; other schemes stay text."""
    parts, end = [], 0
    for match in _LINK.finditer(text):
        address = match["url"] or f"https://arxiv.org/abs/{match['id']}"
        parts += [
            escape(text[end : match.start()]),
            Markup('<a href="{}" target="_blank" rel="noopener noreferrer">{}</a>').format(
                address, match[0]
            ),
        ]
        end = match.end()
    return Markup("").join([*parts, escape(text[end:])])


def _cards(findings: Iterable[Finding]) -> list[_Card]:
    """Findings in page order; a method is described where it first appears."""
    ordered = list(findings)
    anchors = _anchors("finding", [finding.rule for finding in ordered])
    places = {f.rule: (anchors[i], f.title) for i, f in reversed(list(enumerate(ordered)))}
    described: dict[str, str] = {}
    cards = []
    for finding, anchor in zip(ordered, anchors, strict=True):
        ids = _anchors(f"{anchor}--fix", [fix.method for fix in finding.recommendations])
        fixes = []
        for fix, own in zip(finding.recommendations, ids, strict=True):
            fixes.append(_Fix(fix, described.get(fix.method, own), fix.method in described))
            described.setdefault(fix.method, own)
        cards.append(_Card(finding, anchor, fixes, places.get(finding.suppressed_by or "")))
    return cards


def _anchors(prefix: str, names: list[str]) -> list[str]:
    """Ids that are valid and distinct whatever the names hold."""
    anchors: dict[str, None] = {}
    for name in names:
        base = f"{prefix}-" + (re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "unnamed")
        slugs = itertools.chain([base], (f"{base}-{number}" for number in itertools.count(2)))
        anchors[next(slug for slug in slugs if slug not in anchors)] = None
    return list(anchors)


def _segments(lines: list[CauseShare]) -> list[_Segment]:
    segments, x = [], 0.0
    for line in lines:
        width = 100 * max(line.share, 0.0)
        if width > 0.05:
            segments.append(_Segment(line, x, width))
        x += width
    return segments
