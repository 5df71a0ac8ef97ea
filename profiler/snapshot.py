"""The state that a training step changes, kept so that it can be put back bit for bit.

Modules, optimizers, schedulers, gradient scalers and random generators are looked up among the
live objects. Each is put back in place: the same tensors, lists and dictionaries, with the values
that they had.
"""

from __future__ import annotations

import gc
import pickle
import random
import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from itertools import chain
from types import FrameType
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

_SCALER = getattr(torch.amp, "GradScaler", torch.cuda.amp.GradScaler)  # the former since 2.3
_STATEFUL = (torch.nn.Module, torch.optim.Optimizer, LRScheduler, _SCALER)
_KEEPS_STATE_ELSEWHERE = ("deepspeed", "apex", "horovod", "torch_xla")
_MAX_DEPTH = 8
_MISSING = object()


class Snapshot:
    """What all live models, optimizers and their like hold now.

    Tensors on an accelerator are kept in host memory. Objects of other classes are not followed:
    what a metric, a counter or a hand-written average keeps is not in here.

    Args:
        limit_bytes: most bytes of tensors to keep.

    Raises:
        MemoryError: the tensors are larger than that.
        RuntimeError: not all state can be found, so that a step could not be taken back.
    """

    def __init__(self, limit_bytes: float = float("inf")) -> None:
        self.bytes = 0
        self._limit = limit_bytes
        self._seen: dict[int, Any] = {}
        self._restorers: list[Callable[[], Any]] = []
        _refuse_what_is_out_of_reach()
        objects = gc.get_objects()
        # By type: isinstance would ask `x.__class__`, and lazy proxies load then.
        kinds = {kind for kind in set(map(type, objects)) if issubclass(kind, _STATEFUL)}
        owners = [x for x in objects if type(x) in kinds]
        self.optimizers = [x for x in owners if isinstance(x, torch.optim.Optimizer)]
        if not self.optimizers:
            raise RuntimeError("there is no torch.optim.Optimizer")
        for owner in owners:
            self._keep_object(owner)
        self._keep_random_states(objects)

    def restore(self) -> None:
        """Put everything back.

        Raises:
            RuntimeError: a part could not be put back; the rest is.
        """
        failures = []
        with torch.no_grad():
            for restore in self._restorers:
                try:
                    restore()
                except Exception as error:
                    failures.append(error)
        if failures:
            raise RuntimeError(f"{len(failures)} values, the first: {failures[0]!r}")

    def _first_sight(self, value: Any) -> bool:
        if id(value) in self._seen:
            return False
        self._seen[id(value)] = value  # alive, so that no other object gets its id
        return True

    def _keep_object(self, owner: Any) -> None:
        if hasattr(owner, "_comm_hooks") and owner._comm_hooks:
            raise RuntimeError("a communication hook may keep state of its own")
        if "_parameters" in vars(owner):  # a scripted module shows its tensors only through these
            tensors = chain(owner.parameters(recurse=False), owner.buffers(recurse=False))
            for tensor in tensors:
                self._keep_tensor(tensor)
        self._keep(vars(owner), 0)

    def _keep(self, value: Any, depth: int) -> None:
        kind = type(value)
        if issubclass(kind, torch.Tensor):
            self._keep_tensor(value)
        elif kind not in _CONTAINERS or depth > _MAX_DEPTH or not self._first_sight(value):
            return
        elif kind is not tuple:
            kept = value.copy()
            refill = _CONTAINERS[kind]
            self._restorers.append(lambda: refill(value, kept))
        if kind in _CONTAINERS and kind not in (set, frozenset):
            for each in value.values() if issubclass(kind, dict) else value:
                self._keep(each, depth + 1)

    def _keep_tensor(self, tensor: torch.Tensor) -> None:
        if not self._first_sight(tensor) or not _can_be_written(tensor):
            return
        values: torch.Tensor = getattr(tensor, "_local_tensor", tensor)  # a DTensor's own part
        self.bytes += values.numel() * values.element_size()
        if self.bytes > self._limit:
            raise MemoryError(f"more than {self._limit / 1e9:.1f} GB of parameters and state")
        detached = values.detach()
        kept = detached.clone() if detached.device.type == "cpu" else detached.to("cpu")
        gradient, needs_gradient = tensor.grad, tensor.requires_grad
        if gradient is not None:
            self._keep_tensor(gradient)

        def restore() -> None:
            values.copy_(kept)
            if tensor.requires_grad is not needs_gradient:
                tensor.requires_grad_(needs_gradient)
            if tensor.grad is not gradient:
                tensor.grad = gradient

        self._restorers.append(restore)

    def _keep_random_states(self, objects: list[Any]) -> None:
        self._keep_random(random, random.getstate, random.setstate)
        self._keep_random(torch, torch.get_rng_state, torch.set_rng_state)
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            self._keep_random(
                torch.cuda, torch.cuda.get_rng_state_all, torch.cuda.set_rng_state_all
            )
        numpy = sys.modules.get("numpy")
        if numpy is not None:
            self._keep_random(numpy.random, numpy.random.get_state, numpy.random.set_state)
        values = [*gc.get_referents(*objects), *_local_values(sys._getframe())]
        # gc does not track a torch.Generator, nor containers that hold nothing it tracks.
        untracked = [x for x in values if type(x) in (dict, tuple) and not gc.is_tracked(x)]
        kinds = {torch.Generator, random.Random}
        if numpy is not None:
            kinds |= {numpy.random.RandomState, numpy.random.Generator}
        for value in chain(values, gc.get_referents(*untracked)):
            if type(value) not in kinds:
                continue
            if isinstance(value, random.Random):
                self._keep_random(value, value.getstate, value.setstate)
            elif hasattr(value, "bit_generator"):
                self._keep_bit_generator(value.bit_generator)
            else:
                self._keep_random(value, value.get_state, value.set_state)

    def _keep_random(self, owner: Any, get: Callable[[], Any], put: Callable[[Any], Any]) -> None:
        if self._first_sight(owner):
            state = get()
            self._restorers.append(lambda: put(state))

    def _keep_bit_generator(self, generator: Any) -> None:
        def put(state: Any) -> None:
            generator.state = state

        self._keep_random(generator, lambda: generator.state, put)


class RandomStates:
    """The global random states of this thread, to tell whether a call has drawn from them."""

    def __init__(self) -> None:
        self._torch = torch.get_rng_state()
        numpy = sys.modules.get("numpy")
        words = numpy.random.get_state(legacy=False) if numpy is not None else None
        self._others = (random.getstate(), pickle.dumps(words))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, RandomStates)
            and self._others == other._others
            and torch.equal(self._torch, other._torch)
        )

    __hash__ = None  # type: ignore[assignment]


def _refuse_what_is_out_of_reach() -> None:
    if gc.get_freeze_count():
        raise RuntimeError("gc.freeze() hides objects")
    for name in _KEEPS_STATE_ELSEWHERE:
        if name in sys.modules:
            raise RuntimeError(f"{name} keeps state of its own")


def _can_be_written(tensor: torch.Tensor) -> bool:
    """Whether values can be copied into `tensor`; others are replaced by a step, never changed."""
    return (
        tensor.is_leaf
        and not torch.nn.parameter.is_lazy(tensor)
        and not tensor.is_meta
        and not tensor.is_inference()
        and not (tensor.layout == torch.strided and _repeats_memory(tensor))
    )


def _repeats_memory(tensor: torch.Tensor) -> bool:
    """Whether several elements are the same memory, as after `expand`."""
    return any(
        size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )


def _refill_dict(target: dict[Any, Any], kept: dict[Any, Any]) -> None:
    for key in [key for key in target if key not in kept]:
        del target[key]
    for key, value in kept.items():
        if target.get(key, _MISSING) is not value:
            target[key] = value


def _refill_list(target: list[Any], kept: list[Any]) -> None:
    if len(target) != len(kept) or any(a is not b for a, b in zip(target, kept, strict=True)):
        target[:] = kept


def _refill_deque(target: deque[Any], kept: deque[Any]) -> None:
    target.clear()
    target.extend(kept)


def _refill_set(target: set[Any], kept: set[Any]) -> None:
    target.clear()
    target.update(kept)


_CONTAINERS: dict[type, Callable[[Any, Any], None]] = {
    dict: _refill_dict,
    OrderedDict: _refill_dict,
    defaultdict: _refill_dict,
    list: _refill_list,
    deque: _refill_deque,
    set: _refill_set,
    tuple: lambda target, kept: None,
}


def _local_values(frame: FrameType | None) -> Iterator[Any]:
    """Local variables of the running functions that mention a generator."""
    while frame is not None:
        # Asking keeps the values alive in some versions of Python: only where it may help.
        if "Generator" in frame.f_code.co_names:
            yield from frame.f_locals.values()
        frame = frame.f_back
