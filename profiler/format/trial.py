"""The model by itself, as the user asked for it: other sizes of batch, other numbers of threads."""

from __future__ import annotations

from msgspec import Struct

from stepscope.profiler.format.columns import Count


class Resized(Struct, kw_only=True):
    """Forward and backward passes of the model with one size of batch."""

    factor: float
    """Samples over those of the loop's own batch."""
    pass_ns: list[int]
    """Wall time of single passes; those at the same place in all lists ran one after another."""


class Threaded(Struct, kw_only=True):
    """The same with the loop's own batch and a number of intra-op threads."""

    threads: Count
    pass_ns: list[int]
    optimizer_ns: list[int] = []
    """One update of the weights."""


class ThreadedOperator(Struct, kw_only=True):
    """Self time of an operator in one pass, with one thread and with the most that were tried."""

    name: str
    calls: Count
    one_ns: int
    most_ns: int


class ModelTrial(Struct, kw_only=True, omit_defaults=True):
    """Calls of the outermost modules in one iteration, made again with copies of their inputs.

    A pass is forward, and backward from what comes out; losses that are no modules are not in it.
    """

    batch_size: Count
    """Samples in the loop's own batch."""
    sizes: list[Resized]
    optimizer_ns: list[int] = []
    """One update of the weights, with the program's own number of threads."""
    threads: list[Threaded] = []
    """Empty on a device."""
    operators: list[ThreadedOperator] = []
    """The most expensive ones first."""
