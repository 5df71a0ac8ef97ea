"""The files of all ranks in one folder: when a run ends, rank 0 looks for those of the others.

Ranks agree through the key-value store that the process group was made with. Nothing here is a
collective, which would wait for ranks that never come, and disturb those of the program; and no
rank waits longer than some seconds, whatever has become of the others.
"""

from __future__ import annotations

import os
import shlex
import threading
import time
import uuid
import zlib
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from torch import distributed

from stepscope.profiler import machine
from stepscope.profiler.format import Run
from stepscope.profiler.ranks import RankedFile
from stepscope.profiler.recorder import Recorder
from stepscope.profiler.storage import write_atomically

_PATIENCE, _WITHOUT_STORE = 5.0, 2.0
"""Seconds that rank 0 waits for ranks that record; less where a rank that does not is unknown."""
_LOOK_AGAIN = 0.05
_LARGEST, _TOGETHER = 4 << 20, 256 << 20
"""Compressed bytes that one rank sends, and all of them: rank 0's node holds them in memory."""
_SHOWN = 8
_HERE, _SENT, _TOO_LARGE = b"here", b"sent", b"large"
_recordings: Counter[str] = Counter()


class _Folder(Struct):
    """What tells a folder from any other."""

    machine: str
    device: int
    inode: int


class _Head(Struct):
    """What is read of another rank's profile."""

    run: Run


class Gathering:
    """One recording's part in that.

    Args:
        file: of this rank.
    """

    def __init__(self, file: RankedFile) -> None:
        self.job: str | None = None
        """One word for this recording on all ranks; None where they could not agree."""
        self.received: dict[int, Path] = {}
        """Files that other ranks have sent here, by rank."""
        self.words: str | None = None
        """What has become of the files, on rank 0."""
        self._file = file
        self._topic = ""
        self._store: Any = None
        self._began = time.time()
        self._saved = threading.Event()
        self._over = False
        # Made early: while Python ends, no thread can be started any more.
        self._thread = threading.Thread(target=self._run, name="stepscope-ranks", daemon=True)

    def watch(self, recorder: Recorder) -> None:
        """Join now, or after one of the first steps: a process group may be made later."""
        self.join()
        recorder.on_look.append(self.join)

    def join(self) -> None:
        """Make this rank known to the others, once there is a process group."""
        rank, world = self._file.rank
        if world == 1 or self._topic:
            return
        if self._thread.ident is None:
            with suppress(RuntimeError):
                self._thread.start()
        store = _default_store()
        if store is None:
            return
        _recordings[self._file.name] += 1
        self._topic = f"stepscope/{self._file.name}/{_recordings[self._file.name]}"
        with suppress(Exception):  # a store of another kind
            self.job = store.compare_set(f"{self._topic}/job", "", uuid.uuid4().hex).decode()
            if rank == 0:
                folder = msgspec.json.encode(_folder(self._file.path.parent))
                store.set(f"{self._topic}/folder", folder)
            store.set(f"{self._topic}/{rank}/began", b"")
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            # It outlives the process group. Where rank 0 keeps the store itself, holding it would
            # leave what a program finds there that makes a second group.
            self._store = store

    def finish(self) -> None:
        """The file of this rank is written: find, or send; it takes a few seconds at most."""
        if self._thread.ident is None:
            return
        self._store = self._store or _default_store()
        self._saved.set()
        self._thread.join(_PATIENCE + 1)
        self._over = True

    def abandon(self) -> None:
        """There will be no file."""
        self._over = True
        self._saved.set()

    def _run(self) -> None:
        self._saved.wait()
        if self._over:
            return
        rank, world = self._file.rank
        with suppress(Exception):  # the store may be gone before this rank is
            if rank:
                self._hand_over(rank, world)
            elif self._store is not None and self.job is not None:
                self._collect(world)
        if rank == 0 and self.words is None:
            with suppress(Exception):
                self._look_in_folder(world)

    # Other ranks --------------------------------------------------------------------------------

    def _hand_over(self, rank: int, world: int) -> None:
        store, topic = self._store, self._topic
        if self.job is None or store is None or not store.check([f"{topic}/folder"]):
            return  # rank 0 does not record
        own = self._file.path
        theirs = msgspec.json.decode(store.get(f"{topic}/folder"), type=_Folder)
        if theirs == _folder(own.parent) or self._run_of(0) is not None:
            store.set(f"{topic}/{rank}/ended", _HERE)
            return
        packed = zlib.compress(own.read_bytes(), 1)
        if len(packed) > min(_LARGEST, _TOGETHER // world):
            store.set(f"{topic}/{rank}/ended", _TOO_LARGE)
            return
        store.set(f"{topic}/{rank}/profile", packed)
        store.set(f"{topic}/{rank}/ended", _SENT)

    def _run_of(self, rank: int) -> Run | None:
        """What this folder holds of a rank of this run."""
        path = self._file.of(rank)
        with suppress(OSError, msgspec.MsgspecError):
            if self.job is None and path.stat().st_mtime < self._began - 1:
                return None
            found = msgspec.json.decode(path.read_bytes(), type=_Head).run
            return found if found.job == self.job else None
        return None

    # Rank 0 -------------------------------------------------------------------------------------

    def _collect(self, world: int) -> None:
        """Wait for the ranks that record; take what they have sent."""
        store, topic = self._store, self._topic
        others = range(1, world)
        recording = [rank for rank in others if store.check([f"{topic}/{rank}/began"])]
        pending = [f"{topic}/{rank}/ended" for rank in recording]
        deadline = time.monotonic() + _PATIENCE
        while pending and not store.check(pending) and time.monotonic() < deadline:
            time.sleep(_LOOK_AGAIN)
        absent: dict[str, list[int]] = {}
        for rank in others:
            if why := self._why_absent(rank, rank in recording):
                absent.setdefault(why, []).append(rank)
        self._tell(world, absent)

    def _why_absent(self, rank: int, recording: bool) -> str | None:
        """Why the file of a rank is not here; None if it is."""
        store, key = self._store, f"{self._topic}/{rank}"
        answer = store.get(f"{key}/ended") if store.check([f"{key}/ended"]) else None
        if answer == _SENT and not self._over:
            path = self._file.of(rank)
            write_atomically(path, zlib.decompress(store.get(f"{key}/profile")))
            self.received[rank] = path
            with suppress(Exception):  # some stores keep what they have
                store.delete_key(f"{key}/profile")
        if answer in (_HERE, _SENT):
            return None
        if answer == _TOO_LARGE:
            return "wrote one elsewhere that is too large to send"
        run = self._run_of(rank)
        if run is not None and run.ended != "running":
            return None
        return "did not end the recording" if recording or run else "did not record"

    def _look_in_folder(self, world: int) -> None:
        """There is no store: wait for files that are written now."""
        absent = list(range(1, world))
        deadline = time.monotonic() + _WITHOUT_STORE
        while absent:
            runs = [(rank, self._run_of(rank)) for rank in absent]
            absent = [rank for rank, run in runs if run is None or run.ended == "running"]
            if time.monotonic() >= deadline:
                break
            time.sleep(_LOOK_AGAIN)
        self._tell(world, {"left no complete one here": absent} if absent else {})

    def _tell(self, world: int, absent: dict[str, list[int]]) -> None:
        found = world - sum(map(len, absent.values()))
        judge = _pattern(self._file) if found > 1 else shlex.quote(str(self._file.path))
        why = "; ".join(f"{_ranks(ranks)} {what}" for what, ranks in absent.items())
        self.words = (
            f"profiles of {found} of {world} ranks{f' ({why})' if why else ''}: advise {judge}"
        )


def _pattern(file: RankedFile) -> str:
    """The files of all ranks, for a shell."""
    before, after = str(file.of("*")).rsplit(".rank*", 1)
    return f"{shlex.quote(before)}.rank*{shlex.quote(after) if after else ''}"


def _ranks(ranks: Sequence[int]) -> str:
    shown = ", ".join(map(str, ranks[:_SHOWN])) + (", ..." if len(ranks) > _SHOWN else "")
    return f"rank {shown}" if len(ranks) == 1 else f"ranks {shown}"


def _default_store() -> Any:
    """The store that the process group was made with; None where there is none."""
    if distributed.is_available() and distributed.is_initialized():
        with suppress(Exception):  # private, so it may go
            return distributed.distributed_c10d._get_default_store()
    return None


def _folder(path: Path) -> _Folder:
    told = path.stat()
    return _Folder(machine.identity(), told.st_dev, told.st_ino)
