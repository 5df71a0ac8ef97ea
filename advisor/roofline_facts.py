"""Facts about what operators compute and move, against what the machine does at its best."""

from __future__ import annotations

from stepscope.advisor.knowledge import Draft
from stepscope.advisor.measure import Measurement
from stepscope.advisor.roofline import BOUNDS, Point, Roofline, roofline
from stepscope.profiler.format import Profile


def roofline_facts(facts: Draft, profile: Profile, measurement: Measurement) -> None:
    """Utilisation over the step, and what bounds the operators' time."""
    found = roofline(profile)
    if found is None:
        return
    _utilisation(facts, found, measurement.breakdown.step_seconds)
    _bounds(facts, found)
    if found.on_device:
        facts["gpu.misaligned_share"] = found.misaligned_share


def _utilisation(facts: Draft, found: Roofline, step_seconds: float) -> None:
    if not found.model_flops or step_seconds <= 0:
        return
    facts["compute.flops_per_step"] = found.model_flops
    facts["compute.flops_per_second"] = found.model_flops / step_seconds
    if found.model_peak_seconds is not None and found.hardware_peak_seconds is not None:
        facts["compute.mfu"] = found.model_peak_seconds / step_seconds
        facts["compute.hfu"] = found.hardware_peak_seconds / step_seconds


def _bounds(facts: Draft, found: Roofline) -> None:
    placed = [p for p in found.points if p.flops is not None and p.bytes is not None]
    moved = sum(p.bytes or 0.0 for p in placed)
    if moved:
        facts["compute.arithmetic_intensity"] = sum(p.flops or 0.0 for p in placed) / moved
    known = [p for p in found.points if p.least_seconds is not None]
    if time := _seconds(known):
        facts["compute.peak_share"] = sum(p.least_seconds or 0.0 for p in known) / time
    if not any(point.bound for point in found.points):
        return
    bounds = [bound for bound in BOUNDS if bound != "launch" or not found.on_device]
    shares = {bound: found.share(bound) for bound in bounds}
    for bound, share in shares.items():
        facts[f"operators.{bound}_bound_share"] = share
    facts["operators.uncounted_share"] = max(0.0, 1 - sum(shares.values()))


def _seconds(points: list[Point]) -> float:
    return sum(point.seconds for point in points)
