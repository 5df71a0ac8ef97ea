"""The whole way from a profile to the advice."""

from __future__ import annotations

from functools import cache

from stepscope.advisor.advice import (
    RISKS,
    SCHEMA,
    Advice,
    AlreadyOn,
    CauseShare,
    Finding,
    NotFired,
    NotMeasured,
    Place,
    Prediction,
    Recommendation,
    Useless,
)
from stepscope.advisor.bottleneck import bottleneck
from stepscope.advisor.composition import factors_of, interplay, one_of_each
from stepscope.advisor.critical_path import critical_path
from stepscope.advisor.device_path import on_device_path
from stepscope.advisor.engine import Judgement, fill, judge, obstacle
from stepscope.advisor.fact_names import fact_name
from stepscope.advisor.fact_sources import how_to_get
from stepscope.advisor.facts import Facts, facts_of
from stepscope.advisor.knowledge import Knowledge, Method
from stepscope.advisor.measure import Measurement, measure
from stepscope.advisor.notes import environment_of, missing_signals, notes_of
from stepscope.advisor.places import places_of, transform_times
from stepscope.advisor.plan import (
    WORTHWHILE,
    Diagnosis,
    Evaluator,
    Plan,
    in_use,
    left_share,
    make_plan,
    possible,
)
from stepscope.advisor.rediagnosis import facts_after
from stepscope.advisor.scaling.words import exchange_gains, exchange_notes
from stepscope.advisor.stages import Stages
from stepscope.advisor.verdict import HEALTHY_GAIN, Gains, best_exact, left_words, verdict_of
from stepscope.advisor.wording import (
    share,
    speedup,
)
from stepscope.profiler.format import Profile
from stepscope.profiler.version import version


def advise(
    profile: Profile,
    knowledge: Knowledge,
    source: str = "profile.json",
    thresholds: dict[str, float] | None = None,
) -> Advice:
    """Judge a profile.

    Args:
        profile: the run.
        knowledge: rules and methods.
        source: the profile's file name, for the report.
        thresholds: named thresholds to use instead of the rules' defaults; `healthy_gain` too.

    Raises:
        NoStepsError: the profile holds too few steps.
    """
    thresholds = thresholds or {}
    profile = on_device_path(profile)
    measurement = measure(profile)
    facts = facts_of(profile, measurement)
    judgements = [judge(rule, facts, thresholds) for rule in knowledge.rules.values()]
    places = places_of(profile)
    evaluate = Evaluator(profile, measurement)
    findings = _findings(judgements, knowledge, measurement, facts, places, evaluate)
    advised = _advised_by(findings)

    def again(stages: Stages) -> Diagnosis:
        return _diagnosis(knowledge, facts_after(profile, measurement, stages), thresholds)

    plan = make_plan(Diagnosis(facts, advised), again, knowledge, profile, measurement)
    on = {m.id: m.name for m in knowledge.methods.values() if in_use(m, facts)}
    limit = thresholds.get("healthy_gain", HEALTHY_GAIN)
    exchange = exchange_gains(profile, measurement)
    gains = Gains(best_exact(findings, knowledge), exchange[0].predicted if exchange else None)
    held = bottleneck(plan.after)
    left = left_share(plan.after, held)
    return Advice(
        schema=SCHEMA,
        tool_version=version(),
        source=source,
        verdict=verdict_of(measurement, plan, gains, limit, places, profile.ranks),
        step_seconds=measurement.breakdown.step_seconds,
        breakdown=_breakdown(measurement),
        plan=plan.steps,
        left=left_words(plan, held, left),
        left_share=left,
        interplay=interplay(_proposed(plan, findings), {*on}, knowledge),
        findings=findings,
        tempting=_tempting(
            knowledge,
            measurement,
            facts,
            {*advised, *(step.method for step in plan.steps)},
            evaluate,
        ),
        already_on=[AlreadyOn(method=name, title=title) for name, title in on.items()],
        not_fired=[
            NotFired(
                rule=j.rule.id,
                title=j.rule.title,
                cause=j.rule.cause,
                margin=-j.margin,
                reason=j.deciding,
            )
            for j in judgements
            if j.truth is False
        ],
        not_measured=_not_evaluated(judgements) + missing_signals(profile),
        transforms=transform_times(profile),
        facts=facts,
        notes=[*exchange_notes(exchange), *notes_of(profile, facts)],
        environment=environment_of(profile),
        critical_path=critical_path(profile),
    )


def _advised_by(findings: list[Finding]) -> dict[str, str]:
    """Methods that findings offer, alternatives too, each with the first rule that names it."""
    advised: dict[str, str] = {}
    for finding in findings:
        for offered in finding.recommendations if finding.suppressed_by is None else ():
            for name in (offered.method, *(other.method for other in offered.alternatives)):
                advised.setdefault(name, finding.rule)
    return advised


def _proposed(plan: Plan, findings: list[Finding]) -> list[str]:
    """Methods of the plan, then those that findings offer, alternatives left out."""
    offered = [r.method for f in findings if f.suppressed_by is None for r in f.recommendations]
    return [*(step.method for step in plan.steps), *offered]


def _diagnosis(knowledge: Knowledge, facts: Facts, thresholds: dict[str, float]) -> Diagnosis:
    """What rules advise for a run with such facts, the largest predicted gain first."""
    judgements = [judge(rule, facts, thresholds) for rule in knowledge.rules.values()]
    fired = {j.rule.id: j.rule for j in judgements if j.truth}
    roots = [rule for rule in fired.values() if not fired.keys() & set(rule.suppressed_by)]
    advised: dict[str, str] = {}
    for rule in sorted(roots, key=lambda rule: -float(facts.get(f"gain.{rule.cause}", 0.0))):
        for name in rule.advise:
            advised.setdefault(name, rule.id)
    return Diagnosis(facts, advised)


def _breakdown(measurement: Measurement) -> list[CauseShare]:
    step = measurement.breakdown.step_seconds
    lines = [
        CauseShare(
            cause=cause,
            seconds_per_step=interval.share * step,
            share=interval.share,
            low=interval.low,
            high=interval.high,
        )
        for cause, interval in measurement.breakdown.causes.items()
    ]
    return sorted(lines, key=lambda line: -line.share)


def _findings(
    judgements: list[Judgement],
    knowledge: Knowledge,
    measurement: Measurement,
    facts: Facts,
    places: dict[str, list[Place]],
    evaluate: Evaluator,
) -> list[Finding]:
    """The rules that fired, the largest predicted loss first."""
    fired = {j.rule.id: j for j in judgements if j.truth}
    main = bottleneck(measurement.stages)
    recommended = cache(lambda name: _recommend(knowledge.methods[name], measurement, evaluate))
    findings = []
    for judgement in fired.values():
        rule = judgement.rule
        root = next((r for r in rule.suppressed_by if r in fired), None)
        loss = left_share(measurement.stages, rule.cause)
        methods = [knowledge.methods[m] for m in rule.advise]
        offered = [
            recommended(method.id)
            for method in methods
            if possible(method, facts) and not _loads(method, main)
        ]
        findings.append(
            Finding(
                rule=rule.id,
                title=rule.title,
                cause=rule.cause,
                role="symptom" if root else "root" if rule.cause == main else "contributing",
                loss_share=loss,
                evidence=fill(rule.evidence, facts),
                why=rule.why,
                margin=judgement.margin,
                recommendations=one_of_each(
                    (r for r in offered if r.predicted is None or r.predicted.high >= WORTHWHILE),
                    knowledge,
                ),
                suppressed_by=root,
                references=rule.references,
                places=places.get(rule.cause, []),
            )
        )
    order = {"root": 0, "contributing": 1, "symptom": 2}
    return sorted(findings, key=lambda f: (order[f.role], -f.loss_share, not _has_exact(f)))


def _has_exact(finding: Finding) -> bool:
    """Whether it can be mended without touching the mathematics."""
    return any(r.kind == "exact" for r in finding.recommendations)


def _loads(method: Method, cause: str) -> bool:
    """Whether a method burdens the very resource that is short, without relieving it."""
    return cause in method.loads and cause not in method.helps


def _recommend(method: Method, measurement: Measurement, evaluate: Evaluator) -> Recommendation:
    return Recommendation(
        method=method.id,
        title=method.name,
        kind=method.kind,
        risk=RISKS[method.kind],
        effort=method.effort,
        predicted=evaluate(method),
        factors=factors_of(method, measurement.stages),
        alternatives=[],
        how_to=method.how_to,
        quality_risk=method.quality_risk,
        when_not=method.when_not,
        effect=method.effect.text,
        effect_source=method.effect.source,
        effect_provenance=method.effect.provenance,
        citations=[
            f"{c.title}, arXiv:{c.arxiv}" if c.arxiv else f"{c.title} {c.url or ''}".strip()
            for c in method.citations
        ],
    )


def _tempting(
    knowledge: Knowledge,
    measurement: Measurement,
    facts: Facts,
    advised: set[str],
    evaluate: Evaluator,
) -> list[Useless]:
    """Popular methods that would gain nothing here, or that nobody should try here."""
    useless = []
    for method in knowledge.methods.values():
        if not method.tempting or method.id in advised or in_use(method, facts):
            continue
        if possible(method, facts):
            reason = _gains_nothing(method, evaluate(method), measurement)
        else:
            why = obstacle(method.requires, facts) if method.requires else None
            reason = f"cannot help: {why}" if why else None
        if reason is not None:
            useless.append(Useless(method=method.id, title=method.name, reason=reason))
    return useless


def _gains_nothing(
    method: Method, predicted: Prediction | None, measurement: Measurement
) -> str | None:
    """Why a method that is possible gains nothing; None where it may gain."""
    if predicted is None or predicted.high >= 1.05:
        return None
    relieved = sum(
        interval.share
        for cause, interval in measurement.breakdown.causes.items()
        if cause in method.helps
    )
    return (
        f"what it relieves is {share(relieved)} of the step; predicted "
        f"{speedup(predicted.speedup)}" + (f" with {predicted.assumes}" if relieved > 0.05 else "")
    )


def _not_evaluated(judgements: list[Judgement]) -> list[NotMeasured]:
    """Rules that could not be decided, with the missing signals and how to get them."""
    entries = []
    for judgement in judgements:
        if judgement.truth is None:
            missing = list(dict.fromkeys(judgement.missing))
            remedies = dict.fromkeys(how_to_get(name) for name in missing)
            entries.append(
                NotMeasured(
                    what=f"rule {judgement.rule.id}: {judgement.rule.title}",
                    reason=f"not measured: {', '.join(map(_named, missing))}",
                    remedy="; ".join(remedies),
                )
            )
    return entries


def _named(name: str) -> str:
    known = fact_name(name)
    return f"{name} ({known.meaning})" if known else name
