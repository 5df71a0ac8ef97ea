"""From the frames of a thread to a place in the user's own code, and to a transform.

Frames are those of a running thread: everything here only reads, and reads local variables only
where a transform has to be told from its neighbours.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import sysconfig
from collections.abc import Sequence
from types import FrameType
from typing import Any

_LIBRARY_FOLDERS = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_LIBRARIES = ("torch", "numpy", "torchvision", "stepscope.profiler", "stepscope.advisor")
_TYPED_IN = ("<stdin>", "<string>", "<ipython-input")
_CALLS = frozenset({"__call__", "forward", "_call_impl", "_wrapped_call_impl"})
_GETTERS = frozenset({"__getitem__", "__getitems__", "__iter__", "__next__"})
_COMPREHENSIONS = frozenset({"<listcomp>", "<genexpr>", "<dictcomp>", "<setcomp>"})
_MAX_DEPTH = 500

Frames = Sequence[FrameType]
Place = tuple[str, int, str]
"""File, line and function."""


def stack(frame: FrameType | None) -> list[FrameType]:
    """The frames from the outermost to `frame`."""
    frames: list[FrameType] = []
    while frame is not None and len(frames) < _MAX_DEPTH:
        frames.append(frame)
        frame = frame.f_back
    frames.reverse()
    return frames


def place(frames: Frames) -> Place:
    """Where the innermost frame of the user's own code is; without any, the innermost frame."""
    mine = (frame for frame in reversed(frames) if is_users(frame.f_code.co_filename))
    frame = next(mine, frames[-1])
    return frame.f_code.co_filename, frame.f_lineno or 0, _function(frame)


@functools.lru_cache(maxsize=4096)
def is_users(file: str) -> bool:
    """Whether the code in `file` is the program's own, not a library's."""
    if file.startswith("<"):
        return file.startswith(_TYPED_IN)
    return not (any(folder in file for folder in _LIBRARY_FOLDERS) or file.startswith(_roots()))


@functools.lru_cache(maxsize=1)
def _roots() -> tuple[str, ...]:
    paths = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    paths.add(os.path.dirname(os.__file__))  # noqa: PTH120  # as frames spell it, unresolved
    for name in _LIBRARIES:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file:
            paths.add(os.path.dirname(file))  # noqa: PTH120
    return tuple(path + os.sep for path in paths if path)


def transform(frames: Frames) -> str | None:
    """What the dataset is calling, from the frames inside a fetch, outermost first.

    The child of a `Compose` (torchvision, albumentations and whatever else keeps callables in
    `transforms`), nested ones opened; without one, the function that the dataset's `__getitem__`
    calls, or that method itself.
    """
    frames = [frame for frame in frames if frame.f_code.co_name not in _COMPREHENSIONS]
    for depth, frame in enumerate(frames):
        if frame.f_code.co_name in _CALLS and _children(_self(frame)):
            return _child_of(frames[depth:])
    return _called_by_dataset(frames)


def outermost(frames: Frames) -> str:
    """The name of the outermost frame."""
    return _name(frames[0])


def _child_of(frames: Frames) -> str:
    """The transform that the `Compose` of the first frame is calling."""
    owner = _self(frames[0])
    helper = ""
    for depth, frame in enumerate(frames[1:], start=1):
        child = _self(frame)
        if child is owner:  # a method of its own on the way, or the wrapper of nn.Module
            helper = helper or ("" if frame.f_code.co_name in _CALLS else frame.f_code.co_name)
        elif child is None:
            named = _chosen(frames[depth - 1], owner)
            return _label(named) if named is not None else _name(frame)
        elif frame.f_code.co_name in _CALLS and _children(child):
            inner = next(
                (i for i in range(depth, len(frames)) if _calls_children(frames[i], child)), depth
            )
            return _child_of(frames[inner:])
        else:
            return _name(frame)
    named = _chosen(frames[-1], owner)  # what it calls is not written in Python
    if named is not None:
        return _label(named)
    return f"{type(owner).__name__}.{helper}" if helper else type(owner).__name__


def _calls_children(frame: FrameType, owner: Any) -> bool:
    return frame.f_code.co_name in ("__call__", "forward") and _self(frame) is owner


def _chosen(frame: FrameType, owner: Any) -> Any:
    """The local variable that is one of its transforms, as in `for t in self.transforms`."""
    children = _children(owner)
    for value in list(frame.f_locals.values()):
        if any(value is child for child in children):
            return value
    return None


def _called_by_dataset(frames: Frames) -> str | None:
    first = next((i for i, f in enumerate(frames) if _begins_a_sample(f)), None)
    if first is None:  # a stream made by `map` or the like: its function is called from C
        mine = next((f for f in frames if is_users(f.f_code.co_filename)), None)
        return _name(mine or frames[-1]) if frames else None
    while first + 1 < len(frames) and frames[first + 1].f_code.co_name in _GETTERS:
        first += 1
    dataset, inside = frames[first], frames[first + 1 :]
    if not is_users(dataset.f_code.co_filename):
        # A library's dataset that was given the user's function, like Hugging Face's.
        mine = next((frame for frame in inside if is_users(frame.f_code.co_filename)), None)
        if mine is not None:
            return _name(mine)
    return _name(inside[0]) if inside else _name(dataset)


def _begins_a_sample(frame: FrameType) -> bool:
    return frame.f_code.co_name in _GETTERS or (
        is_users(frame.f_code.co_filename) and bool(frame.f_code.co_flags & inspect.CO_GENERATOR)
    )


def _self(frame: FrameType) -> Any:
    """The object whose method the frame is; None for a plain function."""
    code = frame.f_code
    if code.co_argcount == 0 or code.co_varnames[0] != "self":
        return None
    return frame.f_locals.get("self")


def _children(owner: Any) -> list[Any] | tuple[Any, ...]:
    children = getattr(owner, "__dict__", {}).get("transforms")
    return children if isinstance(children, (list, tuple)) else ()


def _label(value: Any) -> str:
    return str(getattr(value, "__name__", type(value).__name__))


def _name(frame: FrameType) -> str:
    owner = _self(frame)
    if owner is None:
        return _function(frame)
    kind = type(owner).__name__
    method = frame.f_code.co_name
    return kind if method in _CALLS else f"{kind}.{method}"


def _function(frame: FrameType) -> str:
    """The function's name as in its source; a library's with its module before it."""
    code = frame.f_code
    name: str = getattr(code, "co_qualname", code.co_name)  # Python 3.11
    name = name.rpartition("<locals>.")[2]
    if is_users(code.co_filename):
        return name
    return f"{frame.f_globals.get('__name__', '?')}.{name}"
