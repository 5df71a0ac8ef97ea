"""The bottleneck tree: every place a step's time can go, with its public id."""

from __future__ import annotations

from typing import NamedTuple


class Cause(NamedTuple):
    """One leaf of the tree; `id` is `category.cause`."""

    id: str
    label: str
    """Completes the sentence "x % of the step goes to ..."."""

    @property
    def category(self) -> str:
        """The part of the id before the dot."""
        return self.id.partition(".")[0]


CATEGORIES = {
    "data_loading": "Data loading",
    "cpu_preprocessing": "CPU preprocessing",
    "compute": "Compute",
    "memory": "Memory",
    "communication": "Communication",
    "host": "Host code",
}

CAUSES = {
    cause.id: cause
    for cause in (
        Cause("data_loading.storage", "reading samples from storage"),
        Cause("data_loading.network", "waiting for samples from the network or another process"),
        Cause("data_loading.small_files", "opening many small files"),
        Cause("data_loading.worker_startup", "starting and ending loader workers"),
        Cause("data_loading.host_to_device", "copying batches to the device"),
        Cause("cpu_preprocessing.transform", "preparing samples (decode, augment, tokenise)"),
        Cause("cpu_preprocessing.collate", "collating samples into batches"),
        Cause("cpu_preprocessing.handover", "handing batches from workers to the training process"),
        Cause("cpu_preprocessing.core_starvation", "waiting for a processor core"),
        Cause("compute.arithmetic", "forward and backward arithmetic"),
        Cause("compute.launch", "dispatching many small operators"),
        Cause("compute.optimizer", "the optimizer step"),
        Cause("memory.bandwidth", "operators that only move memory"),
        Cause("memory.capacity", "working around a full device memory"),
        Cause("memory.host", "host memory: copied pages, pressure, swapping"),
        Cause("memory.growth", "memory that grows with every step"),
        Cause("communication.collective", "exchanging gradients"),
        Cause("communication.messages", "many small messages"),
        Cause("communication.straggler", "waiting for a slower rank"),
        Cause("host.sync", "reading values out of tensors or waiting for the device"),
        Cause("host.logging", "logging and printing"),
        Cause("host.checkpoint", "writing checkpoints"),
        Cause("host.validation", "validation inside the training loop"),
        Cause("host.gc", "garbage collection"),
        Cause("host.compilation", "compilation and warm-up"),
        Cause("host.python", "Python code between the phases"),
    )
}
