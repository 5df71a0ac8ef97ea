"""What a call of an operator computes and moves, by the shapes and types of its arguments.

Operations: matrix products, convolutions and attention as `torch.utils.flop_counter` counts them (a
multiplication and an addition are two, attention without regard to its mask), recurrent layers
likewise; everything else by the operations that its definition takes per element, a root or an
exponential being one. Bytes: what has to be moved at least, each input read and each output
written once. What has no formula here has no work known: that is not zero.

Needs no torch: torch.profiler and the traces that it exports describe arguments in the same words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stepscope.profiler.work_passes import COPIES, PASSES
from stepscope.profiler.work_products import PRODUCTS
from stepscope.profiler.work_types import DTYPES, Formula, Tensor, Work

__all__ = ["LAYERS", "Work", "has_formula", "work_of"]

_FORMULAS: dict[str, Formula] = {**PRODUCTS, **PASSES, **COPIES}
LAYERS = (
    "aten::linear", "aten::conv1d", "aten::conv2d", "aten::conv3d", "aten::matmul",
    "aten::scaled_dot_product_attention", "aten::lstm", "aten::gru",
)  # fmt: skip
"""Called by a forward pass only; in backward they compute one again."""
_PRODUCTS = frozenset(PRODUCTS.values())
_UNKNOWN = Work("product", None, None, None)
_NAMESPACES = ("aten", "mkldnn", "mkl")


def has_formula(name: str) -> bool:
    """Whether the work of an operator of this name, e.g. `aten::addmm`, can be known."""
    return _formula(name) is not None


def work_of(
    name: str, shapes: Sequence[Any], types: Sequence[str], values: Sequence[Any]
) -> Work | None:
    """The work of a call; None where the operator has no formula.

    A product whose arguments do not tell what it takes has no operations and no bytes: it counts as
    one whose work is not known.

    Args:
        name: of the operator.
        shapes: of its arguments, `[]` for those that are no tensors.
        types: of its arguments, e.g. `float`, `Scalar`, `TensorList`.
        values: of those that are numbers or lists of them, None for the others.
    """
    formula = _formula(name)
    if formula is None:
        return None
    try:
        return formula(_arguments(shapes, types, values))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        # Another version of PyTorch calls it otherwise, or does not tell all of its arguments.
        return _UNKNOWN if formula in _PRODUCTS else None


def _formula(name: str) -> Formula | None:
    namespace, _, short = name.rpartition("::")
    return _FORMULAS.get(short) if namespace in _NAMESPACES else None


def _arguments(shapes: Sequence[Any], types: Sequence[str], values: Sequence[Any]) -> list[Any]:
    found: list[Any] = []
    for i, (shape, type_) in enumerate(zip(shapes, types, strict=True)):
        if type_ in DTYPES:
            found.append(Tensor(tuple(shape), *DTYPES[type_]))
        elif type_ == "TensorList":
            if not shape:
                raise ValueError("this version of PyTorch does not tell the shapes in a list")
            found.append([Tensor(tuple(each), None, None) for each in shape])
        else:
            found.append(values[i] if i < len(values) else None)
    return found
