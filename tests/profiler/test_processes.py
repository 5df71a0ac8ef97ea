from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from loops import spin

from stepscope.profiler import processes

GRANDCHILD = """
import subprocess, sys, time
inner = "import time\\nend = time.process_time() + 0.3\\nwhile time.process_time() < end: pass\\n"
inner += "print('done', flush=True); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", inner], stdout=subprocess.PIPE, text=True)
child.stdout.readline()
print(child.pid, flush=True)
sys.stdin.read()
child.kill()
child.wait()
"""


@pytest.mark.parametrize("told", [True, False])
def test_what_a_grandchild_uses_is_the_jobs(told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not told:  # a kernel without lists of children

        def refuse(pid: int) -> list[int]:
            raise FileNotFoundError(pid)

        monkeypatch.setattr(processes, "_children", refuse)
    before = processes.job_cpu_seconds()
    child = subprocess.Popen(
        [sys.executable, "-c", GRANDCHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdin is not None
        assert child.stdout is not None
        grandchild = int(child.stdout.readline())
        assert {child.pid, grandchild} <= set(processes.descendants())
        during = processes.job_cpu_seconds()
        assert during - before >= 0.25
    finally:
        child.communicate(timeout=30)
    assert processes.job_cpu_seconds() >= during - 0.05  # it is kept when they have ended
    assert grandchild not in processes.descendants()


def test_a_process_that_has_ended_has_no_children() -> None:
    assert processes._children(2**22 + 1) == []


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="needs schedstat")
def test_delays_are_told_by_thread() -> None:
    go_on = threading.Event()

    def work() -> None:
        spin(0.01)
        go_on.wait(30)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        times = processes.thread_times_ns()
    finally:
        go_on.set()
        thread.join()
    assert times is not None
    assert {os.getpid(), thread.native_id} <= set(times)
    assert all(delay >= 0 for _, delay in times.values())
