"""Facts about what is used without need, or lies idle: precision, devices, searches, gradients."""

from __future__ import annotations

from stepscope.advisor.knowledge import Draft
from stepscope.advisor.measure import Measurement
from stepscope.profiler.format import Profile

_IDLE = 0.05
"""A device that is busy for less of the time than this does nothing that anybody waits for."""


def use_facts(facts: Draft, profile: Profile, measurement: Measurement) -> None:
    """What the program asks of the machine and would not need to, or leaves unused."""
    models = profile.configuration.models
    if models:
        largest = max(models, key=lambda model: model.parameters)
        facts["model.float64"] = "torch.float64" in largest.dtypes
    facts["gpu.idle"] = _idle_devices(profile)
    if profile.collectives:
        largest_exchange = max(profile.collectives, key=lambda c: c.gradient_bytes)
        facts["comm.unused_searched"] = largest_exchange.find_unused_parameters
        facts["comm.unused_bytes"] = largest_exchange.unused_parameter_bytes
    steady = profile.steady
    calls = {name: sum(column) for name, column in steady.calls.items()}
    if profile.collectives and "no_syncs" in calls and steady.total:
        facts["comm.no_sync_per_step"] = calls["no_syncs"] / steady.total
    if "validation_gradients" in calls and calls.get("validations"):
        facts["validation.gradients"] = calls["validation_gradients"] > 0


def _idle_devices(profile: Profile) -> int | None:
    """Devices of the machine on which nothing ran; None where their use was not sampled."""
    shares = []
    for gpu in profile.environment.gpus:
        column = profile.samples.columns.get(f"gpu{gpu.index}_utilisation", [])
        known = [value for value in column if value is not None]
        if not known:
            return None
        shares.append(sum(known) / len(known))
    return sum(share < _IDLE for share in shares) if shares else None
