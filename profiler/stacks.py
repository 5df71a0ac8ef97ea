"""A few times a second: where in the program a thread is, and what it is waiting for there.

The thread that looks needs the interpreter lock, so a look comes when the watched thread lets
go of it, in the same line; a look that comes late counts for those it missed.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from stepscope.profiler import blame, exchange
from stepscope.profiler.format import Site
from stepscope.profiler.threadstate import ThreadState

_MAX_SITES = 500
_MAX_MISSED = 20
_HELD_S = 2e-3
"""A look this late had to wait for the interpreter's lock (or a core): it shows where the watched
thread let go of it, not where it was. After `sys.getswitchinterval()` the interpreter takes the
lock from the thread wherever that is, so a later look tells again."""
_EAGER_LOOKS, _SLOWER = 200, 4
"""After so many looks the next ones are so many times rarer: a short run needs what a long one has
in plenty, and every look takes the interpreter from the thread that it looks at."""
_GOLDEN = 0.618  # steps of this size fill [0, 1) evenly: jitter without random numbers
_OWN = os.path.dirname(__file__) + os.sep  # noqa: PTH120  # as frames spell it
_FETCHING = _OWN + "fetching.py"
_BOUNDARY = _OWN + "recorder.py", "end_step"

Key = tuple[str, str, int, str, str | None, str]
"""Phase, file, line, function, transform, state."""


class Sites:
    """How often which place was seen; places beyond a bound are counted together."""

    def __init__(self) -> None:
        self._counts: dict[Key, int] = {}
        self.samples = 0

    def add(self, key: Key, samples: int = 1) -> None:
        """Count `samples` looks that found the thread at `key`."""
        if key not in self._counts and len(self._counts) >= _MAX_SITES:
            key = (key[0], "", 0, "other", None, key[5])
        self._counts[key] = self._counts.get(key, 0) + samples
        self.samples += samples

    def counts(self) -> dict[Key, int]:
        """A copy of the table; safe from any thread."""
        return self._counts.copy()

    def clear(self) -> None:
        """Forget everything."""
        self._counts = {}
        self.samples = 0

    def as_list(self) -> list[Site]:
        """The places, the most frequent first; safe from any thread."""
        counts = sorted(self.counts().items(), key=lambda item: -item[1])
        return [
            Site(
                phase=phase,
                file=file,
                line=line,
                function=function,
                transform=transform,
                state=state,
                samples=samples,
            )
            for (phase, file, line, function, transform, state), samples in counts
        ]


class Fetch:
    """What a fetcher is at, for the sampler of its thread and for functions called inside it."""

    __slots__ = ("open_cpu_ns", "open_ns", "opening", "opens", "sites", "stage")

    def __init__(self, sites: Sites) -> None:
        self.sites = sites
        """Where looks at this fetcher are counted."""
        self.stage = "fetch"
        """`fetch` or `collate`."""
        self.opening = False
        """Whether it is inside a call that opens, stats or lists files."""
        self.opens = self.open_ns = self.open_cpu_ns = 0


under_way: dict[int, Fetch] = {}
"""Fetches that run at this moment, by the `threading.get_ident()` of their thread."""


class StackSampler(threading.Thread):
    """Looks at one thread of this process until `stop`; a daemon, and silent about errors.

    While the thread is inside a timed fetch, the fetch's own table is added to, with the phase
    `fetch` or `collate`; otherwise this sampler's, under the phase that `phase` names.

    Args:
        phase: names the phase of the watched thread; None means that this moment is left out.
            Called in the sampler's thread.
        ident: `threading.get_ident()` of the watched thread.
        native_id: `threading.get_native_id()` of the watched thread.
        hz: looks per second at first.
        each_tick: called after every look, in the sampler's thread.
        step: number of the step that runs. Looks then count once their step is over: what comes
            after the last step belongs to none.
    """

    def __init__(
        self,
        phase: Callable[[], str | None],
        ident: int,
        native_id: int,
        *,
        hz: float = 20.0,
        each_tick: Callable[[], None] | None = None,
        step: Callable[[], int] | None = None,
    ) -> None:
        super().__init__(name="stepscope-stacks", daemon=True)
        self._phase = phase
        self._ident_watched = ident
        self._state = ThreadState(native_id)
        self._interval_s = 1.0 / hz
        self._each_tick = each_tick
        self._stopping = threading.Event()
        self._process = os.getpid()
        self._sites = Sites()
        self._step = step
        self._of_step, self._pending = -1, Sites()
        self.cpu_ns = 0
        """Processor time that looking has cost."""
        _LIVE.add(self)

    @property
    def samples(self) -> int:
        """Looks counted in `sites()`; those inside timed fetches are not."""
        return self._sites.samples

    def sites(self) -> list[Site]:
        """What was seen so far, the most frequent first; safe from any thread."""
        return self._sites.as_list()

    def run(self) -> None:
        """Look until `stop`."""
        began, due, tick = time.thread_time_ns(), time.monotonic(), 0
        while True:
            tick += 1
            if tick == _EAGER_LOOKS:
                self._interval_s *= _SLOWER
            due += self._interval_s * (0.75 + 0.5 * (tick * _GOLDEN % 1.0))
            if self._stopping.wait(max(0.0, due - time.monotonic())):
                return
            late_s = time.monotonic() - due
            missed = min(_MAX_MISSED, max(0, int(late_s / self._interval_s)))
            due += missed * self._interval_s
            with suppress(Exception):
                self._look(1 + missed, held=_HELD_S < late_s < sys.getswitchinterval())
            with suppress(Exception):
                if self._each_tick is not None:
                    self._each_tick()
            self.cpu_ns = time.thread_time_ns() - began

    def end(self) -> None:
        """Look no more; unlike `stop` it does not wait, and may be called in `each_tick`."""
        self._stopping.set()

    def stop(self) -> None:
        """End the thread and give its files back; harmless when called twice or in a child."""
        if self._process == os.getpid() and self.ident is not None:
            self.end()
            self.join(timeout=5)
            if self.is_alive():  # it may still read its files
                return
            with suppress(Exception):
                self._settle()
        self._state.close()

    def _look(self, weight: int, *, held: bool) -> None:
        fetch = under_way.get(self._ident_watched)
        phase = fetch.stage if fetch is not None else self._phase()
        frame = sys._current_frames().get(self._ident_watched) if phase else None
        if phase is None or frame is None:
            return
        if fetch is not None:
            seen = _seen_fetching(blame.stack(frame), phase)
            del frame  # a frame kept here would keep the user's variables alive
            if seen is not None:
                state = self._state.read()
                if fetch.opening and state in ("running", "lock"):
                    state = "opening"
                fetch.sites.add((phase, *seen, state), weight)
            return
        frames = blame.stack(frame)
        between_steps = any(_code(each) == _BOUNDARY for each in frames)
        place = blame.place(frames)
        exchanges = exchange.within(frames)
        del frame, frames
        if between_steps and not held:
            return
        state = self._state.read()
        if exchanges is not None:
            state = exchange.state(exchanges, state)
        elif held and state in ("running", "lock"):
            state = "held"
        if between_steps:  # the lock was held by what ran before, wherever that was
            place = ("", 0, "")
        self._settle()
        (self._pending if self._step else self._sites).add((phase, *place, None, state), weight)

    def _settle(self) -> None:
        """Count the looks at a step that is over."""
        if self._step is not None and self._step() != self._of_step:
            self._of_step = self._step()
            for key, count in self._pending.counts().items():
                self._sites.add(key, count)
            self._pending.clear()

    def _forget(self) -> None:
        self._sites.clear()
        self._state.close()


def _code(frame: FrameType) -> tuple[str, str]:
    return frame.f_code.co_filename, frame.f_code.co_name


def _seen_fetching(frames: list[FrameType], stage: str) -> tuple[str, int, str, str | None] | None:
    """File, line, function and transform; None when it is at work of ours."""
    frames = _inside_wrapper(frames)
    if stage == "collate":
        frames = _inside_wrapper(frames)
    if not frames or frames[0].f_code.co_filename.startswith(_OWN):
        return None
    name = blame.outermost(frames) if stage == "collate" else blame.transform(frames)
    return (*blame.place(frames), name)


def _inside_wrapper(frames: list[FrameType]) -> list[FrameType]:
    """The frames below the outermost of our own wrappers."""
    files = [frame.f_code.co_filename for frame in frames]
    first = files.index(_FETCHING) if _FETCHING in files else len(files)
    while first < len(files) and files[first] == _FETCHING:
        first += 1
    return frames[first:]


_LIVE: weakref.WeakSet[StackSampler] = weakref.WeakSet()


def _forget_in_child() -> None:
    # A forked child has the objects of its parent, but neither their threads nor their fetches.
    under_way.clear()
    for sampler in list(_LIVE):
        sampler._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
