from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from loops import epochs, only_loader, record, totals
from torch.utils.data import DataLoader, Dataset

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


class Slabs(Dataset[npt.NDArray[np.float32]]):
    """Whole batches that exist already: nothing to make, `megabytes` to hand over."""

    def __init__(self, megabytes: int) -> None:
        self.slab = np.ones(megabytes << 18, dtype=np.float32)

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> npt.NDArray[np.float32]:
        return self.slab


def packed(tmp_path: Path, megabytes: int, workers: int = 1) -> tuple[int, int]:
    """Wall and processor time of packing, all batches together."""
    loader = DataLoader(Slabs(megabytes), batch_size=None, num_workers=workers)
    found = only_loader(record(tmp_path / f"{megabytes}.json", epochs(loader)))
    return totals(found, "packing_ns"), totals(found, "packing_cpu_ns")


def test_packing_grows_with_what_is_packed(tmp_path: Path) -> None:
    small, large = packed(tmp_path, 0), packed(tmp_path, 8)

    assert 0 < small[1] <= small[0]
    assert large[1] > 5 * small[1]


def test_without_workers_nothing_is_packed(tmp_path: Path) -> None:
    assert packed(tmp_path, 1, workers=0) == (0, 0)
