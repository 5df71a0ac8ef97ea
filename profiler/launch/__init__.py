"""Inside a program that `advise run` has started: open a profile at the first sign of training.

Nothing is recorded, and nothing expensive imported, before a DataLoader is iterated or a backward
pass begins: helper processes that only import PyTorch stay as they are.
"""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import data

from stepscope.profiler.patches import Patches
from stepscope.profiler.ranks import RankedFile

if TYPE_CHECKING:
    from stepscope.profiler.session import profile

CLAIM = "profile-"
"""Prefix of the files that name the profiles of this run."""
OWN = "own"
"""File that names a profile which the program records itself."""
_MAX_PROFILES = 100


def watch(settings: dict[str, Any]) -> None:
    """Wait for the first sign of training in this process, and record from there to its end."""
    _Launch(**settings).wait()


class _Launch:
    """The profile of one process.

    Args:
        out: file to write, before rank and number are put into its name.
        steps: steady steps after which to stop recording; None for all.
        folder: where `advise run` looks for the names of the profiles.
        probe: whether to try each half of the loop alone.
    """

    def __init__(self, out: str, steps: int | None, folder: str, probe: bool) -> None:
        self._out = Path(out)
        self._steps = steps
        self._folder = Path(folder)
        self._probe = probe
        self._hooks = Patches()
        self._profile: profile | None = None
        self._claim = self._folder
        self._process = os.getpid()

    def wait(self) -> None:
        """Watch where batches and gradients come from until one is asked for."""
        self._hooks.replace(data.DataLoader, "__iter__", self._opening(in_any_thread=False))
        for name in ("backward", "grad"):
            self._hooks.replace(torch.autograd, name, self._opening(in_any_thread=True))

    def _opening(self, *, in_any_thread: bool) -> Callable[[Callable[..., Any]], Any]:
        # A loader may be read ahead in a thread of its own, which is not the one that trains.
        def decorate(original: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(original)
            def call(*args: Any, **kwargs: Any) -> Any:
                here = in_any_thread or threading.current_thread() is threading.main_thread()
                if self._profile is None and here and _may_train():
                    with suppress(Exception):
                        self._open()
                return original(*args, **kwargs)

            return call

        return decorate

    def _open(self) -> None:
        from stepscope.profiler.session import _open_profile, profile  # noqa: PLC0415

        self._process = os.getpid()
        self._hooks.close()
        if _open_profile:
            self._leave_it_to(_open_profile[0])
            return
        self._profile = profile(self._claimed(), max_steps=self._steps, probe=self._probe)
        self._profile.give_way = self._leave_it_to
        self._profile.__enter__()
        if multiprocessing.parent_process() is None:
            atexit.register(self._close)
        else:  # such a process ends without atexit
            Finalize(None, self._close, exitpriority=100)

    def _claimed(self) -> Path:
        """A name that no other process of this rank has, made known to `advise run`."""
        rank, _ = RankedFile(self._out).rank
        for number in range(1, _MAX_PROFILES):
            path = (
                self._out if number == 1 else self._out.with_suffix(f".{number}{self._out.suffix}")
            )
            self._claim = self._folder / f"{CLAIM}{rank:06}-{number:02}"
            with suppress(FileExistsError), self._claim.open("x") as file:
                file.write(str(RankedFile(path).path))
                return path
        raise FileExistsError(f"more than {_MAX_PROFILES} processes of rank {rank} train")

    def _leave_it_to(self, own: profile) -> None:
        """The program profiles itself: say so, and stay out of the way."""
        with suppress(OSError):
            (self._folder / OWN).write_text(str(own.path.absolute()), encoding="utf-8")
        if self._profile is not None:
            self._profile.discard()
            self._claim.unlink(missing_ok=True)
        self._profile = own

    def _close(self) -> None:
        """Write the profile, if there is anything in it."""
        found = self._profile
        if self._process != os.getpid() or found is None or found.give_way is None:
            return
        with suppress(Exception):
            if found.step_count:
                # Where an exception has ended the program, Python has left its class here.
                found.__exit__(getattr(sys, "last_type", None), None, None)
                self._claim.write_text(str(found.path), encoding="utf-8")
                number = self._claim.name.rpartition("-")[2]
                for rank, path in found.received.items():
                    claim = self._folder / f"{CLAIM}{rank:06}-{number}"
                    claim.write_text(str(path), encoding="utf-8")
            elif found.recording:
                found.discard()
                self._claim.unlink()


def _may_train() -> bool:
    """Whether this process is no loader worker and no other helper of the program."""
    if data.get_worker_info() is not None:
        return False
    return multiprocessing.parent_process() is None or (
        torch.distributed.is_available() and torch.distributed.is_initialized()
    )
