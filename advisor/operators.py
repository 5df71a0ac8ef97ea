"""Operators by what bounds them: arithmetic, memory traffic, or their own dispatch."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from stepscope.profiler.format import Calibration, Operator, Window

Category = Literal["matmul", "elementwise", "other"]

_MATMUL = ("mm", "conv", "linear", "matmul", "attention", "einsum", "lstm", "gru", "rnn", "dot")
_ELEMENTWISE = (
    "add", "sub", "mul", "div", "relu", "gelu", "silu", "tanh", "sigmoid", "exp", "log", "sqrt",
    "pow", "softmax", "norm", "dropout", "copy", "cat", "fill", "zero", "clone", "threshold",
    "sum", "mean", "max_pool", "avg_pool", "embedding", "index", "where", "masked", "bernoulli",
    "to_copy", "elu", "neg", "rsqrt", "addcmul", "addcdiv", "lerp", "clamp", "triu", "tril",
)  # fmt: skip
_AUTOGRAD_NODE = re.compile(r"autograd::|Backward\d*$")
"""A node's own time is bookkeeping; what it computes is in the operators that it calls."""
BETWEEN = ("python", "after_forward")
"""Phases of the program's own code. What follows a forward pass is a loss first of all."""
MODEL_PHASES = ("forward", "backward", *BETWEEN, "after_backward")
"""Where a model computes: its functional parts, losses among them, run in no module's call."""


_READING = ("aten::item", "aten::_local_scalar_dense")
SMALL = 20
"""An operator whose calls take less than so many dispatches on average is all dispatch: checks,
allocation and the start of threads, which each cost a few, are most of what it does."""


class ComputeSplit(NamedTuple):
    """Parts of the model's computing; they sum to 1."""

    arithmetic: float
    bandwidth: float
    launch: float


def category(name: str) -> Category:
    """What kind of work an operator of this name does, e.g. `aten::addmm`."""
    if _AUTOGRAD_NODE.search(name):
        return "other"
    short = name.rpartition("::")[2].lower().lstrip("_")
    if any(part in short for part in _MATMUL):
        return "matmul"
    return "elementwise" if any(part in short for part in _ELEMENTWISE) else "other"


def of_model(window: Window) -> list[Operator]:
    """The operators of the model, not those of the optimizer, of data, of validation."""
    return [o for o in window.operators if o.phase in MODEL_PHASES and o.name not in _READING]


def compute_share(window: Window, phase: str) -> float:
    """Part of a phase that computes: inside operators, or driving them.

    Losses and models that are functions, not modules, run in the phase `python`.
    """
    totals = window.phases.get(phase)
    if totals is None or totals.wall_ns <= 0:
        return 0.0
    return min(1.0, (totals.operator_ns + totals.gap_ns) / totals.wall_ns)


def reading_share(window: Window, phase: str) -> float:
    """Part of what computes in a phase of the program's own that only reads values out of tensors.

    Where a loop does that thousands of times it is counted and not timed, and stays in the phase
    around it; it is judged by the number of its operators.
    """
    totals = window.phases.get(phase)
    if totals is None or totals.calls <= 0:
        return 0.0
    reads = sum(o.calls for o in window.operators if o.phase == phase and o.name == _READING[0])
    return min(1.0, reads / totals.calls)


def split_compute(window: Window | None, calibration: Calibration | None) -> ComputeSplit | None:
    """How the model's computing divides, judged from the torch.profiler window.

    Dispatch is what remains of an operator when its work is nothing: at most the time of an
    operator on one element, measured on the same machine, times its calls; plus the time in
    which Python ran between operators. What is left of matrix products, convolutions and
    attention is arithmetic, what is left of elementwise and normalising operators is bandwidth.
    None where the window saw none. Where the window saw a device, device time is split by category.
    """
    if window is None:
        return None
    operators = of_model(window)
    on_device = sum(operator.self_device_ns for operator in operators)
    if on_device:
        return _split_device(operators, on_device, window)
    dispatch = calibration.eager_op_ns if calibration else 0.0
    parts = {"matmul": 0.0, "elementwise": 0.0, "other": 0.0}
    gaps = {p: float(window.phases[p].gap_ns) for p in MODEL_PHASES if p in window.phases}
    for phase in BETWEEN:
        gaps[phase] = gaps.get(phase, 0.0) * (1 - reading_share(window, phase))
    launch = sum(gaps.values())
    for operator in operators:
        small = operator.self_cpu_ns < SMALL * operator.calls * dispatch
        overhead = operator.self_cpu_ns if small else operator.calls * dispatch
        launch += overhead
        parts[category(operator.name)] += operator.self_cpu_ns - overhead
    # Long operators of no category (autograd nodes, say) serve the others in equal measure.
    total = parts["matmul"] + parts["elementwise"] + launch
    if total <= 0:
        return None
    return ComputeSplit(
        arithmetic=parts["matmul"] / total,
        bandwidth=parts["elementwise"] / total,
        launch=launch / total,
    )


def _split_device(operators: list[Operator], on_device: int, window: Window) -> ComputeSplit:
    idle = max(0, window.wall_ns - on_device)
    matmul = sum(o.self_device_ns for o in operators if category(o.name) == "matmul")
    total = on_device + idle
    return ComputeSplit(
        arithmetic=matmul / total, bandwidth=(on_device - matmul) / total, launch=idle / total
    )
