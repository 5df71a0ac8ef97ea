from __future__ import annotations

import itertools
import random
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator

import pytest
from loops import MS, spin

from stepscope.profiler.columns import SummedRows
from stepscope.profiler.format import Steps
from stepscope.profiler.recorder import Recorder
from stepscope.profiler.timing import timed


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    made = Recorder(warmup_steps=0)
    yield made
    made.close()


def assert_exclusive(steps: Steps) -> None:
    for row, wall in enumerate(steps.wall_ns):
        assert sum(column[row] for column in steps.phases.values()) == wall


def test_phases_are_exclusive_and_sum_to_the_wall_time(recorder: Recorder) -> None:
    outer, inner = recorder.phase("outer"), recorder.phase("inner")
    for _ in range(3):
        before = recorder.enter(outer)
        time.sleep(0.01)
        between = recorder.enter(inner)
        time.sleep(0.02)
        recorder.leave(between)
        time.sleep(0.01)
        recorder.leave(before)
        recorder.end_step()
    steps = recorder.steps("steady")

    assert_exclusive(steps)
    assert steps.first == [0, 1, 2]
    assert steps.count == [1, 1, 1]
    assert steps.wall_max_ns == steps.wall_ns
    for row in range(3):
        assert steps.phases["outer"][row] >= 20 * MS
        assert steps.phases["inner"][row] >= 20 * MS
        assert steps.phases["outer"][row] + steps.phases["inner"][row] <= steps.wall_ns[row]


def test_what_happens_at_a_boundary_belongs_to_no_step(recorder: Recorder) -> None:
    def callback() -> bool:
        time.sleep(0.02)
        return False

    recorder.on_step.append(callback)
    for _ in range(3):
        recorder.end_step()
    steps = recorder.steps("steady")

    assert_exclusive(steps)
    assert sum(steps.wall_ns) < 20 * MS


def test_any_sequence_of_phases_sums_exactly(recorder: Recorder) -> None:
    chance = random.Random(3)
    names = ["a", "b", "validation", "checkpoint", "c"]
    stack: list[int] = []
    for _ in range(3000):
        action = chance.random()
        if action < 0.45 and len(stack) < 6:
            stack.append(recorder.enter(recorder.phase(chance.choice(names))))
        elif action < 0.9 and stack:
            recorder.leave(stack.pop())
        elif action < 0.95:
            recorder.end_step()
        elif not stack:
            stack.append(recorder.enter_wait())
            recorder.leave_wait(stack.pop())
    recorder.end_step()
    recorder.close()
    steps = recorder.steps("steady")

    assert steps.total == recorder.step_index > 100
    assert len(steps.count) < steps.total
    assert_exclusive(steps)
    assert all(value >= 0 for column in steps.phases.values() for value in column)


def test_an_absorbing_phase_keeps_what_happens_inside(recorder: Recorder) -> None:
    validation, forward = recorder.phase("validation"), recorder.phase("forward")
    outer = recorder.enter(validation)
    inner = recorder.enter(forward)
    waiting = recorder.enter_wait()
    time.sleep(0.02)
    recorder.leave_wait(waiting)
    recorder.leave(inner)
    assert recorder.current == validation
    recorder.leave(outer)
    assert recorder.current == recorder.python
    recorder.end_step()
    steps = recorder.steps("steady")

    assert steps.phases["validation"][0] >= 20 * MS
    assert steps.phases["forward"] == steps.phases["data_wait"] == [0]
    assert steps.wait_cpu_ns == [0]
    assert_exclusive(steps)


def test_a_phase_inside_itself_ends_with_the_outer_one(recorder: Recorder) -> None:
    phase = recorder.phase("forward")
    outer = recorder.enter(phase)
    inner = recorder.enter(phase)
    recorder.leave(inner)
    assert recorder.current == phase
    recorder.leave(outer)
    assert recorder.current == recorder.python


def test_waiting_knows_its_processor_time(recorder: Recorder) -> None:
    previous = recorder.enter_wait()
    spin(0.03)
    recorder.leave_wait(previous)
    spin(0.03)
    recorder.end_step()
    previous = recorder.enter_wait(at_boundary=True)
    time.sleep(0.03)
    recorder.leave_wait(previous)
    recorder.end_step()
    steps = recorder.steps("steady")

    assert steps.cpu_ns is not None
    assert steps.process_cpu_ns is not None
    assert steps.wait_cpu_ns is not None
    assert 30 * MS <= steps.wait_cpu_ns[0] <= steps.cpu_ns[0] - 30 * MS
    assert steps.cpu_ns[0] <= steps.process_cpu_ns[0] + MS
    assert steps.phases["data_wait"][1] >= 30 * MS > steps.wait_cpu_ns[1] >= 0
    if steps.wait_run_delay_ns is not None and steps.run_delay_ns is not None:
        assert 0 <= steps.wait_run_delay_ns[0] <= steps.run_delay_ns[0]


def test_a_wait_inside_a_wait_is_counted_once(recorder: Recorder) -> None:
    outer = recorder.enter_wait()
    inner = recorder.enter_wait()
    spin(0.02)
    recorder.leave_wait(inner)
    assert recorder.current == recorder.wait
    recorder.leave_wait(outer)
    recorder.end_step()
    steps = recorder.steps("steady")

    assert steps.cpu_ns is not None
    assert steps.wait_cpu_ns is not None
    assert 20 * MS <= steps.wait_cpu_ns[0] <= steps.cpu_ns[0]


def test_warm_up_is_kept_apart_and_out_of_the_histogram() -> None:
    recorder = Recorder(warmup_steps=3)
    for _ in range(10):
        recorder.end_step()
    assert recorder.steps("warmup").first == [0, 1, 2]
    assert recorder.steps("steady").first == list(range(3, 10))
    assert sum(recorder.step_time().counts) == 7
    recorder.close()


def test_other_threads_pass_through(recorder: Recorder) -> None:
    seen: list[bool] = []
    wrapped = timed(recorder, "work", counter="works")(lambda: seen.append(recorder.active))
    thread = threading.Thread(target=wrapped)
    thread.start()
    thread.join()
    wrapped()
    recorder.end_step()

    assert seen == [False, True]
    assert recorder.steps("steady").calls["works"] == [1]


def test_a_closed_recorder_lets_calls_pass(recorder: Recorder) -> None:
    wrapped = timed(recorder, "work", counter="works")(lambda value: value + 1)
    recorder.close()
    assert wrapped(1) == 2
    assert recorder.counted == [0]
    assert not recorder.active


def test_a_timed_call_that_raises_leaves_its_phase(recorder: Recorder) -> None:
    def fail() -> None:
        raise ArithmeticError("inside")

    with pytest.raises(ArithmeticError, match="inside"):
        timed(recorder, "work", mark=True)(fail)()
    assert recorder.current == recorder.python
    assert [mark.kind for mark in recorder.marks] == ["work"]


def test_phases_and_counters_may_appear_during_the_run(recorder: Recorder) -> None:
    recorder.end_step()
    previous = recorder.enter(recorder.phase("late"))
    recorder.counted[recorder.counter("later")] += 2
    time.sleep(0.005)
    recorder.leave(previous)
    recorder.phase("unused")
    recorder.end_step()
    steps = recorder.steps("steady")

    assert steps.phases["late"][0] == 0
    assert steps.phases["late"][1] >= 5 * MS
    assert steps.phases["unused"] == [0, 0]
    assert steps.calls["later"] == [0, 2]
    assert_exclusive(steps)


def test_restarting_a_step_forgets_what_ran_since(recorder: Recorder) -> None:
    recorder.counted[recorder.counter("calls")] += 1
    time.sleep(0.2)
    recorder.restart_step()
    recorder.end_step()
    steps = recorder.steps("steady")

    assert steps.wall_ns[0] < 200 * MS
    assert steps.calls["calls"] == [0]
    assert_exclusive(steps)


def test_the_time_of_a_callback_is_in_no_step(recorder: Recorder) -> None:
    def slow() -> bool:
        time.sleep(0.2)
        return True

    recorder.on_step.append(slow)
    recorder.end_step()
    recorder.end_step()
    steps = recorder.steps("steady")

    assert max(steps.wall_ns) < 200 * MS
    assert_exclusive(steps)


def test_steps_inside_the_window_are_counted_but_not_stored(recorder: Recorder) -> None:
    recorder.end_step()
    recorder.in_window = True
    recorder.end_step()
    recorder.end_step()
    recorder.in_window = False
    recorder.end_step()

    assert recorder.steps("steady").first == [0, 3]
    assert sum(recorder.step_time().counts) == 2


def test_rows_say_when_they_began(recorder: Recorder) -> None:
    for number in range(6):
        recorder.in_window = number == 3
        time.sleep(0.002)
        recorder.end_step()
    found = recorder.steps("steady")
    assert found.first == [0, 1, 2, 4, 5]
    assert found.start_ns is not None
    rows = list(zip(found.start_ns, found.wall_ns, strict=True))
    gaps = [start - (before + wall) for (before, wall), (start, _) in itertools.pairwise(rows)]
    assert min(gaps) >= 0
    assert gaps[2] >= 2 * MS  # the step of the window lies there


def test_decimated_rows_begin_with_their_first_step() -> None:
    table = SummedRows(("first", "start_ns", "wall_ns"), capacity=4, firsts=("first", "start_ns"))
    for i in range(5):
        table.append([i, 100 * i, 90])
    assert table.as_lists() == {
        "first": [0, 2, 4],
        "start_ns": [0, 200, 400],
        "wall_ns": [180, 180, 90],
    }


def test_marks_are_bounded_and_dated(recorder: Recorder) -> None:
    for _ in range(2500):
        recorder.mark("event", duration_ns=5)
    assert len(recorder.marks) == 2000
    assert all(mark.duration_ns == 5 and mark.step == 0 for mark in recorder.marks)
    times = [mark.time_ns for mark in recorder.marks]
    assert times == sorted(times)


def test_a_reader_thread_sees_whole_rows_while_columns_appear(recorder: Recorder) -> None:
    stop = threading.Event()
    failures: list[BaseException] = []

    def read() -> None:
        while not stop.is_set():
            try:
                assert_exclusive(recorder.steps("steady"))
                recorder.step_time()
            except BaseException as error:
                failures.append(error)
                return

    thread = threading.Thread(target=read)
    thread.start()
    for i in range(300):
        previous = recorder.enter(recorder.phase(f"phase{i % 30}"))
        recorder.leave(previous)
        recorder.end_step()
    stop.set()
    thread.join()
    assert failures == []


def test_after_a_fork_the_child_is_silent() -> None:
    script = """
        import os, sys
        from stepscope.profiler.recorder import Recorder
        recorder = Recorder(0)
        child = os.fork()
        if child == 0:
            os._exit(7 if recorder.active else 0)
        _, status = os.waitpid(child, 0)
        assert recorder.active
        sys.exit(os.waitstatus_to_exitcode(status))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
