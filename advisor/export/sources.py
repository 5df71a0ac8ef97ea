"""What is exported: each file or folder that the command was given."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from stepscope.advisor.inputs import load_input, ranks_in, stem
from stepscope.profiler.format import Profile


class Source(NamedTuple):
    """A profile, a trace, or a folder with the files of many ranks, which is one job."""

    path: Path
    engine: str = "processes"
    """What reads the traces of a folder."""

    @property
    def name(self) -> str:
        """Its file name without suffix."""
        return stem(self.path)

    def profile(self) -> Profile:
        """The profile that `advise` judges.

        Raises:
            ProfileError: it cannot be read.
        """
        return load_input(self.path, self.engine)

    def files(self) -> list[Path]:
        """The file itself, or the traces or else the profiles in the folder: one for each rank."""
        if not self.path.is_dir():
            return [self.path]
        return ranks_in(self.path) or sorted(self.path.glob("*.json")) or [self.path]
