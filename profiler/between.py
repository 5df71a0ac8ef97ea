"""The trial of a loop that nobody has marked: between two calls of its loader's `next()`.

Only where the loop is done with a batch when it asks for the next one. A loop that reads ahead is
in the middle of a step then, and its state would be put back to before a step that it has taken.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import dataloader

from stepscope.profiler.probing import Probing


class BetweenBatches:
    """Gives a loop the batches of the trial beside its own.

    Args:
        probing: the trial.
    """

    def __init__(self, probing: Probing) -> None:
        self._probing = probing
        self._streams: weakref.WeakKeyDictionary[Any, Iterator[Any]] = weakref.WeakKeyDictionary()
        self._done = True
        self._refused = False
        self.asking = False
        """Whether the trial itself asks for a batch."""

    def done_with_batch(self) -> None:
        """Note that the next one may be asked for: a backward pass is done, or the epoch over."""
        self._done = True

    def next(self, iterator: Any, fetch: Callable[[Any], Any]) -> Any:
        """What the loop gets: the loader's next batch by `fetch`, or one of the trial's.

        Raises:
            StopIteration: the loader has no more.
        """
        if self._refused:
            return fetch(iterator)
        if not self._done and not self._probing.begun:
            self._refuse()
            return fetch(iterator)
        self._done = False
        # A generator that held the iterator would keep its workers alive when the loop is left.
        stream = self._streams.get(iterator)
        if stream is None:
            stream = self._streams[iterator] = self._probing.watch(weakref.proxy(iterator))
        self.asking = True
        try:
            return next(stream)
        except BaseException:  # whatever comes after it, the stream has ended with it
            self._streams.pop(iterator, None)
            raise
        finally:
            self.asking = False

    def close(self) -> None:
        """Leave what was read ahead to the loop; to be called when nothing is patched any more."""
        for iterator in list(self._streams):
            if self._probing.taken:
                _give_later(weakref.ref(iterator), self._probing.taken)
        self._streams.clear()

    def _refuse(self) -> None:
        self._refused = True
        self._streams.clear()
        self._probing.refuse(
            "it asks for a batch before it is done with the one before, so that nothing can be put "
            "back between the two; use `prof.steps(loader)`"
        )


def _give_later(owner: Callable[[], Any], taken: deque[Any]) -> None:
    """Let the next calls of `next()` on one iterator return what was taken from it."""
    kind = dataloader._BaseDataLoaderIter
    original = kind.__next__

    def next_batch(iterator: Any) -> Any:
        if iterator is owner() and taken:
            return taken.popleft()
        if (not taken or owner() is None) and kind.__next__ is next_batch:
            kind.__next__ = original  # type: ignore[method-assign]
        return original(iterator)

    kind.__next__ = next_batch  # type: ignore[method-assign, assignment]
