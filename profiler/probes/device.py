"""Copies to and from the device; only where there is one, on a CPU run `.to` copies nothing."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from threading import get_ident
from typing import Any, Literal

import torch

from stepscope.profiler.observed import Observed
from stepscope.profiler.patches import Patches
from stepscope.profiler.recorder import Recorder
from stepscope.profiler.timing import opaque, timed

Direction = Literal["HtoD", "DtoH"]


def install(recorder: Recorder, patches: Patches, observed: Observed) -> None:
    """Time and count `.to` and `.cuda` of host tensors, and `.to` of device tensors to the host."""
    if not torch.cuda.is_available():
        return
    probe = _CopyProbe(recorder, observed)
    patches.replace(torch.Tensor, "to", functools.partial(probe.wrap, direction_of=direction_of_to))
    patches.replace(
        torch.Tensor,
        "cuda",
        functools.partial(
            probe.wrap, direction_of=lambda tensor, *_, **__: None if tensor.is_cuda else "HtoD"
        ),
    )


class _CopyProbe:
    def __init__(self, recorder: Recorder, observed: Observed) -> None:
        self._recorder = recorder
        self._observed = observed
        self._charge = {
            "HtoD": timed(recorder, "transfer", counter="transfers", site=True),
            "DtoH": timed(recorder, "sync", counter="syncs", site=True),
        }

    def wrap(
        self, original: Callable[..., Any], *, direction_of: Callable[..., Direction | None]
    ) -> Callable[..., Any]:
        """Wrap one method of tensors that may copy to another device."""
        recorder = self._recorder
        upload, readback = (self._charge[way](original) for way in ("HtoD", "DtoH"))

        @functools.wraps(original)
        def copy(tensor: Any, *args: Any, **kwargs: Any) -> Any:
            if recorder.thread != get_ident():
                return original(tensor, *args, **kwargs)
            direction = direction_of(tensor, *args, **kwargs)
            non_blocking = bool(kwargs.get("non_blocking", False))
            if direction is None:
                return original(tensor, *args, **kwargs)
            begin = time.perf_counter_ns()
            if direction == "HtoD":
                result = upload(tensor, *args, **kwargs)
            else:  # one that is not waited for costs nothing here
                result = (original if non_blocking else readback)(tensor, *args, **kwargs)
            self._note(direction, tensor, result, time.perf_counter_ns() - begin, non_blocking)
            return result

        return opaque(copy)

    def _note(
        self, direction: Direction, source: Any, target: Any, spent: int, non_blocking: bool
    ) -> None:
        recorder = self._recorder
        if recorder.aside or recorder.step_index < recorder.warmup_steps:
            return
        try:
            memory = _memory_of(source if direction == "HtoD" else target)
            size = source.numel() * source.element_size()
        except Exception as error:  # subclasses of tensors need not answer
            self._observed.problem(f"a copy of a {type(source).__name__} is not counted: {error!r}")
            return
        self._observed.copies.add(direction, memory, size, spent, non_blocking=non_blocking)


def direction_of_to(tensor: Any, *args: Any, **kwargs: Any) -> Direction | None:
    """Which way `tensor.to(*args, **kwargs)` copies between host and device, if it does."""
    target = kwargs.get("device", args[0] if args else kwargs.get("other"))
    if isinstance(target, torch.Tensor):
        there = bool(target.is_cuda)
    elif isinstance(target, (str, torch.device)):
        there = torch.device(target).type != "cpu"
    elif isinstance(target, int):
        there = True
    else:
        return None
    if there == tensor.is_cuda:
        return None
    return "HtoD" if there else "DtoH"


def _memory_of(tensor: Any) -> str:
    return "pinned" if tensor.is_pinned() else "pageable"
