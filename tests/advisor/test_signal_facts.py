from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from builders import MS, a_run, a_site

from stepscope.advisor.facts import Facts, facts_of
from stepscope.advisor.measure import measure
from stepscope.profiler.format import (
    Gpu,
    Operator,
    Profile,
    Run,
    Samples,
    Steps,
    Window,
    WindowPhase,
)

LOADING = {"data_wait": 20.0, "forward": 80.0}


def facts(profile: Profile) -> Facts:
    return facts_of(profile, measure(profile))


def steps_of(wall_ms: list[float]) -> Steps:
    """One row per step, all of it forward."""
    wall = [round(ms * MS) for ms in wall_ms]
    n = len(wall)
    return Steps(
        first=list(range(20, 20 + n)),
        count=[1] * n,
        wall_ns=wall,
        wall_max_ns=wall,
        cpu_ns=wall,
        process_cpu_ns=wall,
        wait_cpu_ns=[0] * n,
        phases={"forward": wall},
    )


def sampled(**columns: list[float | None]) -> Samples:
    n = max(len(column) for column in columns.values())
    return Samples(time_ns=[i * 1000 * MS for i in range(n)], columns=columns)


def test_even_steps_neither_drift_nor_exceed_their_median() -> None:
    found = facts(a_run({"forward": 10.0}))

    assert found["step.drift"] == pytest.approx(1)
    assert found["step.excess_share"] == 0


def test_steps_that_get_slower_drift() -> None:
    found = facts(a_run({"forward": 10.0}, steady=steps_of([10.0] * 40 + [15.0] * 20)))

    assert found["step.drift"] == pytest.approx(1.5)
    assert "step.drift" not in facts(a_run({"forward": 10.0}, steady=steps_of([10.0] * 20)))


def test_what_few_slow_steps_take_beyond_the_median_is_told() -> None:
    found = facts(a_run({"forward": 10.0}, steady=steps_of(([10.0] * 9 + [20.0]) * 10)))

    assert found["step.excess_share"] == pytest.approx(10 / 110)


def test_rows_of_several_steps_count_as_often() -> None:
    steady = steps_of([10.0] * 40)
    steady.count = [4] * 40
    steady.wall_ns[0] = 80 * MS

    found = facts(a_run({"forward": 10.0}, steady=steady))

    # four steps of 20 ms among 39 rows of four that take 2.5
    assert found["step.excess_share"] == pytest.approx(4 * 17.5 / (80 + 39 * 10))


@pytest.mark.parametrize(
    ("column", "name", "values", "expected"),
    [
        ("throttled_share", "cpu.throttled_share", [0.0, 0.4], 0.2),
        ("throttled_share", "cpu.throttled_share", [3.0, 3.0], 1.0),
        ("throttled_share", "cpu.throttled_share", [None, None], None),
        ("cpu_pressure_share", "cpu.pressure_share", [0.5, None], 0.5),
        ("io_pressure_share", "storage.pressure_share", [0.1, 0.3], 0.2),
        ("other_threads_cores", "host.locking_threads_cores", [0.5, 0.7], 0.6),
        ("swap_used_bytes", "memory.swap_share", [1e9, 6.4e9], 0.1),
    ],
)
def test_what_was_sampled_is_averaged(
    column: str, name: str, values: list[float | None], expected: float | None
) -> None:
    found = facts(a_run({"forward": 10.0}, samples=sampled(**{column: values})))

    assert found.get(name) == (None if expected is None else pytest.approx(expected))
    assert name not in facts(a_run({"forward": 10.0}))


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ([9e6] * 3 + [4e6] * 3 + [3e6] * 3, 3.0),
        ([9e6] * 3 + [0.0] * 6, 100.0),
        ([0.0] * 9, None),
        ([9e6, 1e6], None),
    ],
)
def test_reads_at_the_beginning_are_set_against_those_at_the_end(
    rates: list[float | None], expected: float | None
) -> None:
    found = facts(a_run({"forward": 10.0}, samples=sampled(disk_read_bytes_per_s=rates)))

    assert found.get("storage.early_reads") == (
        None if expected is None else pytest.approx(expected)
    )


def test_the_loaders_part_of_what_the_disks_read() -> None:
    profile = a_run(
        LOADING,
        fetch={"wall": 20.0, "cpu": 5.0, "read_bytes": 1e6, "storage_bytes": 1e6, "read_calls": 1},
        samples=sampled(disk_read_bytes_per_s=[4e7] * 12),
        run=Run(started_at="2026-01-15T10:00:00Z", wall_ns=12_000 * MS, ended="completed"),
    )

    # 120 batches of 1 MB, where the disks read 40 MB in each of twelve seconds
    assert facts(profile)["storage.own_share"] == pytest.approx(0.25)


def test_reading_more_than_is_used() -> None:
    fetch = {"wall": 20.0, "cpu": 5.0, "read_bytes": 6e6, "storage_bytes": 3e6, "read_calls": 9}
    profile = a_run(LOADING, fetch=fetch)
    profile.configuration.batch_bytes = 1_000_000

    found = facts(profile)

    assert found["fetch.read_amplification"] == pytest.approx(6)
    assert found["fetch.storage_share"] == pytest.approx(0.5)
    unread = a_run(LOADING, fetch={"wall": 20.0, "cpu": 5.0})
    assert not {"fetch.read_amplification", "fetch.storage_share"} & set(facts(unread))


def test_a_worker_with_more_to_do_is_seen_across_epochs() -> None:
    profile = a_run(LOADING, workers=2, fetch={"wall": 30.0, "cpu": 30.0})
    assert facts(profile)["loader.worker_imbalance"] == pytest.approx(1)

    first, second = profile.loaders[0].workers
    again = type(first)(id=first.id, pid=9999, totals=first.totals)  # started anew, as number 0
    profile.loaders[0].workers = [first, again, second]

    assert facts(profile)["loader.worker_imbalance"] == pytest.approx(4 / 3)
    alone = a_run(LOADING, workers=1, fetch={"wall": 30.0, "cpu": 30.0})
    assert "loader.worker_imbalance" not in facts(alone)


@pytest.mark.parametrize(
    ("written", "kind", "other"),
    [(1e4, "logging", "checkpoint"), (1e8, "checkpoint", "logging")],
)
def test_lines_that_write_files_take_a_part_of_the_step(
    written: float, kind: str, other: str
) -> None:
    profile = a_run(
        {"python": 50.0, "forward": 50.0},
        sites=[
            a_site("python", line=7, samples=30, writes=True),
            a_site("python", line=9, samples=10),
        ],
        stack_samples=80,
        samples=sampled(written_bytes_per_s=[written] * 4, writes_per_s=[100.0] * 4),
    )

    found = facts(profile)

    assert found[f"{kind}.by_hand_share"] == pytest.approx(0.75 * 0.5)
    assert found[f"{other}.by_hand_share"] == 0
    assert "logging.by_hand_share" not in facts(a_run({"python": 50.0, "forward": 50.0}))


def test_device_memory_that_grows() -> None:
    growing: list[float | None] = [1e9 + 1e6 * s for s in range(40)]
    profile = a_run({"forward": 10.0}, samples=sampled(gpu0_memory_used_bytes=growing))
    profile.environment.gpus = [Gpu(index=0, name="A GPU", memory_bytes=36 * 10**9)]

    assert facts(profile)["gpu.memory_growth_share"] == pytest.approx(0.1)
    profile.samples = sampled(gpu0_memory_used_bytes=growing[:6])
    assert "gpu.memory_growth_share" not in facts(profile)


@dataclass
class Operators:
    """A window of one step of 100 ms; times in milliseconds."""

    rows: list[Operator] = field(default_factory=list)

    def add(self, name: str, ms: float, phase: str, **more: Any) -> Operators:
        own = {"calls": 1, "self_cpu_ns": round(ms * MS)} | more
        self.rows.append(Operator(name=name, phase=phase, **own))
        return self

    def facts(self) -> Facts:
        window = Window(
            first_step=50,
            steps=1,
            wall_ns=100 * MS,
            phases={"forward": WindowPhase(wall_ns=100 * MS, operator_ns=90 * MS)},
            operators=self.rows,
        )
        return facts(a_run({"forward": 100.0}, window=window))


def test_copies_and_clearing_by_their_time() -> None:
    operators = Operators().add("aten::mm", 60, "forward").add("aten::copy_", 20, "backward")
    operators.add("aten::zero_", 5, "python").add("aten::zero_", 7, "backward")

    found = operators.facts()

    assert found["operators.copy_share"] == pytest.approx(20 / 92)
    # What backward fills with zeros is no gradient that is cleared.
    assert found["operators.zeroing_share"] == pytest.approx(0.05)


def test_time_on_a_device_counts_where_there_is_one() -> None:
    operators = Operators().add("aten::mm", 60, "forward", self_device_ns=30 * MS)
    operators.add("aten::clone", 60, "forward", self_device_ns=10 * MS)

    assert operators.facts()["operators.copy_share"] == pytest.approx(0.25)


def test_indexing_by_its_calls() -> None:
    operators = Operators().add("aten::mm", 50, "forward", calls=60)
    operators.add("aten::select", 1, "forward", calls=40)

    assert operators.facts()["operators.indexing_share"] == pytest.approx(0.4)


def test_layers_called_in_backward_are_computed_again() -> None:
    once = Operators().add("aten::linear", 40, "forward", calls=10)
    once.add("aten::mm", 40, "backward", calls=20)
    assert once.facts()["operators.recomputed_share"] == 0

    again = once.add("aten::linear", 20, "backward", calls=5)
    assert again.facts()["operators.recomputed_share"] == pytest.approx(0.5)

    other = Operators().add("aten::mm", 40, "forward")
    assert "operators.recomputed_share" not in other.facts()
