"""The work of matrix products, convolutions, attention and recurrent layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import prod

from stepscope.profiler.work_types import (
    Arguments,
    Formula,
    Tensor,
    Work,
    bytes_of,
    each_dimension,
)

_TENSOR_CORE_BYTES = 16
"""Tensor cores are fed by pieces of so many bytes: 8 values of 16 bits, 4 of TF32 (NVIDIA, *Matrix
Multiplication Background User's Guide*)."""


def _product(flops: int, read: Sequence[Tensor], output: int, dimensions: Sequence[int]) -> Work:
    """Work of a product of tensors.

    Args:
        flops: operations.
        read: the inputs, the first of the type that is computed with.
        output: values written, of that type.
        dimensions: those that have to be multiples for tensor cores.
    """
    _, dtype, size = read[0]
    return Work(
        "product",
        flops,
        bytes_of([*read, Tensor((output,), dtype, size)]),
        dtype,
        aligned=all(each * (size or 0) % _TENSOR_CORE_BYTES == 0 for each in dimensions),
    )


def _matrices(a: Tensor, b: Tensor, *more: Tensor) -> Work:
    """Products of (..., m, k) and (..., k, n)."""
    *batch, m, k = a.shape
    n = b.shape[-1]
    return _product(2 * prod(batch) * m * k * n, [a, b, *more], prod(batch) * m * n, (m, k, n))


def _linear(x: Tensor, weight: Tensor) -> Work:
    rows, (n, k) = x.elements // x.shape[-1], weight.shape
    return _product(2 * rows * n * k, [x, weight], rows * n, (rows, n, k))


def _vectors(a: Tensor, b: Tensor) -> Work:
    """A matrix or a vector by a vector."""
    return _product(2 * a.elements, [a, b], a.elements // a.shape[-1], ())


def _convolution(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Work:
    """Each value of the output takes a filter's worth of products."""
    places, kernel = x.shape[2:], weight.shape[2:]
    if len(kernel) != len(places):
        raise ValueError("a weight that was packed for another layout")
    steps, edge, spread = (each_dimension(o, len(kernel)) for o in (stride, padding, dilation))
    out = [
        (places[i] + 2 * edge[i] - spread[i] * (kernel[i] - 1) - 1) // steps[i] + 1
        for i in range(len(kernel))
    ]
    channels = weight.shape[0]
    flops = 2 * x.shape[0] * prod(out) * weight.elements
    return _product(flops, [x, weight], x.shape[0] * channels * prod(out), (x.shape[1], channels))


def _transposed_convolution(a: Arguments) -> Work:
    """Each value of the input takes a filter's worth of products."""
    x, weight = a[0], a[1]
    places, kernel = x.shape[2:], weight.shape[2:]
    steps, edge, spread, more = (each_dimension(a[i], len(kernel)) for i in (3, 4, 5, 7))
    out = [
        (places[i] - 1) * steps[i] - 2 * edge[i] + spread[i] * (kernel[i] - 1) + more[i] + 1
        for i in range(len(kernel))
    ]
    channels = weight.shape[1] * a[8]  # which are per group
    flops = 2 * x.shape[0] * prod(places) * weight.elements
    return _product(flops, [x, weight], x.shape[0] * channels * prod(out), (x.shape[1], channels))


def _any_convolution(a: Arguments) -> Work:
    return _transposed_convolution(a) if a[6] else _convolution(*a[:2], *a[3:6])


def _slow_convolution(a: Arguments) -> Work:
    dilation = a[6] if len(a) > 6 and isinstance(a[6], list) else [1]
    return _convolution(a[0], a[1], a[4], a[5], dilation)


def _convolution_backward(a: Arguments) -> Work:
    """A forward pass's worth for each of the gradients: of the input, of the weight."""
    gradient, x, weight, transposed, (of_input, of_weight, *_) = a[0], a[1], a[2], a[7], a[10]
    places = (x if transposed else gradient).shape[2:]
    flops = 2 * x.shape[0] * prod(places) * weight.elements * (of_input + of_weight)
    read = [gradient, *([weight] if of_input else []), *([x] if of_weight else [])]
    written = x.elements * of_input + weight.elements * of_weight
    return _product(flops, read, written, (x.shape[1], gradient.shape[1]))


def _attention(query: Tensor, key: Tensor, value: Tensor) -> Work:
    """Scores, and their product with the values; each (batch, heads, length, width)."""
    batch, heads, length, width = query.shape
    scores = 2 * batch * heads * length * key.shape[2]
    output = batch * heads * length * value.shape[3]
    flops = scores * (width + value.shape[3])
    return _product(flops, [query, key, value], output, (width, value.shape[3]))


def _attention_backward(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Work:
    """Five products: the scores anew, and the gradients of scores, values, queries and keys."""
    batch, heads, length, width = query.shape
    scores = 2 * batch * heads * length * key.shape[2]
    flops = scores * (3 * width + 2 * value.shape[3])
    read = [query, key, value, gradient, gradient]  # the last stands for the output
    written = query.elements + key.elements + value.elements
    return _product(flops, read, written, (width, value.shape[3]))


def _heads_third(function: Callable[..., Work]) -> Callable[..., Work]:
    """A formula for tensors of (batch, length, heads, width)."""

    def turned(*tensors: Tensor) -> Work:
        return function(*(t._replace(shape=tuple(t.shape[i] for i in (0, 2, 1, 3)))
                          for t in tensors))  # fmt: skip

    return turned


def _recurrent(x: Tensor, weights: Iterable[Tensor], passes: int = 1) -> Work:
    """Every weight matrix is applied to every element of every sequence."""
    matrices = [each.elements for each in weights if len(each.shape) > 1]
    flops = 2 * passes * (x.elements // x.shape[-1]) * sum(matrices)
    return Work("product", flops, None, x.dtype)


def _of(function: Callable[..., Work], *places: int) -> Formula:
    """A formula of the arguments at these places."""
    return lambda a: function(*(a[i] for i in places))


_ATTENTION = (
    "_scaled_dot_product_flash_attention", "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
)  # fmt: skip
_KERNELS_OF_ATTENTION = ("_flash_attention", "_efficient_attention")
PRODUCTS: dict[str, Formula] = {
    **dict.fromkeys(("mm", "bmm", "_int_mm", "_scaled_mm"), _of(_matrices, 0, 1)),
    **dict.fromkeys(("addmm", "baddbmm", "_addmm_activation"), _of(_matrices, 1, 2, 0)),
    **dict.fromkeys(("mv", "dot", "vdot"), _of(_vectors, 0, 1)),
    "addmv": _of(_vectors, 1, 2),
    **dict.fromkeys(
        ("linear", "mkldnn_linear", "_mkl_linear", "_linear_pointwise"), _of(_linear, 0, 1)
    ),
    **dict.fromkeys(("convolution", "_convolution", "convolution_overrideable"), _any_convolution),
    **dict.fromkeys(
        ("mkldnn_convolution", "_convolution_pointwise"), _of(_convolution, 0, 1, 4, 3, 5)
    ),
    **dict.fromkeys(("cudnn_convolution", "miopen_convolution"), _of(_convolution, 0, 1, 3, 2, 4)),
    **dict.fromkeys(
        ("thnn_conv2d", "_slow_conv2d_forward", "slow_conv3d_forward", "_conv_depthwise2d",
         "slow_conv_dilated2d", "slow_conv_dilated3d"),
        _slow_convolution,
    ),
    "convolution_backward": _convolution_backward,
    **dict.fromkeys(_ATTENTION, _of(_attention, 0, 1, 2)),
    **{f"{name}_backward": _of(_attention_backward, 0, 1, 2, 3) for name in _ATTENTION},
    **{
        f"{name}_forward": _of(_heads_third(_attention), 0, 1, 2)
        for name in _KERNELS_OF_ATTENTION
    },
    **{
        f"{name}_backward": _of(_heads_third(_attention_backward), 0, 1, 2, 3)
        for name in _KERNELS_OF_ATTENTION
    },
    "mkldnn_rnn_layer": lambda a: _recurrent(a[0], a[1:3]),
    "mkldnn_rnn_layer_backward": lambda a: _recurrent(a[0], a[1:3], passes=2),
    "_cudnn_rnn": lambda a: _recurrent(a[0], a[1]),
    "_cudnn_rnn_backward": lambda a: _recurrent(a[0], a[1], passes=2),
}  # fmt: skip
