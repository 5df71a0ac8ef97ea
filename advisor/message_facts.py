"""Facts about messages between ranks: what the program sends itself, and how DDP is set up."""

from __future__ import annotations

from stepscope.advisor import messages
from stepscope.advisor.knowledge import Draft
from stepscope.advisor.measure import Measurement
from stepscope.profiler.format import Profile


def message_facts(facts: Draft, profile: Profile, measurement: Measurement) -> None:
    """Number, size and cost of collectives."""
    _own_calls(facts, profile, measurement.breakdown.step_seconds)
    _exchange(facts, profile)


def _own_calls(facts: Draft, profile: Profile, step_seconds: float) -> None:
    steady = profile.steady
    counted = sum(steady.calls.get("collectives", []))
    rows = profile.collective_calls
    if "collectives" not in steady.calls or (counted and not rows):  # an older profile, or a trace
        return
    sized = [row for row in rows if row.bytes]
    calls = sum(row.calls for row in sized)
    facts["comm.calls_per_step"] = calls / max(1, steady.total)
    if calls:
        facts["comm.call_bytes"] = sum(row.bytes or 0 for row in sized) / calls
    if step_seconds > 0:
        facts["comm.pickled_share"] = messages.seconds_in(profile, "object") / step_seconds
        facts["comm.barrier_share"] = messages.seconds_in(profile, "barrier") / step_seconds
    line = messages.fitted(profile)
    if line is not None:
        facts["comm.latency_seconds"] = line.latency
        facts["comm.link_bandwidth"] = line.bytes_per_s


def _exchange(facts: Draft, profile: Profile) -> None:
    if not profile.collectives:
        return
    largest = max(profile.collectives, key=lambda c: c.gradient_bytes)
    facts["comm.bucket_cap_bytes"] = largest.bucket_cap_bytes
    facts["comm.bucket_view"] = largest.gradient_as_bucket_view
    facts["comm.static_graph"] = largest.static_graph
    if largest.first_bucket_ns is not None and largest.backward_ns:
        facts["comm.first_bucket_share"] = largest.first_bucket_ns / largest.backward_ns
