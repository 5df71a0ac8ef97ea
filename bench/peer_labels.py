"""What the verdicts of other tools mean in our categories and causes.

A label stands for every name listed: a category where the tool says no more than that (its text
and advice decide which ones it may mean: "input bound" covers data loading and CPU preprocessing),
a cause (`category.cause`) where its words name one. What is in no table claims no bottleneck:
prices, warm-up notes, "no data", the load of the machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

INPUT = ("data_loading", "cpu_preprocessing")
ARITHMETIC = ("compute", "memory")  # "compute bound" tells no memory-bound operators from others

TRACEML = {  # kinds of `primary_diagnosis` and of the sections' diagnoses in final_summary.json
    "INPUT_BOUND": INPUT,
    "H2D_BOUND": ("data_loading.host_to_device",),
    "RESIDUAL_HEAVY": (
        "host",
    ),  # "logging, checkpointing, validation, CPU stalls, unobserved work"
    "COMPUTE_BOUND": ARITHMETIC,
    "STRAGGLER": ("communication.straggler",),
    "COMPUTE_STRAGGLER": ("communication.straggler",),
    "H2D_STRAGGLER": ("communication.straggler", "data_loading"),
    "INPUT_STRAGGLER": ("communication.straggler", *INPUT),
    "HIGH_PRESSURE": ("memory.capacity",),
    "HIGH_GPU_MEMORY": ("memory.capacity",),
    "VERY_HIGH_GPU_MEMORY": ("memory.capacity",),
    "HIGH_PROCESS_GPU_MEMORY": ("memory.capacity",),
    "VERY_HIGH_PROCESS_GPU_MEMORY": ("memory.capacity",),
    "GPU_MEMORY_RESERVED_OVERHANG": ("memory.capacity",),
    "CREEP_EARLY": ("memory.growth",),
    "CREEP_CONFIRMED": ("memory.growth",),
    "HIGH_HOST_MEMORY": ("memory.host",),
    "HIGH_PROCESS_RSS": ("memory.host",),
}

GPUPROF = {  # a part of the title, the only name an insight has
    "waiting on the loader": INPUT,
    "Prefetch queue starved": INPUT,
    "Dataloader-worker imbalance": INPUT,
    "CPU pegged": ("cpu_preprocessing.transform", "cpu_preprocessing.core_starvation"),
    "disk hot": ("data_loading.storage", "data_loading.small_files"),
    "Cold-cache pattern": ("data_loading.storage",),
    "Cache thrashing": ("data_loading.storage", "memory.host"),
    "PCIe RX peaked": ("data_loading.host_to_device",),
    "Host memory pressure": ("memory.host",),
    "Peak memory": ("memory.capacity",),
    "of step unaccounted": ("compute.launch", "host.python"),
    "MFU ": ARITHMETIC,
    "Low arithmetic intensity": ("compute.launch",),
    "Attention appears unfused": ARITHMETIC,
    "Likely thermal throttling": ("compute",),
    "Kernel drift": ("compute",),
    "backward/forward": ("memory.capacity",),  # "possible gradient checkpointing recompute"
    "high tail latency": ("host",),  # "logging, checkpointing, garbage collection"
    "warmup / JIT compile": ("host.compilation",),
    "NCCL comm": ("communication.collective",),
    "Rank skew": ("communication.straggler",),
}

TRAIN_DOCTOR = {  # ids of the findings
    "dataloader_bound": INPUT,
    "cpu_bound_preprocessing": ("cpu_preprocessing.transform",),
    "pin_memory_off": ("data_loading.host_to_device",),
    "host_sync_in_loop": ("host.sync",),
    "small_batch": ("compute.launch",),
    "grad_accumulation_small_micro_batch": ("compute.launch",),
    "no_mixed_precision": ARITHMETIC,
    "no_torch_compile": (*ARITHMETIC, "host"),  # "compute and Python overhead"
    "cudnn_benchmark_off": ("compute.arithmetic",),
    "cpu_with_accelerator_available": ("compute",),
    "checkpoint_in_hot_loop": ("host.checkpoint",),
    "logging_in_hot_loop": ("host.logging",),
    "ddp_accumulation_without_no_sync": ("communication.collective",),
}

LABELS = {"TraceML": TRACEML, "gpuprof": GPUPROF, "train-doctor": TRAIN_DOCTOR}


@dataclass(frozen=True)
class Finding:
    """One thing that a tool said, in its words."""

    label: str
    severity: int
    """0: by its own account only information; above: a fault, the worse the higher."""
    gain: float | None = None
    """Speed-up it promises, where it does ("at most")."""


class Verdict(NamedTuple):
    """What a reader takes from a tool's output first."""

    label: str
    names: frozenset[str]
    """Categories and causes it may mean."""
    severity: int
    gain: float | None


def _names(tool: str, label: str) -> frozenset[str]:
    table = LABELS[tool]
    if tool == "gpuprof":
        return frozenset(n for part, names in table.items() if part in label for n in names)
    return frozenset(table.get(label, ()))


def _categories(names: Iterable[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def verdict(tool: str, findings: Iterable[Finding]) -> Verdict | None:
    """The first of the gravest findings, with those as grave that speak of the same category.

    None where the tool names no bottleneck.
    """
    meant = [(finding, _names(tool, finding.label)) for finding in findings]
    meant = [(finding, names) for finding, names in meant if names]
    if not meant:
        return None
    gravest = max(finding.severity for finding, _ in meant)
    meant = [(finding, names) for finding, names in meant if finding.severity == gravest]
    first, names = meant[0]
    for _, others in meant[1:]:
        if _categories(others) & _categories(names):
            names |= others
    return Verdict(first.label, names, gravest, first.gain)


def outcome(accepted: tuple[str, ...], said: Verdict | None) -> str:
    """How `said` fares against the causes that count as right; none accepted: a healthy loop.

    Mere information may hit, but where it misses the tool has reported no fault: it abstains.
    """
    fault = said is not None and said.severity > 0
    if not accepted:
        return "false alarm" if fault else "quiet"
    names = said.names if said else frozenset[str]()
    if names & set(accepted):
        return "exact"
    if _categories(names) & _categories(accepted):
        return "category"
    return "wrong" if fault else "abstained"
