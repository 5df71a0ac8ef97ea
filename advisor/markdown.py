"""The advice as Markdown, short enough for a comment on a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterable

from stepscope.advisor import wording
from stepscope.advisor.advice import Advice, Finding, PlanStep, Recommendation
from stepscope.advisor.critical_path import label as owner_label

_MIN_SHARE = 0.01
_ROOM = 50_000
"""Characters for the findings: GitHub takes 65,536 in a comment."""
_SPECIAL = re.compile(r"([\\`*_{}\[\]#|~<>&])")


def render(advice: Advice) -> str:
    """GitHub-flavoured Markdown: verdict, breakdown and plan; findings folded."""
    verdict = advice.verdict
    state = "healthy" if verdict.healthy else wording.category_label(verdict.category)
    parts = [
        f"### stepscope: {escaped(state)}",
        f"**{escaped(verdict.sentence)}**",
        *_breakdown(advice),
        *_plan(advice),
        *([escaped(advice.left)] if advice.left else []),
        *_path(advice),
        *_tempting(advice),
        *_notes(advice),
        *_findings(advice),
        f"<sub>{escaped(advice.source)}, stepscope {escaped(advice.tool_version)}</sub>",
    ]
    return "\n\n".join(parts) + "\n"


def _breakdown(advice: Advice) -> list[str]:
    lines = [line for line in wording.by_share(advice.breakdown) if line.share >= _MIN_SHARE]
    if not lines:
        return []
    rows = [
        f"| {escaped(wording.cause_label(line.cause))} | {wording.duration(line.seconds_per_step)} "
        f"| {wording.share(line.share)} | {wording.share_interval(line)} |"
        for line in lines
    ]
    step = wording.duration(advice.step_seconds)
    head = f"| One step of {step} goes to | Time | Share | 90 % interval |"
    return ["\n".join([head, "| --- | ---: | ---: | ---: |", *rows])]


def _plan(advice: Advice) -> list[str]:
    if not advice.plan:
        return []
    steps = [f"{number}. {_step(step)}" for number, step in enumerate(advice.plan, 1)]
    return ["#### Plan", "\n".join(steps)]


def _step(step: PlanStep) -> str:
    measured = ""
    if step.measured:
        bounds = wording.speedup_interval(step.measured.low, step.measured.high)
        measured = f", measured {wording.speedup(step.measured.speedup)} ({bounds})"
    return (
        f"**{escaped(step.title)}** ({step.kind}, {step.effort}): "
        f"predicted {wording.prediction(step.predicted)}{measured}; "
        f"{wording.speedup(step.cumulative)} in all. "
        f"Next bottleneck: {escaped(wording.cause_label(step.next_cause))}."
    )


def _path(advice: Advice) -> list[str]:
    path = advice.critical_path
    if path is None:
        return []
    rows = [
        f"| {escaped(owner_label(line.owner))} | {wording.duration(line.seconds_per_step)} "
        f"| {wording.share(line.share)} |"
        for line in path.owners
        if line.share >= _MIN_SHARE
    ]
    table = "\n".join(["| Critical path | Time | Share |", "| --- | ---: | ---: |", *rows])
    items = [
        f"If {escaped(wording.what_if(found, owner_label(found.next_owner)))}"
        for found in path.what_if
    ]
    if path.ranks:
        items.append(f"It runs through {', '.join(map(wording.path_item, path.ranks))}")
    return [table, *([bullets(items)] if items else [])]


def _tempting(advice: Advice) -> list[str]:
    if not advice.tempting:
        return []
    items = (f"{escaped(method.title)}: {escaped(method.reason)}" for method in advice.tempting)
    return ["#### Tempting but useless here", bullets(items)]


def _notes(advice: Advice) -> list[str]:
    if not advice.notes:
        return []
    return ["#### Notes", bullets(escaped(note) for note in advice.notes)]


def _findings(advice: Advice) -> list[str]:
    if not advice.findings:
        return []
    title = wording.plural(len(advice.findings), "finding")
    parts = [f"<details><summary>{title}, with evidence and code</summary>"]
    described: set[str] = set()
    for number, finding in enumerate(wording.by_role(advice.findings)):
        more = _finding(finding, described)
        if sum(map(len, parts + more)) > _ROOM:
            rest = wording.plural(len(advice.findings) - number, "finding")
            parts.append(f"{rest} left out here; the HTML report has all.")
            break
        parts += more
        described |= {fix.method for fix in finding.recommendations}
    return [*parts, "</details>"]


def _finding(finding: Finding, described: set[str]) -> list[str]:
    role = wording.ROLES[finding.role].lower()
    parts = [
        f"#### {escaped(finding.title)}",
        f"{wording.share(finding.loss_share)} of the step, {role}. {escaped(finding.evidence)}",
        escaped(finding.why),
    ]
    if finding.places:
        parts.append("Where: " + escaped("; ".join(map(wording.place, finding.places))))
    for fix in finding.recommendations:
        parts += [f"{escaped(fix.title)}: see above."] if fix.method in described else _fix(fix)
    return parts


def _fix(fix: Recommendation) -> list[str]:
    gain = wording.prediction(fix.predicted) if fix.predicted else "not predicted"
    facts = [
        f"Predicted: {gain}; effort: {fix.effort}",
        f"Risk: {escaped(fix.quality_risk)}",
        f"When not: {escaped(fix.when_not)}",
    ]
    if fix.effect:
        source = f"{escaped(fix.effect_source)}, " if fix.effect_source else ""
        origin = wording.provenance(fix.effect_provenance)
        facts.append(f"What others report: {escaped(fix.effect)} ({source}{origin})")
    code = [fenced(fix.how_to)] if fix.how_to.strip() else []
    return [f"**{escaped(fix.title)}** ({fix.kind})", *code, bullets(facts)]


def bullets(items: Iterable[str]) -> str:
    """A list, one item a line."""
    return "\n".join(f"- {item}" for item in items)


def fenced(code: str) -> str:
    """A code block whose fence is longer than any run of backticks inside."""
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall(r"`+", code))])
    return f"{fence}python\n{code.strip(chr(10))}\n{fence}"


def escaped(text: str) -> str:
    """`text` on one line, with nothing in it that Markdown or HTML would act on.

    An invisible space after `@` keeps text of a profile from notifying people.
    """
    return _SPECIAL.sub(_escape, wording.one_line(text)).replace("@", "@\N{ZERO WIDTH SPACE}")


def _escape(match: re.Match[str]) -> str:
    return {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(match[1], "\\" + match[1])
