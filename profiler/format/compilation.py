"""What torch.compile made of the program: where it stopped, and what it compiled again."""

from __future__ import annotations

from msgspec import Struct

from stepscope.profiler.format.columns import Count


class GraphBreak(Struct, kw_only=True, omit_defaults=True):
    """A place at which a graph ends, and Python goes on by itself."""

    file: str
    line: Count
    function: str
    reason: str
    """First line of what the compiler says."""
    count: Count
    """How often it was met while compiling."""
    uncompiled: bool = False
    """No part of the function is compiled: it breaks inside of a loop, say. Not told by PyTorch
    before 2.4."""


class Recompiled(Struct, kw_only=True, omit_defaults=True):
    """A function that was compiled more than once."""

    file: str
    line: Count
    """Where it begins."""
    function: str
    compilations: Count
    """During the recording, the first one and one that the limit has stopped included."""
    steady: Count = 0
    """Of those, in steady steps."""
    reason: str | None = None
    """Which guard failed last, as the compiler words it."""
    at_limit: bool = False
    """The compiler has given up: other inputs than those it was compiled for run without it."""


class Compilation(Struct, kw_only=True, omit_defaults=True):
    """Of the whole process, as far as Dynamo has not been reset meanwhile."""

    graph_breaks: list[GraphBreak] = []
    recompiled: list[Recompiled] = []
    """The most often first."""
    limit: Count | None = None
    """Compilations of one function after which the compiler gives up."""
