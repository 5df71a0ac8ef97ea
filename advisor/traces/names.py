"""What each name in a trace stands for, looked up once per name."""

from __future__ import annotations

import numpy as np

from stepscope.advisor.traces.columns import Columns
from stepscope.advisor.traces.kernels import ARITHMETIC, CATEGORIES, category, uses_tensor_cores
from stepscope.advisor.traces.kinds import Kind
from stepscope.advisor.traces.roles import Role, role_of
from stepscope.profiler.work import LAYERS

CATEGORY_NAMES: list[str] = [*dict.fromkeys(name for name, _ in CATEGORIES), "other"]


class Names:
    """Columns by index of a name.

    Args:
        columns: of a trace that has been read.
    """

    def __init__(self, columns: Columns) -> None:
        self.text: list[str] = list(columns.names)
        self.works = columns.works
        kinds = columns.name_kinds
        self.layers = np.array([name in LAYERS for name in self.text], bool)
        self.kind = np.array(kinds, np.int64)
        self.role = np.array(
            [
                role_of(name, kind) if kind <= Kind.RUNTIME else Role.PLAIN
                for name, kind in zip(self.text, kinds, strict=True)
            ],
            np.int64,
        )
        found = [
            category(name) if kind == Kind.KERNEL else "copy"
            for name, kind in zip(self.text, kinds, strict=True)
        ]
        self.category = np.array([CATEGORY_NAMES.index(each) for each in found], np.int64)
        self.arithmetic = np.array([each in ARITHMETIC for each in found], bool)
        self.tensor_cores = np.array(
            [
                kind == Kind.KERNEL and uses_tensor_cores(name)
                for name, kind in zip(self.text, kinds, strict=True)
            ],
            bool,
        )
        upload = [
            kind == Kind.COPY and "HtoD" in n for n, kind in zip(self.text, kinds, strict=True)
        ]
        readback = [
            kind == Kind.COPY and "DtoH" in n for n, kind in zip(self.text, kinds, strict=True)
        ]
        self.upload, self.readback = np.array(upload, bool), np.array(readback, bool)

    def is_(self, name: str) -> int:
        """Number of a kernel category."""
        return CATEGORY_NAMES.index(name)
