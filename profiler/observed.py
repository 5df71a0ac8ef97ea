"""What the probes have seen of the program's set-up, described at first sight.

Descriptions are plain data; no reference keeps the user's objects alive.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from stepscope.profiler.connections import Connections
from stepscope.profiler.device.copies import CopyLog
from stepscope.profiler.dynamo import CompiledCode
from stepscope.profiler.format import Loader, Model, Optimizer
from stepscope.profiler.loaders import LoaderLog
from stepscope.profiler.meetings import MeetingLog
from stepscope.profiler.messages import Messages
from stepscope.profiler.model_calls import ModelCalls

_MAX_DESCRIBED = 16
_MAX_LOADERS = 64
_WRAPPERS = ("DistributedDataParallel", "FullyShardedDataParallel", "DataParallel")


class Observed:
    """The configuration as it came to light."""

    def __init__(self, directory: Path, origin_ns: int) -> None:
        self.directory = directory
        """Where loader workers leave their records."""
        self._origin_ns = origin_ns
        self.loaders: list[LoaderLog] = []
        self.models: list[Model] = []
        self.optimizers: list[Optimizer] = []
        self.autocast: str | None = None
        self.batch_wanted = True
        """No batch of a training step has been described yet."""
        self.batch_size: int | None = None
        self.batch_bytes: int | None = None
        self.distributed: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()
        """DistributedDataParallel models, for their logger at the end of the run."""
        self._exchanging: list[weakref.ref[Any]] = []
        self.copies = CopyLog()
        self.messages = Messages()
        self.connections = Connections()
        self.meetings = MeetingLog(origin_ns)
        self.compiled: CompiledCode | None = None
        self.calls: ModelCalls | None = None
        """While somebody wants to know them: calls of the outermost modules."""
        self.problems: list[str] = []

    def add_loader(self, description: Loader) -> LoaderLog:
        """The log for a loader; one that is made anew each epoch goes on in the same log."""
        for log in self.loaders:
            if log.opened_as == description:
                return log
        if len(self.loaders) >= _MAX_LOADERS:
            raise ValueError(f"more than {_MAX_LOADERS} different loaders")
        self.loaders.append(LoaderLog(len(self.loaders), description, self._origin_ns))
        return self.loaders[-1]

    def problem(self, sentence: str) -> None:
        """Note once that something could not be measured."""
        if sentence not in self.problems and len(self.problems) < _MAX_DESCRIBED:
            self.problems.append(sentence)

    def exchanges(self) -> bool:
        """Whether a backward pass ends when gradients have been exchanged between processors."""
        found = (known() for known in self._exchanging)
        return any(model is not None and model.require_backward_grad_sync for model in found)

    def add_model(self, model: torch.nn.Module) -> None:
        """An outermost module; what is distributed is asked for its counters in the end."""
        self.distributed.add(model)
        parallel = isinstance(model, torch.nn.parallel.DistributedDataParallel)
        if parallel and getattr(model, "device_type", None) == "cpu":
            self._exchanging.append(weakref.ref(model))

    def want_batch(self) -> None:
        """Describe the next batch: those before were of no training step."""
        self.batch_wanted = True

    def batch(self, batch: Any) -> None:
        """Note size and bytes of a batch."""
        self.batch_wanted = False
        tensors = list(_tensors(batch))
        if tensors:
            self.batch_bytes = _bytes(tensors)
            self.batch_size = tensors[0].shape[0] if tensors[0].dim() else 1


def _tensors(value: Any, depth: int = 0) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif depth < 4:
        values = value.values() if isinstance(value, dict) else value
        if isinstance(value, (dict, list, tuple)):
            for each in values:
                yield from _tensors(each, depth + 1)


def describe_model(model: torch.nn.Module) -> Model:
    """Parameters, precisions, places and kinds of layers of one outermost module."""
    # Parameters of lazy modules have no shape before the first call.
    uninitialised = torch.nn.UninitializedParameter
    parameters = [p for p in model.parameters() if not isinstance(p, uninitialised)]
    kinds: dict[str, int] = {}
    distributed = None
    compiled = False
    for module in model.modules():
        name = type(module).__name__
        kinds[name] = kinds.get(name, 0) + 1
        if name in _WRAPPERS or name.startswith("FSDP"):
            distributed = distributed or name
        compiled = compiled or name == "OptimizedModule"
        compiled = compiled or getattr(module, "_compiled_call_impl", None) is not None
    images = [p for p in parameters if p.dim() == 4 and p.shape[2] * p.shape[3] > 1]
    return Model(
        class_name=type(model).__name__,
        parameters=sum(p.numel() for p in parameters),
        parameter_bytes=sum(p.numel() * p.element_size() for p in parameters),
        trainable_parameters=sum(p.numel() for p in parameters if p.requires_grad),
        dtypes=sorted({str(p.dtype) for p in parameters}),
        devices=sorted({str(p.device) for p in parameters}),
        modules=kinds,
        channels_last=(
            all(p.is_contiguous(memory_format=torch.channels_last) for p in images)
            if images
            else None
        ),
        compiled=compiled,
        distributed=distributed,
    )


def describe_optimizer(optimizer: torch.optim.Optimizer) -> Optimizer:
    """Class, size and implementation of an optimizer that has taken a step."""
    group = optimizer.param_groups[0]
    tensors = [p for g in optimizer.param_groups for p in g["params"]]
    state = optimizer.state.get(tensors[0], {}) if tensors else {}
    per_parameter = [v for v in state.values() if isinstance(v, torch.Tensor) and v.dim()]
    kept = [v for each in optimizer.state.values() for v in _tensors(each)]
    return Optimizer(
        class_name=type(optimizer).__name__,
        parameters=sum(p.numel() for p in tensors),
        tensors=len(tensors),
        state_tensors_per_parameter=len(per_parameter),
        parameter_bytes=_bytes(tensors),
        gradient_bytes=_bytes([p.grad for p in tensors if p.grad is not None]),
        state_bytes=_bytes(kept),
        fused=group.get("fused"),
        foreach=group.get("foreach"),
    )


def _bytes(tensors: list[torch.Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def describe_loader(loader: Any) -> Loader:
    """The settings of a DataLoader that decide its speed."""
    context = getattr(loader, "multiprocessing_context", None)
    workers = int(getattr(loader, "num_workers", 0))
    method = None
    if workers:
        method = context.get_start_method() if context else torch.multiprocessing.get_start_method()
    dataset = getattr(loader, "dataset", None)
    iterable = isinstance(dataset, torch.utils.data.IterableDataset)
    return Loader(
        class_name=type(loader).__name__,
        dataset=type(dataset).__name__,
        dataset_kind="iterable" if iterable else "map",
        length=_length(loader),
        batch_size=getattr(loader, "batch_size", None)
        or getattr(getattr(loader, "batch_sampler", None), "batch_size", None),
        num_workers=workers,
        prefetch_factor=getattr(loader, "prefetch_factor", None),
        persistent_workers=bool(getattr(loader, "persistent_workers", False)),
        pin_memory=bool(getattr(loader, "pin_memory", False)),
        in_order=getattr(loader, "in_order", None),
        start_method=method,
        sampler=type(getattr(loader, "sampler", None)).__name__,
        collate_fn=getattr(loader.collate_fn, "__name__", type(loader.collate_fn).__name__),
        transforms=_transforms(dataset),
    )


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return None


def _transforms(dataset: Any) -> list[str]:
    names: list[str] = []
    for attribute in ("transform", "transforms"):
        transform = vars(dataset).get(attribute) if hasattr(dataset, "__dict__") else None
        if transform is not None:
            steps = getattr(transform, "transforms", None)
            steps = steps if isinstance(steps, (list, tuple)) else [transform]
            names += [getattr(step, "__name__", type(step).__name__) for step in steps[:20]]
    return names
