"""Plain builders: a realistic document by default, any field changed by name."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from math import floor, log
from typing import Any

from stepscope.advisor.advice import (
    Advice,
    AlreadyOn,
    Alternative,
    CauseShare,
    Factors,
    Finding,
    Interplay,
    Measured,
    NotFired,
    NotMeasured,
    Place,
    PlanStep,
    Prediction,
    Recommendation,
    TransformTime,
    Useless,
    Verdict,
)
from stepscope.advisor.knowledge import (
    Condition,
    Effect,
    Fixtures,
    Knowledge,
    Method,
    Predictor,
    Rule,
    Threshold,
)
from stepscope.advisor.measure import Breakdown, Measurement
from stepscope.advisor.stages import Stages
from stepscope.profiler.format import (
    Batches,
    Calibration,
    Ceilings,
    Configuration,
    Counted,
    Environment,
    FetchTotals,
    Histogram,
    Loader,
    Mark,
    Model,
    ModelTrial,
    Operator,
    OperatorWork,
    Optimizer,
    Profile,
    Resized,
    Run,
    Samples,
    Site,
    Solo,
    Steps,
    Threaded,
    ThreadedOperator,
    Window,
    WindowPhase,
    Worker,
)

MS = 1_000_000
CALIBRATION = Calibration(
    eager_op_ns=2100.0, copy_bytes_per_s=18e9, gemm_fp32_flops=2.1e11, threads=4
)


def a_prediction(**changes: Any) -> Prediction:
    """From the pipeline model, 1.84x."""
    defaults: dict[str, Any] = {
        "speedup": 1.84,
        "low": 1.62,
        "high": 2.05,
        "basis": "model",
        "assumes": "the 4 idle cores stay idle",
    }
    return Prediction(**defaults | changes)


def a_recommendation(**changes: Any) -> Recommendation:
    """More loader workers."""
    defaults: dict[str, Any] = {
        "method": "more-workers",
        "title": "Use 6 loader workers instead of 2",
        "kind": "exact",
        "risk": "bitwise-neutral",
        "effort": "minutes",
        "predicted": a_prediction(),
        "factors": None,
        "alternatives": [],
        "how_to": (
            "loader = DataLoader(\n    dataset,\n    batch_size=64,\n    num_workers=6,\n"
            "    persistent_workers=True,\n)\n"
        ),
        "quality_risk": "None: the same samples arrive in the same order.",
        "when_not": "Not where the cores are busy already, or memory is short.",
        "effect": "Loading keeps pace with the model as long as cores are idle.",
        "effect_source": "DataLoader documentation and our own corpus",
        "effect_provenance": "F",
        "citations": ["Mohan et al., Analyzing and Mitigating Data Stalls, arXiv:2007.06775"],
    }
    return Recommendation(**defaults | changes)


def a_place(**changes: Any) -> Place:
    """A transform of the user's own."""
    defaults: dict[str, Any] = {
        "file": "/home/user/train.py",
        "line": 42,
        "function": "__call__",
        "transform": "Blur",
        "share": 0.81,
    }
    return Place(**defaults | changes)


def a_verdict(**changes: Any) -> Verdict:
    """Two workers that prepare samples cannot keep up."""
    defaults: dict[str, Any] = {
        "category": "cpu_preprocessing",
        "cause": "cpu_preprocessing.transform",
        "healthy": False,
        "sentence": (
            "56 % of each 48.2 ms step goes to preparing samples: two loader workers cannot "
            "keep up, six would make training about 1.84x as fast."
        ),
        "share": 0.56,
        "places": [a_place()],
    }
    return Verdict(**defaults | changes)


def a_finding(**changes: Any) -> Finding:
    """The root cause: two workers decode too slowly."""
    defaults: dict[str, Any] = {
        "rule": "too-few-workers",
        "title": "Two loader workers cannot prepare samples as fast as the model uses them",
        "cause": "cpu_preprocessing.transform",
        "role": "root",
        "loss_share": 0.457,
        "evidence": (
            "The step waits 30.8 ms of 48.2 ms for a batch; a worker needs 88 ms for one, 93 % of "
            "it on a processor, and 4.1 of 8 cores are idle."
        ),
        "why": (
            "Each worker prepares one batch at a time. Two of them deliver a batch every 44 ms, "
            "the model could take one every 17 ms."
        ),
        "margin": 0.9,
        "recommendations": [a_recommendation()],
        "suppressed_by": None,
        "references": ["https://docs.pytorch.org/docs/stable/data.html"],
        "places": [a_place()],
    }
    return Finding(**defaults | changes)


def _findings() -> list[Finding]:
    cache = a_recommendation(
        method="cache-decoded",
        title="Cache decoded samples in memory",
        effort="hours",
        predicted=a_prediction(speedup=1.3, low=1.0, high=1.6, basis="bound", assumes="it fits"),
        how_to="dataset = CachedDataset(dataset)\n",
        effect="Repeated epochs skip decoding altogether.",
        effect_source="FFCV, CVPR 2023",
        effect_provenance="P",
    )
    bf16 = a_recommendation(
        method="autocast-bf16",
        title="Run forward in bfloat16 autocast",
        kind="numerics",
        risk="numerics",
        predicted=a_prediction(
            speedup=1.21, low=1.12, high=1.3, assumes="matrix products speed up"
        ),
        how_to='with torch.autocast("cpu", dtype=torch.bfloat16):\n    loss = model(x).mean()\n',
        quality_risk="Rounding changes; watch the loss for the first hundred steps.",
        effect_provenance="D",
    )
    progressive = a_recommendation(
        method="progressive-resizing",
        title="Train on smaller images first",
        kind="algorithmic",
        risk="training dynamics",
        effort="days",
        predicted=None,
        factors=Factors(
            step="shorter", step_speedup_at_most=1.38, free_share=None, steps="as many"
        ),
        alternatives=[
            Alternative(method="low-resolution", title="Train on small images", predicted=None)
        ],
        effect_provenance="S",
        effect="1.3x to 1.5x on ImageNet with ResNet-50.",
        effect_source="Composer method card",
    )
    return [
        a_finding(
            rule="input-wait",
            title="The training process waits for batches",
            role="symptom",
            loss_share=0.64,
            suppressed_by="too-few-workers",
            recommendations=[],
        ),
        a_finding(
            rule="fp32-arithmetic",
            title="Matrix products run in single precision",
            cause="compute.arithmetic",
            role="contributing",
            loss_share=0.08,
            evidence="Matrix products take 71 % of operator time; bf16 is 2.1x as fast here.",
            recommendations=[bf16, progressive],
        ),
        a_finding(recommendations=[a_recommendation(), cache]),
    ]


def _plan() -> list[PlanStep]:
    return [
        PlanStep(
            method="more-workers",
            title="Use 6 loader workers instead of 2",
            kind="exact",
            risk="bitwise-neutral",
            effort="minutes",
            rule="too-few-workers",
            how_to="loader = DataLoader(dataset, num_workers=6)\n",
            predicted=a_prediction(),
            kappa=1.0,
            cumulative=1.84,
            cumulative_low=1.62,
            cumulative_high=2.05,
            measured=Measured(speedup=1.79, low=1.71, high=1.86),
            next_cause="compute.arithmetic",
            left_share=0.42,
            alternatives=[],
        ),
        PlanStep(
            method="autocast-bf16",
            title="Run forward in bfloat16 autocast",
            kind="numerics",
            risk="numerics",
            effort="hours",
            rule="fp32-arithmetic",
            how_to="with torch.autocast('cpu', dtype=torch.bfloat16):\n    loss = model(x)\n",
            predicted=a_prediction(speedup=1.21, low=1.12, high=1.3, assumes="products speed up"),
            kappa=1.1,
            cumulative=2.23,
            cumulative_low=1.85,
            cumulative_high=2.6,
            measured=None,
            next_cause="compute.optimizer",
            left_share=0.12,
            alternatives=[
                Alternative(
                    method="eight-bits",
                    title="Compute with eight bits",
                    predicted=a_prediction(speedup=1.1, low=0.9, high=1.4, basis="bound"),
                )
            ],
        ),
    ]


def _breakdown() -> list[CauseShare]:
    rows = [
        ("cpu_preprocessing.transform", 0.56, 0.53, 0.59),
        ("compute.arithmetic", 0.24, 0.22, 0.26),
        ("cpu_preprocessing.collate", 0.07, 0.06, 0.08),
        ("compute.optimizer", 0.055, 0.05, 0.06),
        ("host.checkpoint", 0.04, 0.01, 0.07),
        ("data_loading.storage", 0.02, 0.01, 0.03),
        ("host.python", 0.0148, 0.01, 0.02),
        ("host.gc", 0.0002, 0.0, 0.001),
    ]
    return [
        CauseShare(cause=cause, seconds_per_step=share * 0.0482, share=share, low=low, high=high)
        for cause, share, low, high in rows
    ]


def an_advice(**changes: Any) -> Advice:
    """An image-training run that waits for two busy loader workers."""
    defaults: dict[str, Any] = {
        "schema": "stepscope.advice/1",
        "tool_version": "0.1.0",
        "source": "profile.json",
        "verdict": a_verdict(),
        "step_seconds": 0.0482,
        "breakdown": _breakdown(),
        "plan": _plan(),
        "left": "After these steps forward and backward arithmetic takes 60 % of the step.",
        "left_share": 0.12,
        "interplay": [
            Interplay(
                relation="overlapping",
                title="Methods that compute with fewer bits",
                methods=["autocast-bf16", "eight-bits"],
                partners=[],
                why="What sixteen bits have saved, eight do not save again.",
                source="pipeline model",
            )
        ],
        "findings": _findings(),
        "tempting": [
            Useless(
                method="fused-optimizer",
                title="Fused optimizer",
                reason="the optimizer step takes 5.5 % of the step and is not what it waits for",
            )
        ],
        "already_on": [AlreadyOn(method="pin-memory", title="Pinned host memory")],
        "not_fired": [
            NotFired(
                rule="small-files",
                title="Samples are many small files",
                cause="data_loading.small_files",
                margin=0.82,
                reason="opening files takes 0.4 % of the step; the rule asks for 2 %",
            ),
            NotFired(
                rule="checkpoint-often",
                title="Checkpoints are written too often",
                cause="host.checkpoint",
                margin=0.2,
                reason="checkpoints take 4.0 % of the step; the rule asks for 5 %",
            ),
        ],
        "not_measured": [
            NotMeasured(
                what="GPU kernels",
                reason="the model lives on the CPU",
                remedy="record the run on the machine that trains",
            )
        ],
        "transforms": [
            TransformTime(name="Blur", samples=81, share=0.81, seconds_per_item=1.1e-3),
            TransformTime(name="Flip", samples=19, share=0.19, seconds_per_item=0.26e-3),
        ],
        "facts": {
            "data.wait_share": 0.64,
            "loader.num_workers": 2,
            "loader.service_seconds": 0.088,
            "loader.persistent_workers": True,
            "torch.autocast": "off",
        },
        "notes": ["The middle 80 % of steps took between 44.1 ms and 53.9 ms."],
        "environment": {"Python": "3.11.7", "PyTorch": "2.9.1", "Usable cores": "8 of 16"},
    }
    return Advice(**defaults | changes)


def some_steps(first: int = 0, count: int = 200, wall_ms: float = 48.2, seed: int = 1) -> Steps:
    """One row per step, with some noise and a checkpoint every 50 steps."""
    chance = random.Random(seed)
    spikes = [i % 50 == 49 for i in range(count)]
    wall = [int((chance.gauss(wall_ms, wall_ms / 20) + 90 * spike) * MS) for spike in spikes]
    return Steps(
        first=list(range(first, first + count)),
        count=[1] * count,
        wall_ns=wall,
        wall_max_ns=list(wall),
        cpu_ns=[17 * MS] * count,
        process_cpu_ns=[40 * MS] * count,
        run_delay_ns=[MS // 10] * count,
        wait_cpu_ns=[MS // 5] * count,
        phases={
            "data_wait": [total * 64 // 100 for total in wall],
            "python": [total - total * 64 // 100 for total in wall],
        },
    )


def a_histogram(steps: Steps) -> Histogram:
    """Step times in bins of 2 %, as the recorder counts them."""
    bins = Counter(floor(log(wall) / log(1.02)) for wall in steps.wall_ns)
    return Histogram(growth=1.02, bins=sorted(bins), counts=[bins[b] for b in sorted(bins)])


def a_loader(**changes: Any) -> Loader:
    """Two workers that decode images."""
    workers = [
        Worker(
            id=i,
            pid=4000 + i,
            totals=FetchTotals(
                batches=110,
                items=7040,
                wall_ns=9_700 * MS,
                cpu_ns=9_020 * MS,
                run_delay_ns=190 * MS,
                collate_ns=800 * MS,
                read_bytes=900_000_000,
            ),
        )
        for i in range(2)
    ]
    defaults: dict[str, Any] = {
        "class_name": "DataLoader",
        "dataset": "ImageFolder",
        "dataset_kind": "map",
        "batch_size": 64,
        "num_workers": 2,
        "prefetch_factor": 2,
        "epochs": 1,
        "workers": workers,
    }
    return Loader(**defaults | changes)


def a_product(name: str = "aten::mm", **changes: Any) -> OperatorWork:
    """100 MFLOP in 1 ms, with 12.5 FLOP per byte."""
    defaults: dict[str, Any] = {
        "name": name,
        "dtype": "float32",
        "kind": "product",
        "calls": 10,
        "time_ns": MS,
        "flops": 100_000_000,
        "bytes": 8_000_000,
    }
    return OperatorWork(**defaults | changes)


def some_work(*more: OperatorWork) -> Counted:
    """A step of 1.5 GFLOP in 15 ms of convolutions, and 1.2 ms of other operators."""
    flops = 500_000_000
    return Counted(
        first_step=125,
        steps=1,
        wall_ns=52 * MS,
        operators=[
            a_product("aten::mkldnn_convolution", calls=40, time_ns=5 * MS, flops=flops),
            a_product(
                "aten::convolution_backward",
                phase="backward",
                calls=20,
                time_ns=10 * MS,
                flops=2 * flops,
                bytes=24_000_000,
            ),
            OperatorWork(
                name="aten::clamp_min",
                dtype="float32",
                kind="pass",
                calls=16,
                time_ns=MS,
                flops=1_000_000,
                bytes=8_000_000,
            ),
            OperatorWork(name="aten::view", kind="other", calls=50, time_ns=200_000),
            *more,
        ],
    )


def a_profile(**changes: Any) -> Profile:
    """The run behind `an_advice`: 20 warm-up and 200 steady steps on a CPU."""
    warmup, steady = some_steps(0, 20, 120.0), some_steps(20, 200)
    second = 1000 * MS
    defaults: dict[str, Any] = {
        "schema": "stepscope.profile/1",
        "tool_version": "0.1.0",
        "run": Run(
            started_at="2026-01-15T10:00:00Z",
            wall_ns=14 * second,
            ended="completed",
            argv=["train.py", "--epochs", "1"],
        ),
        "environment": Environment(
            python="3.11.7",
            torch="2.9.1",
            platform="Linux-6.8-x86_64",
            cpu_model="Example CPU",
            cpu_count=16,
            cpu_affinity=8,
            memory_bytes=64 * 10**9,
            variables={"OMP_NUM_THREADS": "4"},
            calibration=CALIBRATION,
        ),
        "configuration": Configuration(
            models=[
                Model(
                    class_name="ResNet",
                    parameters=11_689_512,
                    parameter_bytes=46_758_048,
                    trainable_parameters=11_689_512,
                    dtypes=["torch.float32"],
                    devices=["cpu"],
                )
            ],
            optimizers=[
                Optimizer(class_name="SGD", parameters=11_689_512, tensors=62, fused=False)
            ],
            intra_op_threads=4,
            inter_op_threads=8,
            batch_bytes=38_535_168,
        ),
        "warmup": warmup,
        "steady": steady,
        "step_time": a_histogram(steady),
        "loaders": [a_loader()],
        "samples": Samples(
            time_ns=[i * second for i in range(12)],
            columns={
                "job_busy_cores": [3.5 + 0.1 * (i % 4) for i in range(12)],
                "rss_bytes": [2e9 + 1e6 * i for i in range(12)],
                "io_pressure_share": [None] * 12,
            },
        ),
        "window": Window(
            first_step=120,
            steps=5,
            wall_ns=260 * MS,
            phases={
                "data_wait": WindowPhase(wall_ns=170 * MS, operator_ns=0),
                "forward": WindowPhase(wall_ns=45 * MS, operator_ns=43 * MS, gap_ns=MS, calls=200),
                "backward": WindowPhase(wall_ns=35 * MS, operator_ns=34 * MS, calls=100),
            },
            operators=[
                Operator(name="aten::mkldnn_convolution", calls=200, self_cpu_ns=41 * MS),
                Operator(
                    name="aten::convolution_backward",
                    calls=100,
                    self_cpu_ns=33 * MS,
                    phase="backward",
                ),
            ],
            counted=some_work(),
        ),
        "marks": [
            Mark(
                kind="checkpoint",
                step=20 + 50 * i + 49,
                time_ns=3 * i * second,
                duration_ns=90 * MS,
            )
            for i in range(4)
        ],
    }
    return Profile(**defaults | changes)


def even_steps(
    phases: dict[str, float],
    count: int = 100,
    first: int = 20,
    calls: dict[str, int] | None = None,
    **ms: float | None,
) -> Steps:
    """Steps that all take the same time.

    Args:
        phases: milliseconds of each phase in every step.
        count: how many steps.
        first: index of the first.
        calls: how often each counter was raised, in all steps together.
        ms: other columns by name without `_ns`, in milliseconds per step.
    """
    wall = [round(sum(phases.values()) * MS)] * count

    def column(name: str) -> list[int]:
        return [round((ms.get(name) or 0.0) * MS)] * count

    return Steps(
        first=list(range(first, first + count)),
        count=[1] * count,
        wall_ns=wall,
        wall_max_ns=wall,
        cpu_ns=column("cpu"),
        process_cpu_ns=column("process_cpu"),
        wait_cpu_ns=column("wait_cpu"),
        run_delay_ns=None if ms.get("run_delay") is None else column("run_delay"),
        wait_run_delay_ns=None if ms.get("wait_run_delay") is None else column("wait_run_delay"),
        phases={name: [round(spent * MS)] * count for name, spent in phases.items()},
        calls={name: [n] + [0] * (count - 1) for name, n in (calls or {}).items()},
    )


def even_samples(**columns: float) -> Samples:
    """Resources that were in use to the same extent all the time."""
    return Samples(
        time_ns=[0, 1000 * MS],
        columns={name: [value, value] for name, value in columns.items()},
    )


def some_totals(batches: int = 120, **per_batch: float) -> FetchTotals:
    """Sums over `batches` batches; times (`wall`, `cpu`, ...) are in milliseconds per batch."""
    values = {}
    for name, value in per_batch.items():
        if name in FetchTotals.__struct_fields__:
            values[name] = round(value * batches)
        else:
            values[f"{name}_ns"] = round(value * MS * batches)
    return FetchTotals(batches=batches, **values)


def some_batches(wall_ms: list[float], **columns: list[int]) -> Batches:
    """One worker's batches, one after the other, nearly all of it processor time."""
    wall = [round(ms * MS) for ms in wall_ms]
    defaults: dict[str, Any] = {
        "worker": [0] * len(wall),
        "start_ns": [sum(wall[:i]) for i in range(len(wall))],
        "wall_ns": wall,
        "cpu_ns": wall,
        "run_delay_ns": [0] * len(wall),
    }
    return Batches(**defaults | columns)


def a_site(phase: str = "fetch", state: str = "running", samples: int = 10, **more: Any) -> Site:
    """A place where a thread was seen so often."""
    defaults: dict[str, Any] = {"file": "/home/user/train.py", "line": 42, "function": "blur"}
    return Site(phase=phase, state=state, samples=samples, **defaults | more)


def some_model_trial(**changes: Any) -> ModelTrial:
    """A batch twice as large takes a third longer; two threads are as fast as four."""
    defaults: dict[str, Any] = {
        "batch_size": 8,
        "sizes": [
            Resized(factor=1.0, pass_ns=[9 * MS, 9 * MS, 90 * MS]),
            Resized(factor=2.0, pass_ns=[12 * MS, 12 * MS, 120 * MS]),
            Resized(factor=0.5, pass_ns=[8 * MS, 8 * MS, 80 * MS]),
        ],
        "optimizer_ns": [3 * MS] * 3,
        "threads": [
            Threaded(threads=1, pass_ns=[15 * MS] * 3, optimizer_ns=[3 * MS] * 3),
            Threaded(threads=2, pass_ns=[9 * MS] * 3, optimizer_ns=[3 * MS] * 3),
            Threaded(threads=4, pass_ns=[9 * MS] * 3, optimizer_ns=[3 * MS] * 3),
        ],
        "operators": [
            ThreadedOperator(name="aten::addmm", calls=4, one_ns=9 * MS, most_ns=3 * MS),
            ThreadedOperator(name="aten::cat", calls=1, one_ns=1 * MS, most_ns=1 * MS),
        ],
    }
    return ModelTrial(**defaults | changes)


def some_ceilings(**changes: Any) -> Ceilings:
    """The loader alone is half as fast as the model alone; its storage is nearly full."""
    solo: dict[str, Any] = {
        "batches": 6,
        "wall_ns": 50 * MS,
        "cpu_ns": 8 * MS,
        "run_delay_ns": 2 * MS,
        "together_wall_ns": 96 * MS,
        "together_cpu_ns": 8 * MS,
        "together_run_delay_ns": 8 * MS,
    }
    defaults: dict[str, Any] = {
        "model_step_ns": [20 * MS] * 8,
        "loader_batch_ns": [80 * MS, 0] * 4,  # two workers finish at once
        "solo": Solo(**solo),
    }
    return Ceilings(**defaults | changes)


def a_run(
    phases: dict[str, float],
    *,
    workers: int = 0,
    fetch: dict[str, float] | None = None,
    steps: dict[str, Any] | None = None,
    loader: dict[str, Any] | None = None,
    cores: int = 8,
    **changes: Any,
) -> Profile:
    """A bare run of 20 warm-up and 100 steady steps that are all alike, on a CPU.

    Args:
        phases: milliseconds of each phase in every step.
        workers: of the loader.
        fetch: what one batch costs a fetcher, see `some_totals`; None for a run without a loader.
        steps: more arguments of `even_steps`.
        loader: changes to the loader.
        cores: usable ones.
        changes: any field of the profile.
    """
    loaders = []
    if fetch is not None:
        fetchers = max(1, workers)
        totals = [some_totals(120 // fetchers, **fetch) for _ in range(fetchers)]
        made_by = [
            Worker(id=i if workers else -1, pid=4000 + i, totals=each)
            for i, each in enumerate(totals)
        ]
        loaders = [a_loader(num_workers=workers, workers=made_by, **(loader or {}))]
    steady = even_steps(phases, **(steps or {}))
    defaults: dict[str, Any] = {
        "warmup": even_steps(phases, 20, 0, **{**(steps or {}), "calls": None}),
        "steady": steady,
        "step_time": a_histogram(steady),
        "loaders": loaders,
        "samples": even_samples(),
        "window": None,
        "marks": [],
    }
    profile = a_profile(**defaults | changes)
    profile.environment.cpu_affinity = cores
    return profile


def a_healthy_run(**changes: Any) -> Profile:
    """Convolutions take nearly all of each step, on all cores, and nothing waits."""
    operators = [
        Operator(name="aten::mkldnn_convolution", calls=200, self_cpu_ns=190 * MS),
        Operator(
            name="aten::convolution_backward", calls=100, self_cpu_ns=280 * MS, phase="backward"
        ),
        Operator(name="aten::relu_", calls=150, self_cpu_ns=4 * MS),
    ]
    defaults: dict[str, Any] = {
        "phases": {
            "data_wait": 0.3,
            "forward": 40.0,
            "backward": 56.0,
            "optimizer": 1.2,
            "python": 0.5,
        },
        "fetch": {"wall": 0.2, "cpu": 0.2},
        "cores": 4,
        "steps": {"cpu": 97.5, "process_cpu": 380.0, "wait_cpu": 0.3, "run_delay": 0.1},
        "window": Window(
            first_step=120,
            steps=5,
            wall_ns=500 * MS,
            phases={
                "forward": WindowPhase(
                    wall_ns=200 * MS, operator_ns=195 * MS, gap_ns=3 * MS, calls=350
                ),
                "backward": WindowPhase(
                    wall_ns=280 * MS, operator_ns=279 * MS, gap_ns=MS, calls=100
                ),
            },
            operators=operators,
        ),
    }
    return a_run(**defaults | changes)


def a_data_bound_run(**changes: Any) -> Profile:
    """One worker needs 100 ms of processor time for a batch, the model 12 ms; cores are idle."""
    defaults: dict[str, Any] = {
        "phases": {"data_wait": 88.5, "forward": 5.0, "backward": 6.0, "optimizer": 0.5},
        "workers": 1,
        "fetch": {"wall": 100.0, "cpu": 97.0, "collate": 3.0, "collate_cpu": 3.0, "items": 64},
        "steps": {"cpu": 12.0, "process_cpu": 15.0, "wait_cpu": 0.5, "run_delay": 0.05},
    }
    return a_run(**defaults | changes)


def some_stages(**changes: Any) -> Stages:
    """Two workers that need 88 ms of processor time for a batch; the trainer works 17 ms."""
    defaults: dict[str, Any] = {
        "workers": 2,
        "cores": 8.0,
        "main": {"compute.arithmetic": 0.015, "compute.optimizer": 0.002},
        "fetch_cpu": {"cpu_preprocessing.transform": 0.080, "cpu_preprocessing.collate": 0.008},
        "fetch_blocked": {},
        "receive": 0.0005,
        "width": 2.0,
    }
    return Stages(**defaults | changes)


def bursty_stages(seed: int = 0) -> Stages:
    """4 workers make a batch in 10 ms, the trainer takes 14; some batches take 17 times as long."""
    chance = random.Random(seed)
    times = [chance.choice([1.0] * 15 + [17.0]) for _ in range(256)]
    return Stages(
        workers=4,
        cores=16.0,
        main={"compute.arithmetic": 0.014},
        fetch_cpu={},
        fetch_blocked={"data_loading.network": 0.040},
        fetch_shape=tuple(time * len(times) / sum(times) for time in times),
    )


def a_measurement(stages: Stages, spread: float = 0.0) -> Measurement:
    """Stages as if measured; resamples stretch the trainer's time by up to `spread`."""
    stretches = [1 + spread * (i - 20) / 20 for i in range(41)]
    return Measurement(
        breakdown=Breakdown(stages.seconds(), {}),
        stages=stages,
        resamples=[
            replace(stages, main={cause: k * s for cause, s in stages.main.items()})
            for k in stretches
        ],
    )


def a_rule(**changes: Any) -> Rule:
    """A rule that fires where the trainer waits for at least a tenth of the step."""
    defaults: dict[str, Any] = {
        "id": "waiting",
        "title": "The step waits for data",
        "cause": "cpu_preprocessing.transform",
        "when": Condition(fact="data.wait_share", op=">=", threshold="much"),
        "thresholds": {"much": Threshold(default=0.1, reason="a tenth")},
        "evidence": "{data.wait_share} of the step is waiting.",
        "why": "The loader is slower than the model.",
        "advise": ["sy-workers"],
        "fixtures": Fixtures(fires=[], silent=[]),
    }
    return Rule(**defaults | changes)


def a_method(name: str, predictor: Any, *causes: str, **changes: Any) -> Method:
    """A method called `name` with the given predictor."""
    defaults: dict[str, Any] = {
        "id": name,
        "name": f"Use {name}",
        "component": "systems",
        "subcomponent": "none",
        "actions": ["remove"],
        "kind": "exact",
        "summary": "A method of the tests.",
        "helps": list(causes),
        "predictor": Predictor(name=predictor, causes=list(causes)),
        "how_to": "pass\n",
        "effort": "minutes",
        "quality_risk": "None.",
        "when_not": "Never.",
        "effect": Effect(text="None.", source="nobody", provenance="F"),
        "provenance": "F",
    }
    return Method(**defaults | changes)


def some_knowledge(*methods: Method, rules: tuple[Rule, ...] = ()) -> Knowledge:
    """A catalogue of just these."""
    return Knowledge(rules={r.id: r for r in rules}, methods={m.id: m for m in methods})
