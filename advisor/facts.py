"""Facts: one flat name space of what was measured, for rules to compare.

Every function here adds some facts to a dictionary; one that was not measured is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from stepscope.advisor import ceilings
from stepscope.advisor.causes import CAUSES
from stepscope.advisor.compile_facts import compile_facts
from stepscope.advisor.config_facts import environment_facts, set_up_facts
from stepscope.advisor.device_facts import device_facts
from stepscope.advisor.device_path import device_times
from stepscope.advisor.fact_names import fact_name
from stepscope.advisor.fetch import (
    GROWTH,
    HOST_MEMORY,
    PAGE_BYTES,
    fetch_totals,
    new_pages,
    training_loader,
)
from stepscope.advisor.knowledge import Draft, Value
from stepscope.advisor.measure import Measurement, quantile
from stepscope.advisor.message_facts import message_facts
from stepscope.advisor.model_trial import trial_facts
from stepscope.advisor.operators import category, of_model
from stepscope.advisor.outcome import ratio
from stepscope.advisor.predict import DEEP_QUEUE, gain
from stepscope.advisor.predicted_facts import predicted_facts
from stepscope.advisor.rank_facts import rank_facts
from stepscope.advisor.roofline_facts import roofline_facts
from stepscope.advisor.signal_facts import (
    fetch_facts,
    operator_facts,
    resource_facts,
    site_facts,
    timeline_facts,
)
from stepscope.advisor.sources import foreign_cores
from stepscope.advisor.traces.facts import trace_facts
from stepscope.advisor.trainer import causes_of_phases, growth_bytes_per_step
from stepscope.advisor.use_facts import use_facts
from stepscope.profiler.format import Loader, Optimizer, Profile, Steps

Facts = dict[str, Value]
_FUSED_OPTIMIZERS = ("Adam", "AdamW", "SGD", "Adagrad")
_ATTENTION = ("attention", "attn")
_FUSED_ATTENTION = tuple(
    f"aten::_scaled_dot_product_{kind}_attention"
    for kind in ("flash", "efficient", "cudnn", "fused")
)


def facts_of(profile: Profile, measurement: Measurement) -> Facts:
    """All facts that the profile supports; values that are None are left out."""
    facts: Draft = {}
    for source in _SOURCES if profile.trace is None else _TRACE_SOURCES:
        source(facts, profile, measurement)
    unknown = [name for name in facts if fact_name(name) is None]
    assert not unknown, unknown
    return {name: value for name, value in facts.items() if value is not None}


def _steps(facts: Draft, profile: Profile, measurement: Measurement) -> None:
    facts["run.steps"] = profile.warmup.total + profile.steady.total
    facts["run.world_size"] = profile.run.world_size
    facts["step.seconds"] = measurement.breakdown.step_seconds
    middle = quantile(profile.step_time, 0.5)
    if middle:
        facts["step.variation"] = (quantile(profile.step_time, 0.9) or middle) / middle
        excess = sum(profile.warmup.wall_ns) - profile.warmup.total * middle
        facts["run.warmup_share"] = max(0.0, excess) / max(1, profile.run.wall_ns)


def _causes(facts: Draft, profile: Profile, measurement: Measurement) -> None:
    measured = _measured_with(profile)
    for cause in CAUSES:
        interval = measurement.breakdown.causes.get(cause)
        if interval is not None:
            facts[f"share.{cause}"] = interval.share
            facts[f"gain.{cause}"] = gain(measurement.stages, cause)
        elif cause in measured:
            facts[f"share.{cause}"] = facts[f"gain.{cause}"] = 0.0


_ALWAYS_MEASURED = {
    "compute.optimizer",
    "host.logging",
    "host.checkpoint",
    "host.validation",
    "host.gc",
    "host.compilation",
    "host.python",
    "host.sync",
}


def _measured_with(profile: Profile) -> set[str]:
    """Causes whose absence from the breakdown means zero, given what this profile could see."""
    if profile.trace is not None:
        return causes_of_phases(profile.steady.phases)
    seen = set(_ALWAYS_MEASURED)
    if device_times(profile) is not None:
        seen |= causes_of_phases(profile.steady.phases)
    if profile.ranks is not None:
        told = causes_of_phases(profile.steady.phases)
        seen |= {cause for cause in told if cause.startswith("communication.")}
    if training_loader(profile) is not None:
        seen |= {c for c in CAUSES if c.startswith(("data_loading.s", "cpu_preprocessing."))}
        seen |= {"data_loading.network", "data_loading.worker_startup"}
    if profile.window is not None:
        seen |= {"compute.arithmetic", "compute.launch", "memory.bandwidth"}
    if profile.environment.gpus:
        seen |= {"data_loading.host_to_device"}
    if growth_bytes_per_step(profile) is not None:
        seen |= {"memory.growth"}
    return seen


def _waiting(facts: Draft, profile: Profile, measurement: Measurement) -> None:
    steps = profile.steady if profile.steady.total else profile.warmup
    wall = sum(steps.wall_ns)
    if wall:
        facts["data.wait_share"] = sum(steps.phases.get("data_wait", [])) / wall
        if steps.run_delay_ns is not None and steps.wait_run_delay_ns is not None:
            own = sum(steps.run_delay_ns) - sum(steps.wait_run_delay_ns)
            facts["cpu.main_delay_share"] = max(0, own) / wall


def _loader(facts: Draft, profile: Profile, measurement: Measurement) -> None:
    loader = training_loader(profile)
    if loader is None:
        return
    facts["loader.num_workers"] = loader.num_workers
    facts["loader.prefetch_factor"] = loader.prefetch_factor
    facts["loader.persistent_workers"] = loader.persistent_workers
    facts["loader.pin_memory"] = loader.pin_memory
    facts["loader.in_order"] = loader.in_order
    facts["loader.start_method"] = loader.start_method
    facts["loader.kind"] = loader.dataset_kind
    facts["loader.collate_fn"] = loader.collate_fn
    facts["loader.epochs"] = loader.epochs
    facts["loader.batch_bytes"] = profile.configuration.batch_bytes
    stages = measurement.stages
    facts["loader.best_workers"] = stages.best_workers()
    if loader.num_workers:
        deeper = stages.with_prefetch(max(DEEP_QUEUE, stages.prefetch))
        facts["loader.deeper_queue_gain"] = ratio(stages, deeper) - 1
        any_order = stages.with_any_order()
        facts["loader.any_order_gain"] = ratio(stages, any_order) - 1
    _fetching(facts, loader, measurement)


def _fetching(facts: Draft, loader: Loader, measurement: Measurement) -> None:
    t = fetch_totals(loader)
    if not t.batches or not t.wall_ns:
        return
    service = t.wall_ns / t.batches / 1e9
    facts["loader.service_seconds"] = service
    facts["loader.item_seconds"] = t.wall_ns / max(1, t.items) / 1e9
    if loader.num_workers:
        period = loader.num_workers * measurement.breakdown.step_seconds
        facts["loader.utilisation"] = min(1.0, service / period)
        facts["fetch.helper_cpu_share"] = t.helper_cpu_ns / t.wall_ns
    if loader.batches is not None and loader.batches.wall_ns:
        walls = sorted(loader.batches.wall_ns)
        facts["loader.service_variation"] = walls[int(0.9 * (len(walls) - 1))] / max(
            1, median(walls)
        )
    facts["fetch.cpu_share"] = t.cpu_ns / t.wall_ns
    facts["fetch.collate_share"] = t.collate_ns / t.wall_ns
    if t.run_delay_ns is not None:
        facts["fetch.run_delay_share"] = t.run_delay_ns / t.wall_ns
        blocked = t.wall_ns - t.cpu_ns - t.run_delay_ns
        facts["fetch.blocked_share"] = max(0, blocked) / t.wall_ns
    facts["fetch.major_faults"] = t.major_faults / t.batches
    if loader.start_method is not None:
        faulted = t.minor_faults * PAGE_BYTES / t.batches
        facts["fetch.copied_bytes"] = faulted * new_pages(t).get(HOST_MEMORY, 0.0)
        facts["fetch.grown_bytes"] = faulted * new_pages(t).get(GROWTH, 0.0)
    facts["fetch.opens"] = t.opens / t.batches
    if t.read_bytes is not None and t.storage_bytes is not None:
        facts["fetch.read_bytes"] = t.read_bytes / t.batches
        facts["fetch.storage_bytes"] = t.storage_bytes / t.batches
        if t.read_calls:
            facts["fetch.bytes_per_read"] = t.read_bytes / t.read_calls


def _processors(facts: Draft, profile: Profile, measurement: Measurement) -> None:
    stages = measurement.stages
    cores = max(1e-3, profile.environment.usable_cores)
    facts["cpu.usable_cores"] = cores
    demand = stages.demand / measurement.breakdown.step_seconds
    facts["cpu.demand_cores"] = demand
    facts["cpu.saturation"] = demand / cores
    foreign = foreign_cores(profile)
    facts["cpu.foreign_cores"] = foreign
    if foreign is not None:
        facts["cpu.spare_cores"] = max(0.0, cores - demand - foreign)
    facts["cpu.processes_per_core"] = (1 + stages.workers) / cores


def _torch(facts: Draft, profile: Profile, measurement: Measurement) -> None:
    configuration, variables = profile.configuration, profile.environment.variables
    facts["torch.intra_op_threads"] = configuration.intra_op_threads
    facts["torch.deterministic"] = configuration.deterministic
    facts["torch.anomaly_mode"] = configuration.anomaly_mode
    facts["torch.tf32"] = configuration.tf32_matmul
    facts["torch.cudnn_benchmark"] = configuration.cudnn_benchmark
    facts["torch.autocast"] = configuration.autocast or "off"
    threads = variables.get("OMP_NUM_THREADS", "")
    facts["env.omp_num_threads"] = int(threads) if threads.isdigit() else None
    facts["env.cuda_launch_blocking"] = variables.get("CUDA_LAUNCH_BLOCKING", "0") not in ("", "0")
    calibration = profile.environment.calibration
    if calibration is not None and calibration.gemm_bf16_flops:
        facts["machine.bf16_speed"] = calibration.gemm_bf16_flops / calibration.gemm_fp32_flops


def _model(facts: Draft, profile: Profile, measurement: Measurement) -> None:
    model = max(profile.configuration.models, key=lambda m: m.parameters, default=None)
    facts["gpu.count"] = 0
    if model is None:
        return
    facts["gpu.count"] = sum(device.startswith("cuda") for device in model.devices)
    facts["model.parameters"] = model.parameters
    facts["model.convolutions"] = _modules(model.modules, ("conv",))
    facts["model.attentions"] = _modules(model.modules, _ATTENTION)
    facts["model.channels_last"] = model.channels_last
    facts["model.compiled"] = any(m.compiled for m in profile.configuration.models)
    facts["model.distributed"] = model.distributed or "off"


def _optimizer(facts: Draft, profile: Profile, measurement: Measurement) -> None:
    optimizers = profile.configuration.optimizers
    largest: Optimizer | None = max(optimizers, key=lambda o: o.parameters, default=None)
    if largest is not None:
        facts["optimizer.name"] = largest.class_name
        facts["optimizer.tensors"] = largest.tensors
        facts["optimizer.fused"] = bool(largest.fused)
        # On a processor PyTorch picks the multi-tensor form only when it is asked to.
        facts["optimizer.foreach"] = bool(largest.foreach)
        facts["optimizer.fused_available"] = largest.class_name in _FUSED_OPTIMIZERS


def _operators(facts: Draft, profile: Profile, measurement: Measurement) -> None:
    window = profile.window
    if window is None:
        return
    operators = of_model(window)
    calls, total = sum(o.calls for o in operators), sum(o.self_cpu_ns for o in operators)
    if not calls or not total:
        return
    facts["operators.per_step"] = calls / window.steps
    facts["attention.fused"] = any(o.name.startswith(_FUSED_ATTENTION) for o in operators)
    facts["operators.mean_seconds"] = total / calls / 1e9
    for kind in ("matmul", "elementwise"):
        part = sum(o.self_cpu_ns for o in operators if category(o.name) == kind)
        facts[f"operators.{kind}_share"] = part / total


def _events(facts: Draft, profile: Profile, measurement: Measurement) -> None:
    steps = profile.steady
    n = steps.total
    if not n:
        return

    def calls(name: str) -> int:
        return sum(steps.calls.get(name, []))

    for fact, phase, counter in (
        ("checkpoint", "checkpoint", "checkpoints"),
        ("validation", "validation", "validations"),
    ):
        facts[f"{fact}.count"] = calls(counter)
        if calls(counter):
            facts[f"{fact}.every"] = n / calls(counter)
            if fact == "checkpoint":
                facts["checkpoint.seconds"] = _phase_seconds(steps, phase) / calls(counter)
    facts["logging.per_step"] = calls("log_calls") / n
    facts["gc.per_step"] = calls("collections") / n
    facts["compilation.per_step"] = calls("compilations") / n
    if "syncs" in steps.calls:
        facts["sync.per_step"] = calls("syncs") / n


def _memory(facts: Draft, profile: Profile, measurement: Measurement) -> None:
    columns = profile.samples.columns
    used = [v for v in columns.get("memory_used_share", []) if v is not None]
    facts["memory.host_used_share"] = max(used) if used else None
    swap = [v for v in columns.get("swap_used_bytes", []) if v is not None]
    facts["memory.swap_bytes"] = max(0.0, swap[-1] - swap[0]) if swap else None
    grown = growth_bytes_per_step(profile)
    if grown is not None:
        environment = profile.environment
        limit = environment.memory_limit_bytes or environment.memory_bytes
        per_second = grown / measurement.breakdown.step_seconds
        facts["memory.growth_bytes"] = grown
        facts["memory.growth_share_per_hour"] = per_second * 3600 / limit if limit else None
    _device_memory(facts, profile)


def _device_memory(facts: Draft, profile: Profile) -> None:
    columns = profile.samples.columns
    shares, utilisations = [], []
    for gpu in profile.environment.gpus:
        used = [v for v in columns.get(f"gpu{gpu.index}_memory_used_bytes", []) if v is not None]
        busy = [v for v in columns.get(f"gpu{gpu.index}_utilisation", []) if v is not None]
        shares += [max(used) / gpu.memory_bytes] if used and gpu.memory_bytes else []
        utilisations += [sum(busy) / len(busy)] if busy else []
    facts["gpu.memory_share"] = max(shares) if shares else None
    facts["gpu.utilisation"] = max(utilisations) if utilisations else None


def _communication(facts: Draft, profile: Profile, measurement: Measurement) -> None:
    total = sum(c.communication_ns for c in profile.collectives)
    if total:
        hidden = sum(min(c.overlap_ns, c.communication_ns) for c in profile.collectives)
        facts["comm.overlap_share"] = hidden / total
        exposed = measurement.breakdown.causes.get("communication.collective")
        facts["comm.exposed_share"] = exposed.share if exposed else 0.0
        facts["comm.gradient_bytes"] = sum(c.gradient_bytes for c in profile.collectives)


def _probe(facts: Draft, profile: Profile, measurement: Measurement) -> None:
    facts["probe.headroom"] = ceilings.headroom(profile)
    facts["probe.model_step_seconds"] = ceilings.model_step_seconds(profile)
    facts["probe.loader_batch_seconds"] = ceilings.loader_batch_seconds(profile)
    facts["probe.serial_fraction"] = ceilings.serial_fraction(profile)
    facts["probe.own_delay_share"] = ceilings.own_delay_share(profile)
    trial_facts(facts, profile)


_SOURCES: tuple[Callable[[Draft, Profile, Measurement], None], ...] = (
    _steps,
    _causes,
    _waiting,
    _loader,
    _processors,
    _torch,
    _model,
    _optimizer,
    _operators,
    _events,
    _memory,
    _communication,
    _probe,
    compile_facts,
    environment_facts,
    set_up_facts,
    timeline_facts,
    resource_facts,
    fetch_facts,
    site_facts,
    operator_facts,
    roofline_facts,
    predicted_facts,
    use_facts,
    device_facts,
    rank_facts,
    message_facts,
)
_TRACE_SOURCES = (
    _steps,
    _causes,
    _waiting,
    _operators,
    timeline_facts,
    resource_facts,
    operator_facts,
    roofline_facts,
    predicted_facts,
    trace_facts,
    rank_facts,
)
"""A trace does not tell what is switched on, nor what the processors do."""


def _modules(kinds: dict[str, int], parts: tuple[str, ...]) -> int:
    return sum(n for name, n in kinds.items() if any(part in name.lower() for part in parts))


def _phase_seconds(steps: Steps, phase: str) -> float:
    return sum(steps.phases.get(phase, [])) / 1e9
