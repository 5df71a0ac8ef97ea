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


class ComputeSplit(NamedTuple):
    """Parts of forward and backward; they sum to 1."""

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
    """The operators that forward, backward and the user's code called, not the optimizer."""
    return [operator for operator in window.operators if not operator.in_optimizer]


def split_compute(window: Window | None, calibration: Calibration | None) -> ComputeSplit | None:
    """How forward and backward divide, judged from the torch.profiler window.

    Dispatch is what remains of an operator when its work is nothing: at most the time of an
    operator on one element, measured on the same machine, times its calls; plus the time in
    which Python ran between operators. What is left of matrix products, convolutions and
    attention is arithmetic, what is left of elementwise and normalising operators is bandwidth.
    None without a window. Where the window saw a device, device time is split by category.
    """
    if window is None or window.forward_backward_ns <= 0:
        return None
    operators = of_model(window)
    on_device = sum(operator.self_device_ns for operator in operators)
    if on_device:
        return _split_device(operators, on_device, window)
    dispatch = calibration.eager_op_ns if calibration else 0.0
    parts = {"matmul": 0.0, "elementwise": 0.0, "other": 0.0}
    launch = float(max(0, window.forward_backward_ns - window.top_level_cpu_ns))
    for operator in operators:
        overhead = min(float(operator.self_cpu_ns), operator.calls * dispatch)
        launch += overhead
        parts[category(operator.name)] += operator.self_cpu_ns - overhead
    # Operators of no category (views, autograd nodes, checks) move nothing worth naming.
    total = sum(parts.values()) + launch
    if total <= 0:
        return None
    return ComputeSplit(
        arithmetic=parts["matmul"] / total,
        bandwidth=parts["elementwise"] / total,
        launch=(launch + parts["other"]) / total,
    )


def _split_device(operators: list[Operator], on_device: int, window: Window) -> ComputeSplit:
    idle = max(0, window.wall_ns - on_device)
    matmul = sum(o.self_device_ns for o in operators if category(o.name) == "matmul")
    total = on_device + idle
    return ComputeSplit(
        arithmetic=matmul / total, bandwidth=(on_device - matmul) / total, launch=idle / total
    )
