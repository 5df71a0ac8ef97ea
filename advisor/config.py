"""What a project has set: `[tool.stepscope]` in the nearest `pyproject.toml` that has it."""

from __future__ import annotations

import math
import re
from pathlib import Path

import msgspec
from msgspec import Struct

from stepscope.advisor.knowledge import KnowledgeError, thresholds_like

_TABLE = re.compile(rb"^\s*\[\s*tool\s*\.\s*stepscope\s*[.\]]", re.MULTILINE)


class Config(Struct, frozen=True):
    """Rules and thresholds of a project."""

    file: Path | None = None
    rules: tuple[Path, ...] = ()
    """Folders of rules, on top of the built-in ones."""
    thresholds: dict[str, float] = {}
    not_read: str = ""
    """Why the settings that are there do not count."""

    def thresholds_among(self, known: set[str]) -> dict[str, float]:
        """The thresholds.

        Raises:
            KnowledgeError: a name is not among the known ones.
        """
        for name in self.thresholds:
            if name not in known:
                there = thresholds_like(name, known)
                raise KnowledgeError(f"{self._key('thresholds')}: no {name!r}; {there}")
        return self.thresholds

    def _key(self, key: str) -> str:
        return f"{self.file}: tool.stepscope.{key}"


class _Table(Struct, forbid_unknown_fields=True):
    rules: list[str] = []
    thresholds: dict[str, float] = {}


def load_config(folder: Path | None = None) -> Config:
    """Search a folder, or the current one, and the folders above it.

    Raises:
        KnowledgeError: the settings are there but cannot be used.
    """
    try:
        begin = folder or Path.cwd()
    except OSError:  # somebody has deleted it
        return Config()
    for place in (begin, *begin.parents):
        config = _read(place / "pyproject.toml")
        if config is not None:
            return config
    return Config()


def _read(file: Path) -> Config | None:
    """The settings in `file`; None where it says nothing of us."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    if b"stepscope" not in content:
        return None
    ours = _TABLE.search(content) is not None
    try:
        import tomllib  # noqa: PLC0415  # new in Python 3.11
    except ImportError:
        reason = "[tool.stepscope] is not read on Python 3.10; use --rules and --set"
        return Config(file, not_read=f"{file}: {reason}") if ours else None
    try:
        document = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        if ours:
            raise KnowledgeError(f"{file}: is not TOML: {error}") from None
        return None  # somebody else's, and somebody else's trouble
    tools = document.get("tool")
    if not isinstance(tools, dict) or "stepscope" not in tools:
        return None
    return _checked(file, tools["stepscope"])


def _checked(file: Path, table: object) -> Config:
    thresholds = table.get("thresholds") if isinstance(table, dict) else None
    for name, value in thresholds.items() if isinstance(thresholds, dict) else ():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            key = f"tool.stepscope.thresholds.{name}"
            raise KnowledgeError(f"{file}: {key}: {value!r} is no number")
    try:
        found = msgspec.convert(table, type=_Table)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        key = f"tool.stepscope{path.rstrip('`')}"
        raise KnowledgeError(f"{file}: {key}: {message}") from None
    for name, value in found.thresholds.items():
        if not math.isfinite(value):
            key = f"tool.stepscope.thresholds.{name}"
            raise KnowledgeError(f"{file}: {key}: {value} is no limit")
    folders = tuple(file.parent / name for name in found.rules)
    for folder in folders:
        if not folder.is_dir():
            key = "tool.stepscope.rules"
            raise KnowledgeError(f"{file}: {key}: {folder}: no such directory")
    return Config(file, folders, found.thresholds)
