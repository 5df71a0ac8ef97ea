"""What stands in the way of torch.compile: it must not find the profiler in what it traces."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch

_OLD = not hasattr(torch.compiler, "is_compiling")  # before PyTorch 2.3
is_compiling: Callable[[], bool] = (
    torch._utils.is_compiling if _OLD else torch.compiler.is_compiling
)
"""True for Dynamo, which knows this function, while it traces; False for everybody else."""


def leave_to_python(*functions: Callable[..., Any]) -> None:
    """Keep Dynamo from compiling frames of these functions, not of those that they call.

    Since PyTorch 2.3 it can compile them.
    """
    if _OLD:
        for function in functions:
            if isinstance(function, FunctionType):
                torch._C._dynamo.eval_frame.skip_code(function.__code__)  # type: ignore[attr-defined]
