"""The advice: the document `advise --json` prints, and all that the report writers know.

`"schema": "stepscope.advice/1"` is a contract; docs/advice.schema.json is generated from here.
Times are seconds, shares are 0..1, a speedup of 1.3 means that a step takes 1/1.3 of its time.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from msgspec import Struct

SCHEMA: Final = "stepscope.advice/1"
Kind = Literal["exact", "numerics", "algorithmic"]
Effort = Literal["minutes", "hours", "days"]
Relation = Literal["exclusive", "conflicting", "overlapping", "ordered", "paired", "harmful"]
Risk = Literal["bitwise-neutral", "numerics", "training dynamics"]
"""What a change may touch: nothing but time, rounding, or the course of training."""
RISKS: Final[dict[Kind, Risk]] = {
    "exact": "bitwise-neutral",
    "numerics": "numerics",
    "algorithmic": "training dynamics",
}


class Place(Struct, kw_only=True):
    """A place in the program's source where a cause was seen."""

    file: str
    line: int
    function: str
    transform: str | None
    """The transform, or the function called by the dataset, that it belongs to."""
    share: float
    """Part of the cause's time that was seen here."""


class Verdict(Struct, kw_only=True):
    """The answer in one sentence, and in parts."""

    category: str
    cause: str
    healthy: bool
    """No exact method is predicted to gain `healthy_gain` (10 %) or more."""
    sentence: str
    share: float
    """Part of the step that `cause` takes."""
    places: list[Place]
    """Where in the program's source, most of it first; empty where nobody saw it."""


class CauseShare(Struct, kw_only=True):
    """One line of the breakdown; shares over all lines sum to 1."""

    cause: str
    seconds_per_step: float
    share: float
    low: float
    """Bounds of the share, 90 % bootstrap interval over steps."""
    high: float


class Prediction(Struct, kw_only=True):
    """Speedup of the whole step, with a 90 % interval."""

    speedup: float
    low: float
    high: float
    basis: Literal["model", "bound"]
    """`model`: from the pipeline model. `bound`: only the best case is known (`high`); `speedup`
    is then half of the time it could save."""
    assumes: str


class Measured(Struct, kw_only=True):
    """Speedup found by running the method on the user's program."""

    speedup: float
    low: float
    high: float


class Alternative(Struct, kw_only=True):
    """A method that does the same job as another one, which was proposed in its place."""

    method: str
    title: str
    predicted: Prediction | None
    """None where only the literature speaks."""


class PlanStep(Struct, kw_only=True):
    """One step of the plan; it presumes the steps before it."""

    method: str
    title: str
    kind: Kind
    risk: Risk
    effort: Effort
    rule: str
    """The rule that advises it: of the run as it is, or as it would be after the steps before."""
    how_to: str
    predicted: Prediction
    """Against the state before this step."""
    kappa: float
    """That speedup over the one that this step would give alone: below 1 the steps before it have
    taken part of its gain, above 1 they have uncovered it."""
    cumulative: float
    """Speedup of all steps up to this one."""
    cumulative_low: float
    """Its 90 % interval; the errors of the steps count as independent of each other."""
    cumulative_high: float
    measured: Measured | None
    next_cause: str
    """What holds the step back once this is done."""
    left_share: float
    """Part of the step that is left to gain then at most: all of it that this cause holds back."""
    alternatives: list[Alternative]
    """What does the same job, the best first; having taken this step, none of them gains."""


class Factors(Struct, kw_only=True):
    """Training time is time per step times number of steps: what a method does to each.

    The first factor is bounded by the pipeline model. The second cannot be told from a profile:
    it, and any figure for both, is what others report (`Recommendation.effect`).
    """

    step: Literal["shorter", "as long", "longer"]
    step_speedup_at_most: float
    """Speedup of a step if all that the method relieves cost nothing; 1 unless `shorter`."""
    free_share: float | None
    """Unless None, the work that it adds may take this part of the present step before the step
    gets longer: 0 where it falls on what holds the step back."""
    steps: Literal["fewer", "as many", "more"]
    """Number of steps to the same quality, as reported."""


class Recommendation(Struct, kw_only=True):
    """A method offered under a finding."""

    method: str
    title: str
    kind: Kind
    risk: Risk
    effort: Effort
    predicted: Prediction | None
    """None where only the literature speaks."""
    factors: Factors | None
    """Of an algorithmic method; None for any other, which only changes the time of a step."""
    alternatives: list[Alternative]
    """What does the same job and is not proposed beside it, the best first."""
    how_to: str
    quality_risk: str
    when_not: str
    effect: str
    """What others report, "literature" if it comes from a paper we could check."""
    effect_source: str
    effect_provenance: str
    citations: list[str]


class TransformTime(Struct, kw_only=True):
    """One step of making a sample."""

    name: str
    samples: int
    """How often the stack sampler saw it at work."""
    share: float
    """Part of the time of making a sample, collating left out."""
    seconds_per_item: float


class Finding(Struct, kw_only=True):
    """A rule that fired."""

    rule: str
    title: str
    cause: str
    role: Literal["root", "contributing", "symptom"]
    loss_share: float
    """Part of the step that would go if the cause were gone (predicted)."""
    evidence: str
    why: str
    margin: float
    """How far past its thresholds it is: 0.5 means half as much again as needed."""
    recommendations: list[Recommendation]
    suppressed_by: str | None
    references: list[str]
    places: list[Place]
    """Where in the program's source its cause was seen, most of it first."""


class NotFired(Struct, kw_only=True):
    """A rule that was evaluated and did not fire."""

    rule: str
    title: str
    cause: str
    margin: float
    """How far it is from firing: 0.2 means that the deciding fact is 20 % short."""
    reason: str


class NotMeasured(Struct, kw_only=True):
    """Something that could not be judged, and how to change that."""

    what: str
    reason: str
    remedy: str


class Useless(Struct, kw_only=True):
    """A popular method that would not help this run."""

    method: str
    title: str
    reason: str


class AlreadyOn(Struct, kw_only=True):
    """A method that the program uses already."""

    method: str
    title: str


class Interplay(Struct, kw_only=True):
    """What happens when proposed methods are used together."""

    relation: Relation
    """Same job, of which one is enough; one rules the other out; gains overlap; the first have to
    come first; each makes room for the other; one spoils the other."""
    title: str
    methods: list[str]
    partners: list[str]
    """Unless empty, it holds between any of `methods` and any of these; else among `methods`."""
    why: str
    source: str


class PathShare(Struct, kw_only=True):
    """What the step was waiting for; shares over all lines sum to 1."""

    owner: str
    """See `CriticalPath` of the profile."""
    seconds_per_step: float
    share: float


class PathItem(Struct, kw_only=True):
    """An operator (on the host, and in what it launched), a kernel or a rank on the path."""

    name: str
    seconds_per_step: float
    share: float
    """Part of the path."""
    critical_share: float | None = None
    """Part of its own time that is on the path; the rest runs beside it."""


class WhatIf(Struct, kw_only=True):
    """Steps of a trace replayed with other durations and the same dependencies."""

    scenario: str
    steps: int
    step_seconds: float
    """What these steps took, mean."""
    predicted_seconds: float
    speedup: float
    """An estimate, more often too high than too low: dependencies that held nothing back in the
    recording are not known."""
    next_owner: str
    """What would be on the path the longest then."""
    next_share: float
    """Its part of it."""


class CriticalPath(Struct, kw_only=True):
    """For each moment of a step the one thing that the step was waiting for."""

    owners: list[PathShare]
    """The longest first."""
    operators: list[PathItem]
    kernels: list[PathItem]
    ranks: list[PathItem]
    """Of several ranks: on which of them the path is, the longest first."""
    what_if: list[WhatIf]


class Advice(Struct, kw_only=True):
    """Everything that follows from one profile."""

    schema: Literal["stepscope.advice/1"]
    tool_version: str
    source: str
    """The profile's file name."""
    verdict: Verdict
    step_seconds: float
    breakdown: list[CauseShare]
    plan: list[PlanStep]
    left: str
    """What remains after the plan, in words."""
    left_share: float
    """Part of a step that is left at most to gain after the plan."""
    interplay: list[Interplay]
    """Between the methods of the plan and of the findings."""
    findings: list[Finding]
    tempting: list[Useless]
    already_on: list[AlreadyOn]
    not_fired: list[NotFired]
    not_measured: list[NotMeasured]
    transforms: list[TransformTime]
    facts: dict[str, bool | int | float | str]
    notes: list[str]
    """How the run ended, how noisy it was, what limits the confidence."""
    environment: dict[str, str]
    critical_path: CriticalPath | None = None
    """Of a profile that was made from a trace."""


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the advice document."""
    import msgspec  # noqa: PLC0415  # only the documentation and its test need it

    schema = msgspec.json.schema(Advice)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": SCHEMA, **schema}
