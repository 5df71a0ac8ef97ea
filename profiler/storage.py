"""Reading and writing `profile.json`: atomic, checked, with errors a person can act on."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path

import msgspec

from stepscope.profiler.format import SCHEMA, Profile

MAX_BYTES = 64 * 2**20
"""A profile stays under 5 MB; anything beyond this is some other file."""


class ProfileError(Exception):
    """A file that cannot be read as a profile; the message is one line: what, and what to do."""


def save(profile: Profile, path: Path) -> None:
    """Write `profile` so that `path` always holds either the old or the new document.

    Raises:
        OSError: the folder cannot be created or written.
    """
    write_atomically(path, msgspec.json.encode(profile))


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content` in one step; a reader never sees a half-written file.

    Raises:
        OSError: the folder cannot be created or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    try:
        # Created by `open`, not by mkstemp, so that the user's umask decides who may read it.
        with temporary.open("xb") as file:
            file.write(content)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def load(path: Path) -> Profile:
    """Read and check a profile.

    Raises:
        ProfileError: the file is missing, unreadable, or not a profile of this version.
    """
    content = _read(path)
    try:
        return msgspec.json.decode(content, type=Profile)
    except msgspec.ValidationError as error:
        raise ProfileError(_explain_mismatch(path, content, error)) from None
    except msgspec.DecodeError as error:
        raise ProfileError(_explain_syntax(path, content, error)) from None
    except UnicodeDecodeError as error:
        raise ProfileError(f"{path}: is not JSON in UTF-8 ({error}); {_NEEDS_PROFILE}") from None
    except RecursionError:
        raise ProfileError(f"{path}: is nested too deep; {_NEEDS_PROFILE}") from None


def _read(path: Path) -> bytes:
    record = 'record one with `with profile("profile.json") as prof:` or run `advise demo`'
    try:
        if path.is_dir():
            found = sorted(file.name for file in path.glob("*.json"))
            hint = f"name one file in it, e.g. {path / found[0]}" if found else record
            raise ProfileError(f"{path}: is a directory; {hint}")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ProfileError(
                f"{path}: {size / 1e6:.0f} MB is not a stepscope profile (those stay under 5 MB)"
                + ("; it looks like a Kineto trace" if _is_trace(_head(path)) else "")
                + f"; {record}"
            )
        content = path.read_bytes()
    except FileNotFoundError:
        raise ProfileError(f"{path}: no such file; {record}") from None
    except OSError as error:
        raise ProfileError(f"{path}: cannot be read ({error.strerror})") from None
    if not content.strip():
        raise ProfileError(f"{path}: is empty; {record}")
    return content


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4096)


def _is_trace(content: bytes) -> bool:
    return b'"traceEvents"' in content or b'"deviceProperties"' in content


def _explain_syntax(path: Path, content: bytes, error: msgspec.DecodeError) -> str:
    if content[:2] == b"\x1f\x8b":
        return f"{path}: is gzip-compressed; unpack it first, or give the profile.json itself"
    if _is_trace(content[:4096]):
        return f"{path}: is a Kineto trace, not a profile; {_NEEDS_PROFILE}"
    if content.lstrip()[:1] != b"{":
        return f"{path}: is not JSON; {_NEEDS_PROFILE}"
    if "truncated" in str(error):
        return f"{path}: ends in the middle of the document ({len(content)} bytes); copy it again"
    return f"{path}: is not valid JSON ({error}); copy it again or record a new profile"


def _explain_mismatch(path: Path, content: bytes, error: msgspec.ValidationError) -> str:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict):
        found = document.get("schema")
        if "traceEvents" in document:
            return f"{path}: is a Kineto trace, not a profile; {_NEEDS_PROFILE}"
        if isinstance(found, str) and found.startswith("stepscope.advice/"):
            return f"{path}: is the advice, not the profile; give the profile.json it was made from"
        if isinstance(found, str) and found.startswith("stepscope.profile/") and found != SCHEMA:
            return (
                f"{path}: has schema {found!r}, this version reads {SCHEMA}; "
                "use the stepscope version that wrote it, or record it again"
            )
        if found != SCHEMA:
            return f'{path}: has no "schema": "{SCHEMA}"; {_NEEDS_PROFILE}'
    return f"{path}: {error}; the file was edited or damaged, record it again"


_NEEDS_PROFILE = "give a profile.json written by `with profile(...)` (`advise demo` makes one)"
