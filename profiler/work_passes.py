"""The work of operators that go over elements, and of those that only move them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod

from stepscope.profiler.work_types import (
    DTYPES,
    Arguments,
    Formula,
    Tensor,
    Work,
    bytes_of,
    each_dimension,
    tensors_in,
)


def _passing(per_element: int, read: list[Tensor], written: list[Tensor]) -> Work:
    flops = per_element * sum(each.elements for each in written)
    main = max(read, key=lambda each: each.elements)
    return Work("pass", flops, bytes_of([*read, *written]), main.dtype)


def _elementwise(per_element: int, output: str | None = None) -> Formula:
    """So many operations for each value of the output, whose type is the inputs' or `output`."""

    def formula(arguments: Arguments) -> Work:
        read = tensors_in(arguments)
        if isinstance(arguments[0], list):
            return _passing(per_element, read, arguments[0])
        written = _broadcast(read)
        if output is not None:
            written = Tensor(written.shape, *DTYPES[output])
        return _passing(per_element, read, [written])

    return formula


def _in_place(per_element: int) -> Formula:
    """The first argument is read and written."""
    return lambda a: _passing(
        per_element, tensors_in(a), a[0] if isinstance(a[0], list) else [a[0]]
    )


def _broadcast(tensors: list[Tensor]) -> Tensor:
    """Of the type of the largest, for a tensor without dimensions does not decide it."""
    rank = max(len(each.shape) for each in tensors)
    shapes = [(1,) * (rank - len(each.shape)) + each.shape for each in tensors]
    main = max(tensors, key=lambda each: (len(each.shape) > 0, each.size or 0))
    return main._replace(shape=tuple(max(sizes) for sizes in zip(*shapes, strict=True)))


def _like_input(per_element: int) -> Formula:
    """So many operations for each value of the first argument, which the output is like."""
    return lambda a: _passing(per_element, tensors_in(a), [a[0]])


def _reduction(per_element: int, axes_at: int = 1) -> Formula:
    """So many operations for each value of the first argument; the axes stand at `axes_at`."""

    def formula(arguments: Arguments) -> Work:
        x = arguments[0]
        over = arguments[axes_at] if len(arguments) > axes_at else None
        axes = over if isinstance(over, list) else [] if over is None else [over]
        kept = [n for i, n in enumerate(x.shape) if i not in axes and i - len(x.shape) not in axes]
        moved = bytes_of([x, x._replace(shape=tuple(kept) if axes else ())])
        return Work("pass", per_element * x.elements, moved, x.dtype)

    return formula


def _pooling(x: Tensor, *options: list[int], ceil: bool, indices: bool) -> Work:
    """An operation for each value under the window, at each place."""
    kernel, stride, padding, dilation = (each_dimension(o, 2) for o in options)
    out = list(x.shape[:-2])
    for i, length in enumerate(x.shape[-2:]):
        room = length + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1
        out.append((-(-room // stride[i]) if ceil else room // stride[i]) + 1)
    written = [x._replace(shape=tuple(out)), *([Tensor(tuple(out), "int64", 8)] * indices)]
    return Work("pass", prod(kernel) * prod(out), bytes_of([x, *written]), x.dtype)


def _unpooled(a: Arguments) -> Work:
    """Each gradient is added where the window's largest value was."""
    return Work("pass", a[0].elements, bytes_of([a[0], a[7], a[1]]), a[0].dtype)


def _random(a: Arguments) -> Work:
    """Drawn numbers are written; what drawing takes depends on the generator."""
    return Work("pass", None, bytes_of(a[:1]), a[0].dtype)


def _copying(moved: Callable[[Arguments], Iterable[Tensor]]) -> Formula:
    """Nothing is computed; `moved` are the tensors read or written."""

    def formula(arguments: Arguments) -> Work:
        tensors = list(moved(arguments))
        return Work("copy", 0, bytes_of(tensors), tensors[0].dtype)

    return formula


def _rows(table: Tensor, indices: Tensor) -> list[Tensor]:
    """Rows of a table are read and written, so are the indices read."""
    rows = table._replace(shape=(indices.elements, *table.shape[1:]))
    return [rows, indices, rows]


_ONE_EACH = (
    "add", "sub", "rsub", "mul", "div", "neg", "abs", "exp", "log", "log2", "log1p", "expm1",
    "sqrt", "rsqrt", "pow", "square", "reciprocal", "sign", "sin", "cos", "erf", "floor", "ceil",
    "round", "relu", "gelu", "silu", "elu", "mish", "leaky_relu", "hardtanh", "hardswish",
    "softplus", "sigmoid", "tanh", "clamp", "clamp_min", "clamp_max", "maximum", "minimum",
    "masked_fill", "where", "threshold", "threshold_backward", "gelu_backward", "silu_backward",
    "elu_backward", "sigmoid_backward", "tanh_backward", "leaky_relu_backward", "hardtanh_backward",
    "hardswish_backward", "softplus_backward", "_masked_scale",
)  # fmt: skip
_THREE_EACH = ("addcmul", "addcdiv", "lerp", "mse_loss_backward")
_COMPARISONS = (
    "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_not", "bitwise_and",
    "bitwise_or", "isnan", "isinf", "isneginf",
)  # fmt: skip
_NORMALISATIONS = (
    "native_batch_norm", "_native_batch_norm_legit", "_batch_norm_with_update", "cudnn_batch_norm",
    "miopen_batch_norm", "native_layer_norm", "native_group_norm",
)  # fmt: skip


def _names(name: str) -> list[str]:
    """Of one tensor, and of a list of them."""
    return [name, f"_foreach_{name}"]


PASSES: dict[str, Formula] = {
    **{n: _elementwise(1) for name in _ONE_EACH for n in _names(name)},
    **{f"{n}_": _in_place(1) for name in _ONE_EACH for n in _names(name)},
    **{n: _elementwise(3) for name in _THREE_EACH for n in _names(name)},
    **{f"{n}_": _in_place(3) for name in _THREE_EACH for n in _names(name)},
    **{name: _elementwise(1, output="bool") for name in _COMPARISONS},
    **dict.fromkeys(("sum", "mean", "amax", "amin", "prod", "all", "any"), _reduction(1)),
    **dict.fromkeys(("norm", "linalg_vector_norm"), _reduction(2, axes_at=2)),
    "cumsum": _like_input(1),
    # Largest value, difference, exponential, sum, quotient or second difference.
    **dict.fromkeys(("_softmax", "_log_softmax"), _like_input(5)),
    # Product, sum, difference, product; or exponential, sum, product, difference.
    **dict.fromkeys(("_softmax_backward_data", "_log_softmax_backward_data"), _like_input(4)),
    # Mean 1, variance 3 (difference, square, sum), normalising 2, weight and bias 2.
    **dict.fromkeys(_NORMALISATIONS, _like_input(8)),
    # Normalised value 2, sums for bias and weight 3, gradient of the input 5.
    **{f"{name}_backward": _like_input(10) for name in _NORMALISATIONS},
    "batch_norm_backward": _like_input(10),
    "max_pool2d_with_indices": lambda a: _pooling(
        a[0], a[1], a[2] or a[1], a[3], a[4], ceil=bool(a[5]), indices=True
    ),
    "max_pool2d_with_indices_backward": _unpooled,
    "avg_pool2d": lambda a: _pooling(
        a[0], a[1], a[2] or a[1], a[3], [1], ceil=bool(a[4]), indices=False
    ),
    **{f"{name}_": _random for name in ("bernoulli", "uniform", "normal", "random")},
}
COPIES: dict[str, Formula] = {
    "copy_": _copying(lambda a: [a[0], a[1]._replace(shape=a[0].shape)]),
    **dict.fromkeys(("fill_", "zero_", "_foreach_zero_"), _copying(lambda a: tensors_in(a[:1]))),
    **dict.fromkeys(("cat", "stack"), _copying(lambda a: [*a[0], *a[0]])),
    "embedding": _copying(lambda a: _rows(a[0], a[1])),
    "index_select": _copying(lambda a: _rows(a[0], a[2])),
    "embedding_dense_backward": _copying(
        lambda a: [a[0], a[1], a[0]._replace(shape=(a[2], a[0].shape[-1]))]
    ),
}
