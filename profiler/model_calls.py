"""Calls of the outermost modules in one iteration, kept so that they can be made again.

The loop's body is the program's: an error in it, with a batch it was not written for, would end
the program. The modules alone can be called by the trial itself, with any size of batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch.utils import _pytree

_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)
"""Arguments that say nothing of a batch."""


class NotRepeatableError(Exception):
    """A call cannot be made again, and why."""


class Arguments(NamedTuple):
    """Of one call."""

    positional: tuple[Any, ...]
    named: dict[str, Any]


class ModelCalls:
    """What is told of one iteration's calls, in order.

    Args:
        limit_bytes: most bytes of inputs to keep.
    """

    def __init__(self, limit_bytes: float) -> None:
        self.calls: list[ModelCall] = []
        self.reason = ""
        """Why they cannot be made again."""
        self._room = limit_bytes

    def note(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """`module` is about to be called; raises nothing."""
        if self.reason:
            return
        try:
            call = ModelCall(module, Arguments(args, kwargs))
        except Exception as error:
            self.reason = str(error) or repr(error)
            return
        self.calls.append(call)
        self._room -= call.bytes
        if self._room < 0:
            self.reason = "its inputs are too large to be kept"


class ModelCall:
    """One call of a module.

    Args:
        module: an outermost one.
        arguments: copied, with what they need of gradients.

    Raises:
        NotRepeatableError: the module, or an argument, is of a kind that is not understood.
    """

    def __init__(self, module: torch.nn.Module, arguments: Arguments) -> None:
        if isinstance(module, torch.jit.ScriptModule):
            raise NotRepeatableError("TorchScript would specialise anew for another size")
        self._module = module
        self._arguments: Arguments = _pytree.tree_map(_copied, arguments)
        self._gradients = torch.is_grad_enabled()
        self._autocast = list(autocast_in_force())

    @property
    def bytes(self) -> int:
        """Of the tensors among the arguments."""
        return sum(t.numel() * t.element_size() for t in self._tensors())

    def _tensors(self) -> list[torch.Tensor]:
        return [x for x in _pytree.tree_leaves(self._arguments) if isinstance(x, torch.Tensor)]

    def has_batch(self, batch: int) -> bool:
        """Whether an argument has a dimension of `batch` samples."""
        return any(batch_dimension(t.shape, batch) is not None for t in self._tensors())

    def arguments(self, batch: int, factor: float) -> Arguments:
        """The arguments with `factor` times the samples: repeated, or the first of them.

        Args:
            batch: samples that they have.
            factor: a whole number, or below one.
        """
        sized: Arguments = _pytree.tree_map_only(
            torch.Tensor, lambda tensor: _resized(tensor, batch, factor), self._arguments
        )
        return sized

    def run(self, arguments: Arguments) -> None:
        """Call the module, and go back from all that it returns, with gradients drawn at random.

        Raises:
            NotRepeatableError: it returns nothing to go back from, although gradients are on.
        """
        with ExitStack() as contexts:
            contexts.enter_context(torch.set_grad_enabled(self._gradients))
            for device, dtype in self._autocast:
                contexts.enter_context(torch.autocast(device, dtype=dtype))
            found = self._module(*arguments.positional, **arguments.named)
        if not self._gradients:
            return
        outputs = [
            x for x in _pytree.tree_leaves(found) if isinstance(x, torch.Tensor) and x.requires_grad
        ]
        if outputs:
            torch.autograd.backward(outputs, [torch.randn_like(x) for x in outputs])
        elif any(p.requires_grad for p in self._module.parameters()):
            kind = type(self._module).__name__
            raise NotRepeatableError(f"what a {kind} returns does not lead back to its parameters")


def fresh(arguments: Arguments) -> Arguments:
    """Copies that a module may change in place, also where gradients are wanted for them."""
    copies: Arguments = _pytree.tree_map_only(torch.Tensor, torch.Tensor.clone, arguments)
    return copies


def batch_dimension(shape: torch.Size, batch: int) -> int | None:
    """Which of the first two dimensions, the first before the second, counts `batch` samples."""
    return next((i for i, size in enumerate(shape[:2]) if size == batch), None)


def samples_of(batch: Any) -> int | None:
    """First dimension of the first tensor that has one."""
    tensors = (x for x in _pytree.tree_leaves(batch) if isinstance(x, torch.Tensor) and x.dim())
    first = next(tensors, None)
    return None if first is None else first.shape[0]


def autocast_in_force() -> Iterator[tuple[str, torch.dtype]]:
    """Kind of device and type of each autocast that is on."""
    if hasattr(torch, "get_autocast_dtype"):  # torch >= 2.4
        for device in ("cuda", "cpu"):
            if torch.is_autocast_enabled(device):
                yield device, torch.get_autocast_dtype(device)
        return
    if torch.is_autocast_enabled():
        yield "cuda", torch.get_autocast_gpu_dtype()
    if torch.is_autocast_cpu_enabled():
        yield "cpu", torch.get_autocast_cpu_dtype()


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if isinstance(value, _PLAIN):
        return value
    raise NotRepeatableError(f"a {type(value).__name__} among its arguments cannot be repeated")


def _resized(tensor: torch.Tensor, batch: int, factor: float) -> torch.Tensor:
    dimension = batch_dimension(tensor.shape, batch)
    if dimension is None or factor == 1:
        return tensor
    with torch.no_grad():
        if factor > 1:
            sized = torch.cat([tensor] * int(factor), dimension)
        else:
            sized = tensor.narrow(dimension, 0, int(batch * factor)).clone()
    return sized.requires_grad_(tensor.requires_grad)
