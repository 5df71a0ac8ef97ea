from __future__ import annotations

import json

from builders import MS, a_loader, a_profile, some_batches, some_steps

from stepscope.advisor import series
from stepscope.profiler.format import Samples

HOSTILE = "</script><script>alert(1)</script><!-- &amp; '\""


def test_every_kind_of_picture_is_there_in_si_units() -> None:
    batches = some_batches([40.0, 50.0])
    found = series.figures(a_profile(loaders=[a_loader(batches=batches)]))

    assert set(found) == {
        "step-time",
        "phases",
        "topic-Processor, in cores",
        "topic-Memory",
        "lanes-0",
    }
    lanes = found["lanes-0"]
    assert isinstance(lanes, series.Lanes)
    assert (lanes.names, lanes.lane, lanes.wall) == (["worker 0"], [0, 0], [0.04, 0.05])
    memory = found["topic-Memory"]
    assert isinstance(memory, series.Lines)
    assert (memory.unit, memory.x[1], memory.lines[0].values[1]) == ("bytes", 1.0, 2.001e9)


def test_steps_that_are_missing_leave_a_gap() -> None:
    steady = some_steps(20, 10)
    steady.first = [20, 21, 22, 23, 24, 30, 31, 32, 33, 34]  # 25 to 29 were the operator window
    found = series.figures(a_profile(steady=steady))["step-time"]

    assert isinstance(found, series.Lines)
    at = found.x.index(25)
    assert found.last[at] == 29
    assert [line.values[at] for line in found.lines] == [None]
    assert all(len(line.values) == len(found.x) == len(found.last) for line in found.lines)
    assert found.x[-1] == 35


def test_phases_add_up_to_the_step_and_the_small_ones_are_joined() -> None:
    steady = some_steps(20, 700)
    steady.phases = {f"phase{i}": [MS * i] * 700 for i in range(1, 12)} | {"never": [0] * 700}

    found = series.figures(a_profile(warmup=some_steps(0, 0), steady=steady))["phases"]

    assert isinstance(found, series.Lines)
    assert [line.name for line in found.lines][0::7] == ["phase11", "everything else"]
    assert len(found.x) <= 513
    total = sum(line.values[0] or 0 for line in found.lines)
    assert abs(total - 0.066) < 1e-6


def test_a_long_run_stays_small_and_keeps_its_spike() -> None:
    steady = some_steps(20, 4096)
    steady.wall_max_ns[77] = 9_000 * MS

    found = series.figures(a_profile(steady=steady))

    step_time = found["step-time"]
    assert isinstance(step_time, series.Lines)
    assert max(v for v in step_time.lines[1].values if v) == 9.0
    assert len(series.encoded(found)) < 400_000


def test_nothing_can_break_out_of_the_data_block() -> None:
    profile = a_profile(samples=Samples(time_ns=[0, 1], columns={HOSTILE: [1.0, 2.0]}))
    profile.steady.phases[HOSTILE] = profile.steady.phases.pop("python")

    text = series.encoded(series.figures(profile))

    assert not set("<>&") & set(text)
    assert HOSTILE in [line["name"] for line in json.loads(text)["phases"]["lines"]]


def test_signals_that_never_move_from_zero_are_not_drawn() -> None:
    columns: dict[str, list[float | None]] = {
        "swap_used_bytes": [0.0, 0.0],
        "rss_bytes": [1.0, None],
        "writes_per_s": [1.0, 2.0],
    }

    found = series.figures(a_profile(samples=Samples(time_ns=[0, 1], columns=columns)))

    assert not [name for name in found if name.startswith("topic-")]
