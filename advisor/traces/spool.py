"""Records on disk, sorted enough to be read back by time: memory stays bounded at any size.

Records arrive in the order of the file, which is not that of time (all of the host's come first,
then all of a device's). Each some hundred thousand are sorted and written as a run. A window of
time is then a slice of each run, found by bisection, and the slices sorted together.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from stepscope.advisor.traces.columns import RECORD, Records
from stepscope.advisor.traces.kinds import Kind

RUN = 1 << 17
"""Records sorted at once: 5 MB."""
_MOST = 1 << 19
"""Records of a window; a longer one is cut in pieces."""


class Spool:
    """A temporary file of sorted runs; it vanishes when closed, or with the process."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `close`
        self._waiting: list[Records] = []
        self._count = 0
        self._starts: list[npt.NDArray[np.int64]] = []
        """Of each run, every 512th start: an index for bisection that is always in memory."""
        self._runs: list[tuple[int, int]] = []

    def add(self, records: Records) -> None:
        """Take some records."""
        if len(records):
            self._waiting.append(records)
            self._count += len(records)
            if self._count >= RUN:
                self._flush()

    def close(self) -> None:
        """Give the disk space back."""
        self._file.close()

    def _flush(self) -> None:
        if not self._waiting:
            return
        run = np.concatenate(self._waiting)
        run = run[np.argsort(run["start"], kind="stable")]
        self._runs.append((self._file.seek(0, 2), len(run)))
        self._starts.append(run["start"][::_STRIDE].copy())
        self._file.write(run.tobytes())
        self._waiting, self._count = [], 0

    def windows(
        self, edges: Sequence[int], least: Kind = Kind.OPERATOR
    ) -> Iterator[tuple[int, int, int, Records]]:
        """For consecutive times, what happens between them.

        Args:
            edges: increasing times.
            least: kinds below this one are left out.

        Yields:
            The number of the window, its begin and end, and the records that overlap it, sorted by
            start. A window of very many records comes in pieces, each with its own begin and end.
        """
        self._flush()
        open_ = self._before(edges[0], least)
        for number, (a, b) in enumerate(pairwise(edges)):
            for begin, end in self._pieces(a, b):
                started = self._between(begin, end, least)
                records = np.concatenate([open_[open_["end"] > begin], started])
                yield number, begin, end, records
                open_ = records[records["end"] > end]

    def _pieces(self, a: int, b: int) -> list[tuple[int, int]]:
        count = sum(
            _STRIDE * int(np.searchsorted(index, b) - np.searchsorted(index, a))
            for index in self._starts
        )
        parts = max(1, -(-count // _MOST))
        cuts = [a + (b - a) * i // parts for i in range(parts + 1)]
        return list(pairwise(cuts))

    def _before(self, a: int, least: Kind) -> Records:
        """Records that start before a time and last until after it."""
        lasting = [np.empty(0, RECORD)]
        for run, index in enumerate(self._starts):
            last = int(np.searchsorted(index, a, "left")) * _STRIDE
            rows = self._read(run, 0, last)
            across = (rows["start"] < a) & (rows["end"] > a)
            lasting.append(rows[across & (rows["kind"] >= least)])
        return np.sort(np.concatenate(lasting), order="start", kind="stable")

    def _between(self, a: int, b: int, least: Kind) -> Records:
        """Records that start in [a, b)."""
        slices = []
        for run, index in enumerate(self._starts):
            first = max(0, int(np.searchsorted(index, a, "left")) - 1) * _STRIDE
            last = int(np.searchsorted(index, b, "left")) * _STRIDE
            if last > first:
                rows = self._read(run, first, last)
                low, high = np.searchsorted(rows["start"], [a, b])
                rows = rows[low:high]
                slices.append(rows[rows["kind"] >= least] if least else rows)
        if len(slices) <= 1:
            return slices[0] if slices else np.empty(0, RECORD)
        rows = np.concatenate(slices)
        return rows[np.argsort(rows["start"], kind="stable")]

    def _read(self, run: int, first: int, last: int) -> Records:
        """Some rows of a run."""
        offset, length = self._runs[run]
        self._file.seek(offset + first * RECORD.itemsize)
        count = max(0, min(length, last) - first)
        return np.frombuffer(self._file.read(count * RECORD.itemsize), RECORD)


_STRIDE = 512
