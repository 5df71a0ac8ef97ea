"""The built-in files as they were parsed last, in the user's cache folder.

Parsing YAML is most of the time that an advice takes. What was parsed is kept under a digest of
every file's text and of the code that says what a file may say, so it is never out of date; it
carries a digest of its own, so damage is noticed; and where nothing can be written, nothing is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from stepscope.advisor import knowledge
from stepscope.advisor.cache_folder import cache_folder
from stepscope.advisor.knowledge import Combination, Method, Rule
from stepscope.profiler.storage import write_atomically

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable  # Python 3.10 has it elsewhere

_DIGEST_BYTES = 16


class Entries(msgspec.Struct, array_like=True):
    """Everything in a folder of rules, each kind in the order of its files."""

    rules: list[Rule]
    methods: list[Method]
    combinations: list[Combination]


class Cache:
    """What is kept of one folder of rules.

    Args:
        folder: the folder; each installation has its own file.
        texts: what its files say.
    """

    def __init__(self, folder: Traversable, texts: Iterable[str]) -> None:
        self._key = _digest(text.encode() for text in (_types(), *texts))
        name = f"rules-{_digest([str(folder).encode()]).hex()}.msgpack"
        place = cache_folder()
        self._file = place / name if place else None

    def load(self) -> Entries | None:
        """What was kept; None if there is nothing, or nothing that fits."""
        if self._file is None:
            return None
        try:
            content = self._file.read_bytes()
            head, body = content[: 2 * _DIGEST_BYTES], content[2 * _DIGEST_BYTES :]
            if head != self._key + _digest([body]):
                return None
            return msgspec.msgpack.decode(body, type=Entries)
        except (OSError, msgspec.MsgspecError):
            return None

    def store(self, entries: Entries) -> None:
        """Keep `entries` if that is possible."""
        body = msgspec.msgpack.encode(entries)
        if self._file is not None:
            with contextlib.suppress(OSError):
                write_atomically(self._file, self._key + _digest([body]) + body)


def _types() -> str:
    """The code that says what a file may say; another version of it keeps things otherwise."""
    try:
        return Path(knowledge.__file__).read_text(encoding="utf-8")
    except OSError:  # installed without sources
        return repr([kind.__struct_fields__ for kind in (Rule, Method, Combination)])


def _digest(parts: Iterable[bytes]) -> bytes:
    digest = blake2b(digest_size=_DIGEST_BYTES)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()
