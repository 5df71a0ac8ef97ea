"""What a loop of known bottleneck is, and how it is entered into the corpus."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

Program = Callable[[float], Iterator[None]]
"""Sets up a training loop and yields at the end of every step, for ever.

Its parameter is the severity: 1.0 as planted, 0.0 with the cause really removed and all else the
same; values between scale it. A healthy loop may take away at 0.0 what one could suspect (its
data), to show that nothing is to gain. Closing the generator ends its processes and threads.
"""

LOOPS: dict[str, Loop] = {}
"""Every loop whose module was imported; `ground_truth.corpus` imports all of them."""


@dataclass(frozen=True)
class Loop:
    """A training loop of which we know what holds it back, because we put it there."""

    name: str
    cause: str | None
    """Id of `stepscope.advisor.causes.CAUSES`; None: healthy, no exact change gains 10 %."""
    program: Program
    accepted: tuple[str, ...] = ()
    """Further causes that name the same planted thing correctly."""
    held_out: bool = False
    """Kept for judging: written by somebody else, never looked at while tuning the model."""
    neighbours: int = 0
    """Foreign processes that it starts on purpose to keep a core busy each: no noise."""
    period: int = 1
    """Steps after which its costs repeat (an epoch, a checkpoint): only whole periods compare."""

    @property
    def kind(self) -> Literal["planted", "healthy"]:
        """Whether something was planted."""
        return "planted" if self.cause else "healthy"


def planted(
    cause: str,
    *,
    accepted: tuple[str, ...] = (),
    held_out: bool = False,
    neighbours: int = 0,
    period: int = 1,
) -> Callable[[Program], Program]:
    """Enter the decorated generator function as a loop that `cause` holds back."""

    def enter(program: Program) -> Program:
        return _register(
            Loop(program.__name__, cause, program, accepted, held_out, neighbours, period)
        )

    return enter


def healthy(*, held_out: bool = False, period: int = 1) -> Callable[[Program], Program]:
    """Enter the decorated generator function as a loop with nothing exact to gain."""

    def enter(program: Program) -> Program:
        return _register(Loop(program.__name__, None, program, held_out=held_out, period=period))

    return enter


def _register(loop: Loop) -> Program:
    known = LOOPS.get(loop.name)
    if known is not None and known.program.__module__ != loop.program.__module__:
        raise ValueError(f"two loops are called {loop.name}")
    LOOPS[loop.name] = loop
    return loop.program
