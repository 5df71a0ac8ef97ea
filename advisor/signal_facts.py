"""Facts from signals over time, places in the source, and the operators of the window."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from stepscope.advisor.fetch import fetch_totals, training_loader
from stepscope.advisor.knowledge import Draft
from stepscope.advisor.measure import Measurement
from stepscope.advisor.operators import BETWEEN, of_model
from stepscope.advisor.samples import mean_of, settled, theil_sen
from stepscope.advisor.threads import thread_cores
from stepscope.advisor.trainer import writing_cause, writing_share
from stepscope.profiler.format import Operator, Profile

_MIN_ROWS = 30
_MIN_SAMPLES = 6
_MOST = 100.0
"""A ratio is not told beyond this: what it is compared with may be next to nothing."""
_COPIES = ("aten::copy_", "aten::_to_copy", "aten::contiguous", "aten::clone")
_INDEXING = (
    "aten::select", "aten::slice", "aten::index", "aten::index_put_", "aten::narrow",
    "aten::unbind",
)  # fmt: skip
_FORWARD_ONLY = (
    "aten::linear", "aten::conv1d", "aten::conv2d", "aten::conv3d", "aten::layer_norm",
    "aten::batch_norm", "aten::scaled_dot_product_attention",
)  # fmt: skip
"""Operators that no backward pass calls, unless it computes a forward pass again."""
_ZEROING = ("aten::zero_", "aten::_foreach_zero_", "aten::fill_")
_CLEARING = (*BETWEEN, "optimizer", "after_backward")
"""Phases in which gradients are cleared."""


def timeline_facts(facts: Draft, profile: Profile, measurement: Measurement) -> None:
    """How steady the steps are, over the run and from one to the next."""
    steady = profile.steady
    walls = [wall / n for wall, n in zip(steady.wall_ns, steady.count, strict=True) if n]
    if not walls or not sum(steady.wall_ns):
        return
    middle = median(walls)
    excess = sum(
        max(0, wall - n * middle) for wall, n in zip(steady.wall_ns, steady.count, strict=True)
    )
    facts["step.excess_share"] = excess / sum(steady.wall_ns)
    if len(walls) >= _MIN_ROWS:
        first, last = _thirds(walls)
        facts["step.drift"] = median(last) / max(1.0, median(first))


def resource_facts(facts: Draft, profile: Profile, measurement: Measurement) -> None:
    """What was sampled once a second: quotas, pressure, other threads, disk, swap, devices."""
    columns = profile.samples.columns
    throttled = mean_of(columns.get("throttled_share", []))
    facts["cpu.throttled_share"] = None if throttled is None else min(1.0, throttled)
    facts["cpu.pressure_share"] = mean_of(columns.get("cpu_pressure_share", []))
    facts["storage.pressure_share"] = mean_of(columns.get("io_pressure_share", []))
    threads = thread_cores(profile)
    facts["host.locking_threads_cores"] = threads and threads[0]
    facts["host.unlocked_threads_cores"] = threads and threads[1]
    swapped = _known(columns.get("swap_used_bytes", []))
    memory = profile.environment.memory_bytes
    facts["memory.swap_share"] = max(swapped) / memory if swapped and memory else None
    facts["gpu.memory_growth_share"] = _device_growth_per_hour(profile)
    _disk(facts, profile)


def _disk(facts: Draft, profile: Profile) -> None:
    rates = _known(profile.samples.columns.get("disk_read_bytes_per_s", []))
    if len(rates) < _MIN_SAMPLES or sum(rates) <= 0:
        return
    first, last = (sum(part) / len(part) for part in _thirds(rates))
    facts["storage.early_reads"] = min(_MOST, first / max(last, first / _MOST, 1.0))
    loader = training_loader(profile)
    read = fetch_totals(loader).storage_bytes if loader is not None else None
    if read is not None:
        machine = sum(rates) / len(rates) * profile.run.wall_ns / 1e9
        facts["storage.own_share"] = min(1.0, read / max(1.0, machine))


def fetch_facts(facts: Draft, profile: Profile, measurement: Measurement) -> None:
    """What reading costs beyond what is used, and how evenly workers share the work."""
    loader = training_loader(profile)
    if loader is None:
        return
    totals, used = fetch_totals(loader), profile.configuration.batch_bytes
    if totals.batches and totals.read_bytes is not None:
        if used:
            facts["fetch.read_amplification"] = totals.read_bytes / totals.batches / used
        if totals.read_bytes and totals.storage_bytes is not None:
            facts["fetch.storage_share"] = min(1.0, totals.storage_bytes / totals.read_bytes)
    spent: dict[int, int] = {}
    for worker in loader.workers:  # a process of each epoch has the same number again
        spent[worker.id] = spent.get(worker.id, 0) + worker.totals.wall_ns
    total = sum(spent.values())
    if loader.num_workers >= 2 and total:
        facts["loader.worker_imbalance"] = max(spent.values()) * loader.num_workers / total


def site_facts(facts: Draft, profile: Profile, measurement: Measurement) -> None:
    """Part of the step in the loop's own lines that write files, by what they seem to write."""
    steady = profile.steady
    wall = sum(steady.wall_ns)
    if not profile.stack_samples or not wall:
        return
    share = sum(
        writing_share(profile, phase) * sum(steady.phases.get(phase, [])) / wall
        for phase in BETWEEN
    )
    logging = writing_cause(profile) == "host.logging"
    facts["logging.by_hand_share"] = share if logging else 0.0
    facts["checkpoint.by_hand_share"] = 0.0 if logging else share


def operator_facts(facts: Draft, profile: Profile, measurement: Measurement) -> None:
    """Operators that do no arithmetic: copies, indexing, clearing, computing twice."""
    window = profile.window
    operators = of_model(window) if window is not None else []
    calls, time = sum(o.calls for o in operators), _time(operators)
    if window is None or not calls or not time:
        return
    facts["operators.copy_share"] = _time(operators, _COPIES) / time
    facts["operators.indexing_share"] = _calls(operators, _INDEXING) / calls
    clearing = [o for o in window.operators if o.phase in _CLEARING and o.name in _ZEROING]
    facts["operators.zeroing_share"] = _time(clearing) / max(1, window.wall_ns)
    again = [o for o in operators if o.phase == "backward"]
    once = _calls([o for o in operators if o.phase == "forward"], _FORWARD_ONLY)
    if once:
        facts["operators.recomputed_share"] = _calls(again, _FORWARD_ONLY) / once


def _time(operators: list[Operator], names: tuple[str, ...] | None = None) -> int:
    """Nanoseconds on the device, or on the processor where there is none."""
    on_device = any(o.self_device_ns for o in operators)
    chosen = [o for o in operators if names is None or o.name in names]
    return sum(o.self_device_ns if on_device else o.self_cpu_ns for o in chosen)


def _calls(operators: list[Operator], names: tuple[str, ...]) -> int:
    return sum(o.calls for o in operators if o.name in names)


def _device_growth_per_hour(profile: Profile) -> float | None:
    """Growth of memory in use per hour over device memory, of the device that grows fastest."""
    seconds = [t / 1e9 for t in profile.samples.time_ns]
    growths = []
    for gpu in profile.environment.gpus:
        column = profile.samples.columns.get(f"gpu{gpu.index}_memory_used_bytes", [])
        points = [(t, v) for t, v in zip(seconds, column, strict=False) if v is not None]
        if gpu.memory_bytes and (course := settled(points)):
            growths.append(theil_sen(course) * 3600 / gpu.memory_bytes)
    return max(growths) if growths else None


def _thirds(values: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    """The first and the last third."""
    third = max(1, len(values) // 3)
    return values[:third], values[-third:]


def _known(column: Sequence[float | None]) -> list[float]:
    return [value for value in column if value is not None]
