"""Lines of a program that read or write files: by what they call, read from the program's source.

Nothing can be put in the place of a file's methods, and to time each of them would cost more than
most of them take. But where the training thread is, is looked at anyway, and what a line calls is
there to be read.
"""

from __future__ import annotations

import ast
import functools
import re
import tokenize
from collections.abc import Callable
from typing import NamedTuple

from stepscope.profiler.format import Site

_WRITERS = frozenset(
    (
        *("write", "writelines", "writerow", "writerows", "pwrite", "imwrite", "imsave"),
        *("flush", "fsync", "tofile", "dump", "copyfile", "copy2", "copytree"),
        *("save", "savez", "savez_compressed", "savetxt", "savefig", "save_file"),
        *("save_pretrained", "to_csv", "to_json", "to_parquet", "to_pickle", "to_feather"),
    )
)
_READERS = frozenset(
    (
        *("open", "safe_open", "pread", "readinto", "readline", "readlines", "extractfile"),
        *("fromfile", "loadtxt", "genfromtxt", "loadmat", "imread", "load_file"),
        *("listdir", "scandir", "iterdir", "glob"),
        *("fetchone", "fetchmany", "fetchall"),  # Python's database interface, PEP 249
    )
)
_OWN_CODE = ("python", "after_forward")
_READING, _WRITING = "read_", "write_"
"""`read_text`, `read_csv`, `read_image`: so libraries name their functions."""
_LOADERS = frozenset(("np", "numpy", "torch"))
"""Modules whose `load` opens a file; that of `json` and `pickle` is given an open one."""
_WRITE_MODE = re.compile(r"[wax][bt+]{0,2}")


class FileLines(NamedTuple):
    """Numbers of the lines of all statements that do so; of a compound one, only of its head."""

    reading: frozenset[int]
    writing: frozenset[int]


_NONE = FileLines(frozenset(), frozenset())


def note_file_access(sites: list[Site]) -> None:
    """Set `reads` and `writes` of the places in the program's own code whose statement does so.

    Not where a look came late: who reads or writes lets go of the lock that the look waited for.
    """
    for site in sites:
        if site.phase in _OWN_CODE and site.state != "held":
            lines = file_lines(site.file)
            site.writes = site.line in lines.writing
            site.reads = not site.writes and site.line in lines.reading


@functools.lru_cache(maxsize=64)
def file_lines(file: str) -> FileLines:
    """Lines of `file`, a program, that read and write files. Empty without readable source."""
    try:
        with tokenize.open(file) as source:  # in the encoding that the file declares
            tree = ast.parse(source.read())
    except (OSError, SyntaxError, ValueError, UnicodeError, RecursionError, MemoryError):
        return _NONE
    return FileLines(_lines(tree, _reads), _lines(tree, _writes))


def _lines(tree: ast.Module, calls: Callable[[ast.Call], bool]) -> frozenset[int]:
    lines: set[int] = set()
    for statement in (node for node in ast.walk(tree) if isinstance(node, ast.stmt)):
        body = [part for part in ast.iter_child_nodes(statement) if isinstance(part, ast.stmt)]
        heads = [part for part in ast.iter_child_nodes(statement) if part not in body]
        nodes = (node for head in heads for node in ast.walk(head))
        if any(isinstance(node, ast.Call) and calls(node) for node in nodes):
            last = min((part.lineno - 1 for part in body), default=statement.end_lineno or 0)
            lines.update(range(statement.lineno, max(statement.lineno, last) + 1))
            if isinstance(statement, ast.With) and calls is _reads:
                lines.update(_file_methods(statement))
    return frozenset(lines)


def _file_methods(block: ast.With) -> set[int]:
    """Lines inside `with open(path) as file:` that read the file."""
    names = {
        node.id
        for item in block.items
        if item.optional_vars is not None
        for node in ast.walk(item.optional_vars)
        if isinstance(node, ast.Name)
    }
    return {
        node.lineno
        for part in block.body
        for node in ast.walk(part)
        if isinstance(node, ast.Name) and node.id in names
    }


def _writes(call: ast.Call) -> bool:
    name = _name(call)
    if name.startswith(_WRITING):
        return True
    return name in _WRITERS or (name == "open" and _opens_to_write(call))


def _reads(call: ast.Call) -> bool:
    name = _name(call)
    if name == "load" and isinstance(call.func, ast.Attribute):
        return isinstance(call.func.value, ast.Name) and call.func.value.id in _LOADERS
    if name.startswith(_READING):
        return True
    return name in _READERS and not (name == "open" and _opens_to_write(call))


def _name(call: ast.Call) -> str:
    called = call.func
    return called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")


def _opens_to_write(call: ast.Call) -> bool:
    """Whether one of its first two arguments, or `mode`, says so: opening may empty a file."""
    modes = [*call.args[:2], *(k.value for k in call.keywords if k.arg == "mode")]
    return any(
        isinstance(mode, ast.Constant)
        and isinstance(mode.value, str)
        and _WRITE_MODE.fullmatch(mode.value) is not None
        for mode in modes
    )
