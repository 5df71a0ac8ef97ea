"""What a job of known bottleneck is, and how it is entered into the corpus."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from rank_corpus.network import Link, both_ways

FAST = 1e9
"""Bits per second of a link that nobody has slowed."""
STRAGGLER, COLLECTIVE = "communication.straggler", "communication.collective"
MESSAGES = "communication.messages"


@dataclass(frozen=True)
class Rank:
    """What a program knows of itself."""

    number: int
    world: int
    severity: float
    """1.0 as planted, 0.0 with the cause really removed and all else the same."""


Program = Callable[[Rank], Iterator[None]]
"""Sets up one rank's training loop and yields at the end of every step, for ever."""


@dataclass(frozen=True)
class Case:
    """Some ranks, and what holds them back."""

    name: str
    program: Program
    world: int
    cause: str | None
    """Id of the bottleneck; None: healthy, nothing exact to gain."""
    rank: int | None = None
    """Whose fault it is; None: of no single one."""
    own_causes: tuple[str, ...] = ()
    """What the slow rank may be said to spend its time on."""
    slow: dict[int, Link] = field(default_factory=dict)
    """Links that are slow as long as the cause is there."""
    period: int = 1
    """Steps after which its costs repeat."""

    def links(self, severity: float) -> list[Link]:
        """The link of each rank."""
        fast = both_ways(FAST)
        return [self.slow.get(rank, fast) if severity else fast for rank in range(self.world)]


CASES: dict[str, Case] = {}
"""Every case whose module was imported; `rank_corpus.corpus` imports all of them."""


def straggling(
    world: int, rank: int | None, *own_causes: str, period: int = 1
) -> Callable[[Program], Program]:
    """Enter the decorated program: the others wait for `rank`, or for a different one each time."""
    return _entering(world, STRAGGLER, rank=rank, own_causes=own_causes, period=period)


def slow_links(
    world: int, slow: dict[int, Link], cause: str = COLLECTIVE
) -> Callable[[Program], Program]:
    """Enter the decorated program: it runs over these slow links."""
    rank = next(iter(slow)) if len(slow) == 1 else None
    return _entering(world, cause, rank=rank, slow=slow)


def many_messages(world: int) -> Callable[[Program], Program]:
    """Enter the decorated program: it sends more messages than it needs."""
    return _entering(world, MESSAGES)


def balanced(world: int, slow: dict[int, Link] | None = None) -> Callable[[Program], Program]:
    """Enter the decorated program: there is nothing to gain, over whatever links."""
    return _entering(world, None, slow=slow or {})


def _entering(world: int, cause: str | None, **more: object) -> Callable[[Program], Program]:
    def enter(program: Program) -> Program:
        name = program.__name__
        CASES[name] = Case(name, program, world, cause, **more)  # type: ignore[arg-type]
        return program

    return enter
