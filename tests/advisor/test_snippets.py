"""Every `how_to` of the catalogue runs as a script of its own, as a reader would run it.

One process imports torch once and forks a child per snippet, so that no snippet sees what
another has switched on; those that use torch.distributed get an interpreter of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import NamedTuple

import pytest

from stepscope.advisor.rule_files import load_knowledge

pytest.importorskip("torch")
pytest.importorskip("numpy")

HOW_TO = {method.id: method.how_to for method in load_knowledge().methods.values()}
SECONDS = 480
DRIVER = """
import json, os, runpy, subprocess, sys, traceback
from pathlib import Path
import numpy, torch, torch.utils.data
import torch._dynamo  # every optimizer imports it at its first step: once is enough

codes = {}
for path in sys.argv[1:]:
    if "torch.distributed" in Path(path).read_text():  # gloo may hang in a forked child
        with open(path + ".out", "wb") as out:
            ran = subprocess.run([sys.executable, path], stdout=out, stderr=out, timeout=120)
        codes[Path(path).stem] = ran.returncode
        continue
    child = os.fork()
    if child == 0:
        code = 1
        sys.argv = [path]
        os.dup2(os.open(path + ".out", os.O_WRONLY | os.O_CREAT), 1)
        os.dup2(1, 2)
        try:
            runpy.run_path(path, run_name="__main__")
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    codes[Path(path).stem] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps(codes))
"""


class Outcome(NamedTuple):
    """How a snippet ended and what it printed."""

    code: int
    output: str


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    folder = tmp_path_factory.mktemp("snippets")
    driver = folder / "driver.py"
    driver.write_text(DRIVER, encoding="utf-8")
    paths = []
    for name, code in HOW_TO.items():
        paths.append(folder / f"{name}.py")
        paths[-1].write_text(code, encoding="utf-8")
    halves = [paths[::2], paths[1::2]]
    environment = os.environ | {"TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, str(driver), *map(str, half)],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for half in halves
    ]
    codes: dict[str, int] = {}
    try:
        for process in running:
            codes |= json.loads(process.communicate(timeout=SECONDS)[0])
    finally:
        for process in running:
            process.kill()
    return {
        name: Outcome(code, (folder / f"{name}.py.out").read_text(encoding="utf-8"))
        for name, code in codes.items()
    }


@pytest.mark.parametrize("name", HOW_TO)
def test_a_how_to_runs_as_it_stands(name: str, outcomes: dict[str, Outcome]) -> None:
    code, output = outcomes[name]

    assert code == 0, output
    assert "Warning" not in output


@pytest.mark.parametrize("name", HOW_TO)
def test_a_how_to_is_short_enough_to_read(name: str) -> None:
    lines = HOW_TO[name].splitlines()

    assert 2 <= len(lines) <= 40
    assert max(map(len, lines)) <= 110
