"""Facts about what is switched on: environment variables, loaders, ranks, accumulation."""

from __future__ import annotations

from stepscope.advisor.fetch import fetch_totals, training_loader
from stepscope.advisor.knowledge import Draft
from stepscope.advisor.measure import Measurement
from stepscope.profiler.format import Profile

_OFF = ("", "0", "false", "no", "off")
_ANY = ("*",)
_SLOWING = {
    "CUDNN_LOGINFO_DBG": _ANY,
    "NCCL_DEBUG": ("info", "trace"),
    "PYTHONDEVMODE": _ANY,
    "PYTHONMALLOC": ("debug", "malloc_debug", "pymalloc_debug", "mimalloc_debug"),
    "PYTHONTRACEMALLOC": _ANY,
    "PYTORCH_NO_CUDA_MEMORY_CACHING": _ANY,
    "TORCH_CPP_LOG_LEVEL": ("info",),
    "TORCH_DISTRIBUTED_DEBUG": ("detail",),
    "TORCH_LOGS": _ANY,
    "TORCH_SHOW_DISPATCH_TRACE": _ANY,
}
"""Variables that make a library check, count or print what it does, and the values that do."""


def environment_facts(facts: Draft, profile: Profile, measurement: Measurement) -> None:
    """Environment variables that slow a run down, by what they do."""
    variables = profile.environment.variables
    slowing = [name for name, values in _SLOWING.items() if _has(variables, name, values)]
    facts["env.debug_variables"] = len(slowing)
    facts["env.debug_names"] = ", ".join(slowing) or "none"
    facts["env.compile_disabled"] = any(
        _has(variables, name, _ANY) for name in ("TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE")
    )
    facts["env.direct_links_disabled"] = any(
        _has(variables, name, _ANY) for name in ("NCCL_P2P_DISABLE", "NCCL_IB_DISABLE")
    )


def set_up_facts(facts: Draft, profile: Profile, measurement: Measurement) -> None:
    """Devices, ranks, micro-batches and what the loaders are told to do."""
    cores = max(1e-3, profile.environment.usable_cores)
    threads = profile.configuration.intra_op_threads or 1
    loader = training_loader(profile)
    facts["gpu.visible"] = len(profile.environment.gpus)
    facts["cpu.threads_per_core"] = (threads + (loader.num_workers if loader else 0)) / cores
    facts["step.micro_batches"] = micro_batches(profile)
    model = max(profile.configuration.models, key=lambda m: m.parameters, default=None)
    if model is not None:
        facts["model.sync_batch_norms"] = model.modules.get("SyncBatchNorm", 0)
    if loader is not None:
        facts["loader.batch_size"] = loader.batch_size or profile.configuration.batch_size
    _exchange(facts, profile)
    _validation_loaders(facts, profile)


def _has(variables: dict[str, str], name: str, values: tuple[str, ...]) -> bool:
    value = variables.get(name, "").strip().lower()
    return value not in _OFF if values is _ANY else value in values


def micro_batches(profile: Profile) -> float | None:
    """Batches that one update of the weights takes: steps are either, by who has ended them."""
    steady, loader = profile.steady, training_loader(profile)
    updates = sum(steady.calls.get("optimizer_steps", []))
    if not updates:
        return None
    steps = profile.warmup.total + steady.total
    fetched = fetch_totals(loader).batches / max(1, steps) if loader else 0.0
    return max(1, int(max(steady.total / updates, fetched) + 0.25))


def _exchange(facts: Draft, profile: Profile) -> None:
    if profile.collectives:
        largest = max(profile.collectives, key=lambda c: c.gradient_bytes)
        facts["comm.backend"] = largest.backend or "unknown"
        facts["comm.buckets"] = largest.buckets
        facts["comm.bucket_bytes"] = largest.gradient_bytes / max(1, largest.buckets)


def _validation_loaders(facts: Draft, profile: Profile) -> None:
    """Worker processes of loaders that validation iterates, and how many were started in all."""
    if not profile.loaders:
        return
    loaders = [each for each in profile.loaders if not each.training]
    facts["validation.loader_workers"] = sum(each.num_workers for each in loaders)
    facts["validation.worker_starts"] = sum(
        each.num_workers * (1 if each.persistent_workers else max(1, each.epochs))
        for each in loaders
    )
