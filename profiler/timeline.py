"""The tables of finished steps: written by the training thread, read by any."""

from __future__ import annotations

import threading

from stepscope.profiler.columns import GROWTH, LogHistogram, SummedRows
from stepscope.profiler.format import STEP_COLUMNS, Histogram, Steps

FIXED = ("first", "start_ns", *STEP_COLUMNS)
"""Columns of every table; those of phases and then of counters follow."""


class Timeline:
    """Rows of steps in warm-up, in the steady state, and of steps that turned out to be none."""

    def __init__(self) -> None:
        self.phases = 0
        self.counters = 0
        self._lock = threading.Lock()
        self._tables = {kind: _step_table() for kind in ("warmup", "steady", "discarded")}
        self._histogram = LogHistogram()

    def add_phase(self, name: str) -> None:
        """Add a column, of zeros so far, after those of the other phases."""
        self._insert(len(FIXED) + self.phases, f"phases.{name}")
        self.phases += 1

    def add_counter(self, name: str) -> None:
        """Add a column, of zeros so far, after those of the other counters."""
        self._insert(len(FIXED) + self.phases + self.counters, f"calls.{name}")
        self.counters += 1

    def _insert(self, position: int, name: str) -> None:
        with self._lock:
            for table in self._tables.values():
                table.insert_column(position, name)

    def append(self, kind: str, row: list[int]) -> None:
        """Add a row to the table `warmup` or `steady`."""
        with self._lock:
            self._tables[kind].append(row)

    def count(self, wall_ns: int) -> None:
        """Add a steady step to the distribution of step times."""
        self._histogram.add(wall_ns)

    def discard(self) -> None:
        """Move all rows to those of no step."""
        with self._lock:
            for kind in ("warmup", "steady"):
                self._tables["discarded"].append(self._tables[kind].take())
            self._histogram = LogHistogram()

    def take_discarded(self) -> dict[str, int]:
        """The sums of what was discarded, by column; they are then forgotten."""
        table = self._tables["discarded"]
        with self._lock:
            return dict(zip(table.names, table.take(), strict=True))

    def steps(self, kind: str, *, delay_measured: bool) -> Steps:
        """The finished steps of `kind` (`warmup` or `steady`)."""
        with self._lock:
            columns = self._tables[kind].as_lists()
        return Steps(
            **{name: columns[name] for name in FIXED if "delay" not in name},
            run_delay_ns=columns["run_delay_ns"] if delay_measured else None,
            wait_run_delay_ns=columns["wait_run_delay_ns"] if delay_measured else None,
            phases=_prefixed(columns, "phases."),
            calls=_prefixed(columns, "calls."),
        )

    def step_time(self) -> Histogram:
        """Distribution of the wall time of steady steps."""
        counts = sorted(self._histogram.counts.copy().items())
        return Histogram(
            growth=GROWTH, bins=[bin_ for bin_, _ in counts], counts=[count for _, count in counts]
        )


def _step_table() -> SummedRows:
    return SummedRows(FIXED, maxima=("wall_max_ns",), firsts=("first", "start_ns"))


def _prefixed(columns: dict[str, list[int]], prefix: str) -> dict[str, list[int]]:
    return {
        name.removeprefix(prefix): column
        for name, column in columns.items()
        if name.startswith(prefix)
    }
