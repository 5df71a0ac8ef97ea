"""Lines of a program that write files: by what they call, read from the program's source.

Nothing can be put in the place of a file's methods, and to time each of them would cost more than
most of them take. But where the training thread is, is looked at anyway, and what a line calls is
there to be read.
"""

from __future__ import annotations

import ast
import functools
import re
import tokenize

from stepscope.profiler.format import Site

_WRITERS = frozenset(
    (
        *("write", "writelines", "writerow", "writerows", "write_text", "write_bytes"),
        *("flush", "fsync", "tofile", "dump", "copyfile", "copy2", "copytree"),
        *("save", "savez", "savez_compressed", "savetxt", "savefig", "save_file"),
        *("save_pretrained", "to_csv", "to_json", "to_parquet", "to_pickle"),
    )
)
_WRITE_MODE = re.compile(r"[wax][bt+]{0,2}")


def note_writing(sites: list[Site]) -> None:
    """Set `writes` of the places in the phase `python` whose statement writes a file.

    Not where a look came late: who writes lets go of the lock that the look has waited for.
    """
    for site in sites:
        if site.phase == "python" and site.state != "held":
            site.writes = site.line in writing_lines(site.file)


@functools.lru_cache(maxsize=64)
def writing_lines(file: str) -> frozenset[int]:
    """Numbers of the lines of all statements in `file` that call what writes files.

    Of a statement with a body (`with`, `for`) only the head counts. Empty without readable source.
    """
    try:
        with tokenize.open(file) as source:  # in the encoding that the file declares
            tree = ast.parse(source.read())
    except (OSError, SyntaxError, ValueError, UnicodeError, RecursionError, MemoryError):
        return frozenset()
    lines: set[int] = set()
    for statement in (node for node in ast.walk(tree) if isinstance(node, ast.stmt)):
        body = [part for part in ast.iter_child_nodes(statement) if isinstance(part, ast.stmt)]
        heads = [part for part in ast.iter_child_nodes(statement) if part not in body]
        if any(_writes(node) for head in heads for node in ast.walk(head)):
            last = min((part.lineno - 1 for part in body), default=statement.end_lineno or 0)
            lines.update(range(statement.lineno, max(statement.lineno, last) + 1))
    return frozenset(lines)


def _writes(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    called = node.func
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    return name in _WRITERS or (name == "open" and _opens_to_write(node))


def _opens_to_write(call: ast.Call) -> bool:
    """Whether one of its first two arguments, or `mode`, says so: opening may empty a file."""
    modes = [*call.args[:2], *(k.value for k in call.keywords if k.arg == "mode")]
    return any(
        isinstance(mode, ast.Constant)
        and isinstance(mode.value, str)
        and _WRITE_MODE.fullmatch(mode.value) is not None
        for mode in modes
    )
