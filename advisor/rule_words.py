"""Rules and methods in sentences: conditions, limits, predictors, causes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from stepscope.advisor import wording
from stepscope.advisor.causes import CATEGORIES, CAUSES
from stepscope.advisor.engine import unit_of
from stepscope.advisor.fact_names import fact_name
from stepscope.advisor.knowledge import Condition, Predictor, Rule, Threshold, Value
from stepscope.advisor.predict import DEEP_QUEUE, RARE_SHARE

_RELATIONS = {
    ">=": "is at least",
    ">": "is more than",
    "<=": "is at most",
    "<": "is less than",
    "==": "is",
    "!=": "is not",
}
_PREDICTORS = {
    "remove": "The pipeline model without {causes}.",
    "at_most": (
        "A bound: at most what the pipeline model gains without {causes}; half of it as the "
        "likely case."
    ),
    "overlap": (
        "The pipeline model with gradients exchanged in buckets of the best size, behind the "
        "measured backward, and once for an update; half of the exchange, as a bound, where only "
        "its time is known."
    ),
    "rarer": (
        "The pipeline model with {causes} done so rarely that it takes "
        f"{wording.share(RARE_SHARE)} of the step."
    ),
    "workers": "The pipeline model with the number of workers at which it is fastest.",
    "serial": "The pipeline model without loader workers.",
    "smooth": f"The pipeline model with {DEEP_QUEUE} batches in each worker's queue.",
    "any_order": "The pipeline model with batches taken as they are finished.",
    "clock": "The arithmetic of a device as its clock, at most; half of what is lost of it.",
    "link": "Copies to the device as the rate of its link.",
    "threads": (
        "A bound: arithmetic and memory traffic shared by one thread per usable core; half of the "
        "ideal gain as the likely case. Where the trial has tried them: as they were."
    ),
    "fewer_threads": (
        "The pipeline model with forward, backward and optimizer as they were with fewer threads, "
        "where the trial (`probe=True`) has tried them."
    ),
    "fused_optimizer": (
        "The pipeline model with an optimizer that runs at the memory bandwidth measured on the "
        "machine; a bound where that was not measured."
    ),
    "bf16": (
        "The pipeline model with arithmetic as fast as the machine's bfloat16 matrix products; a "
        "bound where these were not measured."
    ),
    "compile": (
        "A bound: at most what the pipeline model gains without dispatching and memory traffic, "
        "half of it as the likely case; large operators may get slower, so it may lose."
    ),
    "even_links": (
        "The pipeline model with the slow link as fast as those of the other ranks, by the "
        "kernel's counters of their connections."
    ),
    "joined_messages": (
        "The pipeline model with one message of each size in place of the program's many: the "
        "bytes stay, all but one meeting of the ranks go."
    ),
    "no_pickles": "A bound: without collectives of objects; half of them as the likely case.",
    "no_barriers": "A bound: without barriers; half of them as the likely case.",
    "literature": "None: the gain cannot be told from a profile, only what others report.",
}


def clauses(condition: Condition, thresholds: Mapping[str, Threshold]) -> list[str]:
    """What must all hold, one clause each."""
    if condition.all is not None:
        return [_words(child, thresholds) for child in condition.all]
    return [_words(condition, thresholds)]


def _words(condition: Condition, thresholds: Mapping[str, Threshold]) -> str:
    if condition.not_ is not None:
        return f"it is not so that {_inner(condition.not_, thresholds)}"
    if condition.fact is not None:
        return _comparison(condition, thresholds)
    joint = " and " if condition.all is not None else " or "
    children = condition.all or condition.any or []
    return joint.join(_inner(child, thresholds) for child in children)


def _inner(condition: Condition, thresholds: Mapping[str, Threshold]) -> str:
    words = _words(condition, thresholds)
    return words if condition.fact is not None else f"({words})"


def _comparison(leaf: Condition, thresholds: Mapping[str, Threshold]) -> str:
    assert leaf.fact is not None
    assert leaf.op is not None
    if leaf.other is not None:
        limit = _explained(leaf.other)
    elif leaf.threshold is not None:
        limit = f"{_value(leaf.fact, thresholds[leaf.threshold].default)} ({leaf.threshold})"
    else:
        assert leaf.value is not None
        limit = _value(leaf.fact, leaf.value)
    return f"{_explained(leaf.fact)} {_RELATIONS[leaf.op]} {limit}"


def _explained(name: str) -> str:
    known = fact_name(name)
    return f"{name} ({known.meaning})" if known else name


def _value(name: str, value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return wording.fact(value, unit_of(name))


def thresholds_of(rule: Rule) -> list[str]:
    """Each named limit with its unit, and why it is where it is."""
    leaves = {leaf.threshold: leaf.fact for leaf in rule.when.comparisons()}
    return [
        f"{name} = {_value(leaves.get(name) or '', limit.default)}: {limit.reason}"
        for name, limit in rule.thresholds.items()
    ]


def predictor(used: Predictor) -> str:
    """What a method's gain is predicted with."""
    causes = " and ".join(wording.cause_label(cause) for cause in used.causes)
    return _PREDICTORS[used.name].format(causes=causes)


def causes_by_category(causes: Iterable[str]) -> list[str]:
    """Causes in the order of the tree: `Data loading: storage, network`; whole categories short."""
    given = set(causes)
    lines = []
    for category, label in CATEGORIES.items():
        leaves = [cause for cause in CAUSES if wording.category_of(cause) == category]
        found = [cause.partition(".")[2] for cause in leaves if cause in given]
        if found:
            lines.append(label if len(found) == len(leaves) else f"{label}: {', '.join(found)}")
    return lines
