"""Which of several training processes this is, and the name of its file."""

from __future__ import annotations

import os
from pathlib import Path

import torch

_IN_A_FOLDER = "profile.json"
_SEPARATORS = tuple(filter(None, (os.sep, os.altsep)))


class RankedFile:
    """A file of which each rank writes its own.

    Args:
        path: its name where there is one process; under several the rank is put before the suffix.
            A folder, one that exists or a name that ends like one, holds `profile.json`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._base = Path(path)
        if os.fspath(path).endswith(_SEPARATORS) or self._base.is_dir():
            self._base /= _IN_A_FOLDER
        self._rank, self._world = 0, 1

    @property
    def rank(self) -> tuple[int, int]:
        """Rank and number of ranks, the last known: a program tidies up before it ends."""
        rank, world = _current_rank()
        if world > 1 or self._world == 1:
            self._rank, self._world = rank, world
        return self._rank, self._world

    @property
    def path(self) -> Path:
        """The file of this rank."""
        rank, world = self.rank
        return self._base if world == 1 else self.of(rank)

    @property
    def name(self) -> str:
        """What the files of all ranks have in common."""
        return self._base.name

    def of(self, rank: int | str) -> Path:
        """The file of one of several ranks."""
        return self._base.with_suffix(f".rank{rank}{self._base.suffix}")


def _current_rank() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return _environment_int("RANK", 0), _environment_int("WORLD_SIZE", 1)


def _environment_int(name: str, default: int) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdigit() else default
