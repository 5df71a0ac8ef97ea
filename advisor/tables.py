"""Rows of the report's measurement tables: a profile's columns with units, and no judgement."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from stepscope.advisor import wording
from stepscope.advisor.charts import events, sparkline
from stepscope.advisor.fact_names import fact_name
from stepscope.advisor.operators import category
from stepscope.advisor.signals import Signal
from stepscope.profiler.format import (
    Calibration,
    FetchTotals,
    Loader,
    Model,
    Optimizer,
    Profile,
    Window,
    Worker,
)

_MAX_WORKERS = 64
_MAX_OPERATORS = 15
_CATEGORIES = {
    "matmul": "matrix products, convolutions, attention",
    "elementwise": "elementwise, normalising, copying",
    "other": "everything else",
}


class WorkerRow(NamedTuple):
    """What one fetcher did, per batch; parts of a fetch as shares of its wall time."""

    name: str
    batches: int
    wall: str
    cpu: float
    delay: float | None
    blocked: float
    collate: float
    read: str
    lost: int


class LoaderTable(NamedTuple):
    """One loader: how it is configured, and its workers."""

    name: str
    settings: list[tuple[str, str]]
    rows: list[WorkerRow]
    left_out: int


class OperatorRow(NamedTuple):
    """One operator of the window."""

    name: str
    calls_per_step: str
    cpu: str
    device: str
    share: float
    category: str


class CategoryRow(NamedTuple):
    """Operators of one kind of work."""

    id: str
    name: str
    share: float
    x: float
    """Where its part of the stacked bar begins, from 0 to 1."""


class OperatorTable(NamedTuple):
    """The operators with the largest self time."""

    rows: list[OperatorRow]
    categories: list[CategoryRow]
    by: str
    total: int
    steps: int
    on_device: bool


class ResourceRow(NamedTuple):
    """One signal over time."""

    name: str
    low: str
    mean: str
    high: str
    path: str


class MarkRow(NamedTuple):
    """Events of one kind."""

    kind: str
    times: int
    total: str
    longest: str


def loader(found: Loader) -> LoaderTable:
    """A loader's settings and a row for each of its workers, and for all of them."""
    workers = sorted((w for w in found.workers if w.totals.batches), key=lambda w: w.id)
    rows = [_worker(_name(w, workers), w.totals, w.lost) for w in workers[:_MAX_WORKERS]]
    settings = {
        "dataset": f"{found.dataset} ({found.dataset_kind}-style)",
        "batch size": found.batch_size,
        "batches per epoch": found.length,
        "epochs": found.epochs,
        "workers": found.num_workers,
        "prefetch factor": found.prefetch_factor,
        "persistent workers": found.persistent_workers,
        "pinned memory": found.pin_memory,
        "start method": found.start_method,
        "sampler": found.sampler,
        "collate function": found.collate_fn,
        "transforms": ", ".join(found.transforms) or None,
    }
    purpose = "" if found.training else " (validation)"
    return LoaderTable(
        found.class_name + purpose, _settings(settings), rows, len(workers) - len(rows)
    )


def operators(window: Window | None) -> OperatorTable | None:
    """The operators that take most of the window; None without a window."""
    if window is None or not window.operators or not window.steps:
        return None
    on_device = any(op.self_device_ns for op in window.operators)
    name = "self_device_ns" if on_device else "self_cpu_ns"
    total = sum(getattr(op, name) for op in window.operators) or 1
    largest = sorted(window.operators, key=lambda op: -int(getattr(op, name)))
    rows = [
        OperatorRow(
            op.name,
            wording.number(op.calls / window.steps),
            wording.duration(op.self_cpu_ns / window.steps / 1e9),
            wording.duration(op.self_device_ns / window.steps / 1e9),
            getattr(op, name) / total,
            category(op.name),
        )
        for op in largest[:_MAX_OPERATORS]
    ]
    categories, x = [], 0.0
    for kind, title in _CATEGORIES.items():
        part = sum(getattr(op, name) for op in largest if category(op.name) == kind) / total
        categories.append(CategoryRow(kind, title, part, x))
        x += part
    by = "device time" if on_device else "CPU time"
    return OperatorTable(rows, categories, by, len(largest), window.steps, on_device)


def machine(best: Calibration | None) -> list[tuple[str, str, str]]:
    """What the machine does at its best: name, value, and how it was timed; empty if unknown."""
    if best is None:
        return []
    ridge = best.gemm_fp32_flops / best.copy_bytes_per_s
    threads = wording.plural(best.threads, "thread")
    rows = [
        (
            "fp32 arithmetic",
            wording.scaled(best.gemm_fp32_flops, "FLOP/s"),
            f"matrix product, {threads}",
        ),
        ("memory traffic", f"{wording.size(best.copy_bytes_per_s)}/s", f"copy, {threads}"),
        (
            "ridge",
            f"{wording.number(ridge)} FLOP per byte",
            "an operator with fewer is bound by memory traffic, one with more by arithmetic",
        ),
        (
            "dispatch",
            wording.duration(best.eager_op_ns / 1e9),
            "one operator on one element: shorter operators are all overhead",
        ),
    ]
    if best.gemm_bf16_flops is not None:
        value = wording.scaled(best.gemm_bf16_flops, "FLOP/s")
        rows.insert(1, ("bf16 arithmetic", value, f"matrix product, {threads}"))
    return rows


def resources(found: Iterable[Signal]) -> list[ResourceRow]:
    """Lowest, mean and highest value of each signal."""
    rows = []
    for signal in found:
        known = [value for value in signal.values if value is not None]
        low, mean, high = (
            wording.fact(value, signal.unit)
            for value in (min(known), statistics.fmean(known), max(known))
        )
        rows.append(ResourceRow(signal.title, low, mean, high, sparkline(signal.values)))
    return rows


def marks(profile: Profile) -> list[MarkRow]:
    """Events counted by kind; of those that are no marks, as many as the timeline shows."""
    kinds: dict[str, list[int]] = {}
    for mark in profile.marks:
        kinds.setdefault(mark.kind, []).append(mark.duration_ns)
    derived = [event for event in events(profile) if event.kind not in kinds]
    for event in derived:
        kinds.setdefault(event.kind, []).append(event.duration_ns)
    return [
        MarkRow(
            kind,
            len(times),
            wording.duration(sum(times) / 1e9) if any(times) else "",
            wording.duration(max(times) / 1e9) if any(times) else "",
        )
        for kind, times in sorted(kinds.items())
    ]


def configuration(profile: Profile) -> list[tuple[str, str]]:
    """What the program has switched on, and how it was started."""
    found, run = profile.configuration, profile.run
    settings: dict[str, object] = {
        "started": run.started_at,
        "command": " ".join(run.argv) or None,
        "rank": _rank(profile),
        **{f"model {i}": _model(model) for i, model in enumerate(found.models, 1)},
        **{f"optimizer {i}": _optimizer(opt) for i, opt in enumerate(found.optimizers, 1)},
        "autocast": found.autocast or "off",
        "intra-op threads": found.intra_op_threads,
        "inter-op threads": found.inter_op_threads,
        "matmul precision": found.matmul_precision,
        "TF32 matrix products": found.tf32_matmul,
        "cuDNN benchmark": found.cudnn_benchmark,
        "deterministic algorithms": found.deterministic,
        "anomaly detection": found.anomaly_mode,
        "graph breaks of torch.compile": found.graph_breaks,
        "garbage collection": found.gc_enabled,
        "batch size": found.batch_size,
        "batch": None if found.batch_bytes is None else wording.size(found.batch_bytes),
        **profile.environment.variables,
    }
    return _settings(settings)


def _rank(profile: Profile) -> str | None:
    run, ranks = profile.run, profile.ranks
    if ranks is not None:
        return f"{ranks.count} of {run.world_size}; what follows is of rank {run.rank}"
    return f"{run.rank} of {run.world_size}" if run.world_size > 1 else None


def facts(found: Mapping[str, bool | int | float | str]) -> list[tuple[str, str, str]]:
    """Name, value with unit, and meaning of every fact."""
    rows = []
    for name, value in sorted(found.items()):
        known = fact_name(name)
        text = wording.fact(value, known.unit if known else "")
        rows.append((name, text, known.meaning if known else ""))
    return rows


def _name(worker: Worker, workers: list[Worker]) -> str:
    """Number of a worker, and its process where workers were started more than once."""
    again = sum(other.id == worker.id for other in workers) > 1
    name = "main process" if worker.id < 0 else f"worker {worker.id}"
    return f"{name}, process {worker.pid}" if again else name


def _worker(name: str, totals: FetchTotals, lost: int) -> WorkerRow:
    wall = totals.wall_ns or 1
    # The clocks of a thread and of the scheduler differ by some microseconds a batch.
    cpu = min(totals.cpu_ns, wall)
    delay = None if totals.run_delay_ns is None else min(totals.run_delay_ns, wall - cpu)
    read = totals.read_bytes
    return WorkerRow(
        name,
        totals.batches,
        wording.duration(totals.wall_ns / totals.batches / 1e9),
        cpu / wall,
        None if delay is None else delay / wall,
        (wall - cpu - (delay or 0)) / wall,
        totals.collate_ns / wall,
        "not measured" if read is None else wording.size(read / totals.batches),
        lost,
    )


def _model(model: Model) -> str:
    parts = [f"{model.class_name}, {wording.plural(model.parameters, 'parameter')}"]
    parts += [", ".join(model.dtypes), ", ".join(model.devices), model.distributed or ""]
    parts += ["channels-last" if model.channels_last else "", "compiled" if model.compiled else ""]
    return ", ".join(part for part in parts if part)


def _optimizer(optimizer: Optimizer) -> str:
    implementation = "fused" if optimizer.fused else "foreach" if optimizer.foreach else ""
    tensors = wording.plural(optimizer.tensors, "tensor")
    return ", ".join(part for part in (optimizer.class_name, tensors, implementation) if part)


def _settings(values: Mapping[str, object]) -> list[tuple[str, str]]:
    words = {True: "on", False: "off"}
    return [
        (name, words[value] if isinstance(value, bool) else str(value))
        for name, value in values.items()
        if value is not None
    ]
