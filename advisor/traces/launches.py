"""Which call on the host started which work on a device, across windows of time."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stepscope.advisor.traces.columns import Int64, Records

LAUNCH = np.dtype(
    [
        ("correlation", np.int64),
        ("start", np.int64),
        ("end", np.int64),
        ("bytes", np.int64),
        ("tag", np.int64),  # what the caller wants to know of it later
        ("scope", np.int32),  # the ranges of the user's around it
        ("frame", np.int32),  # name of the user's function that it was called from
    ]
)
_KEPT = 1 << 12
"""Calls of earlier windows that are remembered: a device's queue holds a thousand or so."""


class Launches:
    """The latest calls, by correlation."""

    def __init__(self) -> None:
        self._calls: npt.NDArray[Any] = np.empty(0, LAUNCH)
        self._order = np.empty(0, np.int64)
        """Of the calls by correlation."""

    def add(self, rows: Records, **columns: Int64) -> None:
        """Note calls of a window; those without correlation are left out.

        Args:
            rows: the calls.
            columns: what else is to be known of them, by name.
        """
        named = rows["correlation"] != 0
        calls = np.full(int(named.sum()), -1, LAUNCH)
        for name in ("correlation", "start", "end", "bytes"):
            calls[name] = rows[name][named]
        for name, column in columns.items():
            calls[name] = column[named]
        kept = self._calls
        if len(kept) > _KEPT:
            kept = kept[np.argsort(kept["start"])[-_KEPT:]]
        self._calls = np.concatenate([kept, calls])
        self._order = np.argsort(self._calls["correlation"], kind="stable")

    def of(self, correlation: Int64) -> npt.NDArray[Any]:
        """The call that started each work; where it is not known, all columns are -1."""
        found = np.full(len(correlation), -1, LAUNCH)
        if len(self._calls):
            numbers = self._calls["correlation"][self._order]
            place = np.maximum(np.searchsorted(numbers, correlation, "right") - 1, 0)
            known = (numbers[place] == correlation) & (correlation != 0)
            place = self._order[place]
            found[known] = self._calls[place[known]]
        return found
