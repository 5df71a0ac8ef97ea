"""Run by Python itself at its start, since `advise run` puts this folder on PYTHONPATH.

It only waits for PyTorch; a program that never imports it is left alone. It must run in any
Python 3, whether stepscope is installed there or not, and never fail.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import sys

TYPE_CHECKING = False  # importing `typing` would slow the start of every Python
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

FOLDER = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120  # a quick start


class AfterTorch:
    """A finder that imports nothing, but notes when the module `torch` has been executed."""

    def __init__(self, then: Callable[[], None]) -> None:
        self.then = then

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Find `torch` through the other finders, and wrap its execution."""
        if name != "torch" or self not in sys.meta_path:
            return None
        for finder in list(sys.meta_path):
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec = find(name, path, target) if find else None
            if spec is not None:
                self.wrap(spec.loader)
                return spec
        return None

    def wrap(self, loader: Any) -> None:
        """Call `then` once, when `loader` has executed the module; its class stays the same."""
        execute = loader.exec_module

        def exec_module(module: Any) -> None:
            del loader.exec_module
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
                self.then()

        loader.exec_module = exec_module


def leave_mark(settings: dict[str, Any], name: str, text: str = "") -> None:
    """Tell `advise run` what has happened, by a file in its folder."""
    with open(os.path.join(settings["folder"], name), "w") as file:  # noqa: PTH118, PTH123
        file.write(text)


def watch_for_steps(settings: dict[str, Any]) -> None:
    """PyTorch is there: hand over to the package."""
    try:
        leave_mark(settings, "torch")
        try:
            from stepscope.profiler.launch import watch  # noqa: PLC0415  # torch is there now
        except ImportError as error:
            leave_mark(settings, "missing", f"{sys.executable}: {error}")
        else:
            watch(settings)
    except Exception:  # a guest never breaks the host's program
        return


def run_next_sitecustomize() -> None:
    """Run the file of this name that ours has hidden."""
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != FOLDER]  # noqa: PTH100
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


if __name__ == "sitecustomize":
    try:
        settings = json.loads(os.environ["STEPSCOPE_RUN"])
        leave_mark(settings, "python")
        sys.meta_path.insert(0, AfterTorch(lambda: watch_for_steps(settings)))
    except Exception:  # `advise run` is over, or somebody else put the folder here
        pass
    run_next_sitecustomize()
