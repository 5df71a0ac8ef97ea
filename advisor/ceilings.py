"""What the trial of each half of the loop says, where the user has asked for it."""

from __future__ import annotations

from statistics import median

from stepscope.advisor.fetch import training_loader
from stepscope.profiler.format import Profile, Solo

_NOTICEABLE = 0.02
"""Part of a fetch below which a share of it is noise."""


def model_step_seconds(profile: Profile) -> float | None:
    """One pass of the loop's body over a batch that is there already."""
    times = profile.ceilings.model_step_ns if profile.ceilings else []
    updates, steps = _updates(profile), profile.steady.total
    return _typical(times, round(steps / updates) if updates else 1)


def loader_batch_seconds(profile: Profile) -> float | None:
    """Time between batches when nothing but the loader runs."""
    times = profile.ceilings.loader_batch_ns if profile.ceilings else []
    loader = training_loader(profile)
    return _typical(times, loader.num_workers if loader is not None else 1)


def headroom(profile: Profile) -> float | None:
    """Batches per second of the loader alone over those of the model alone.

    Below one the loader holds the loop up, above one the model does.
    """
    model, loader = model_step_seconds(profile), loader_batch_seconds(profile)
    return model / loader if model and loader else None


def serial_fraction(profile: Profile) -> float | None:
    """Part of the blocked time that workers cannot share: 0 latency, 1 a full bandwidth.

    With k the blocked time of fetches together over alone, (k - 1) / (workers - 1).
    """
    solo, loader = _solo(profile), training_loader(profile)
    if solo is None or loader is None or loader.num_workers < 2:
        return None
    alone = solo.wall_ns - solo.cpu_ns - solo.run_delay_ns
    together = solo.together_wall_ns - solo.together_cpu_ns - solo.together_run_delay_ns
    if alone <= _NOTICEABLE * solo.wall_ns:
        return None
    return _clipped((together / alone - 1) / (loader.num_workers - 1))


def own_delay_share(profile: Profile) -> float | None:
    """Part of the fetches' waiting for a core that is the job's own doing, not other programs'."""
    solo = _solo(profile)
    if solo is None or solo.together_run_delay_ns <= _NOTICEABLE * solo.together_wall_ns:
        return None
    return _clipped(1 - solo.run_delay_ns / solo.together_run_delay_ns)


def _solo(profile: Profile) -> Solo | None:
    return profile.ceilings.solo if profile.ceilings else None


def _updates(profile: Profile) -> int:
    return sum(profile.steady.calls.get("optimizer_steps", []))


def _typical(times_ns: list[int], turn: int) -> float | None:
    """Median, in seconds, of the means over whole turns: of workers, or of accumulated batches."""
    turn = max(1, min(turn, len(times_ns)))
    whole = len(times_ns) // turn * turn
    means = [sum(times_ns[i : i + turn]) / turn for i in range(0, whole, turn)]
    return median(means) / 1e9 if means else None


def _clipped(value: float) -> float:
    return min(1.0, max(0.0, value))
