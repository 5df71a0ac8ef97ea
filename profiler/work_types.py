"""What the formulas of :mod:`stepscope.profiler.work` take and give."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import Any, Final, Literal, NamedTuple

Kind = Literal["product", "pass", "copy", "other"]
"""Matrix products and their kin; passes over elements; what moves data and computes nothing; what
does neither, or is not known."""

DTYPES: Final = {
    "float": ("float32", 4), "double": ("float64", 8), "c10::Half": ("float16", 2),
    "c10::BFloat16": ("bfloat16", 2), "long int": ("int64", 8), "long": ("int64", 8),
    "long long": ("int64", 8), "int": ("int32", 4), "short int": ("int16", 2),
    "short": ("int16", 2), "signed char": ("int8", 1), "unsigned char": ("uint8", 1),
    "bool": ("bool", 1), "c10::complex<float>": ("complex64", 8),
    "c10::complex<double>": ("complex128", 16),
    "c10::Float8_e4m3fn": ("float8_e4m3fn", 1), "c10::Float8_e5m2": ("float8_e5m2", 1),
}  # fmt: skip
"""Name and bytes of an element by the name that the profiler has for its type."""


class Tensor(NamedTuple):
    """Shape and type of an argument; of the tensors of a list the type is not known."""

    shape: tuple[int, ...]
    dtype: str | None
    size: int | None
    """Bytes of an element."""

    @property
    def elements(self) -> int:
        """Number of values."""
        return prod(self.shape)


class Work(NamedTuple):
    """What one call does."""

    kind: Kind
    flops: int | None
    bytes: int | None
    dtype: str | None
    """Type of the values that it computes with."""
    aligned: bool = True
    """Whether the dimensions of a product are multiples of what tensor cores take at once."""


Arguments = Sequence[Any]
"""Tensors, lists of them, numbers, lists of those, None; in the order of the operator's schema."""
Formula = Callable[[Arguments], Work]


def tensors_in(arguments: Iterable[Any]) -> list[Tensor]:
    """All tensors among the arguments, those in lists too."""
    found: list[Tensor] = []
    for each in arguments:
        if isinstance(each, Tensor):
            found.append(each)
        elif isinstance(each, list):
            found += tensors_in(each)
    return found


def bytes_of(tensors: Iterable[Tensor]) -> int | None:
    """Bytes of all of them; None where the type of one is not known."""
    total = 0
    for tensor in tensors:
        if tensor.size is None:
            return None
        total += tensor.elements * tensor.size
    return total


def each_dimension(option: Sequence[int], dimensions: int) -> list[int]:
    """One number for each dimension, where one may stand for all."""
    return list(option) * (dimensions if len(option) == 1 else 1)
