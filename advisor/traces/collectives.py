"""What a trace tells of a collective: its kind, its size, and the ranks that take part."""

from __future__ import annotations

import re
from typing import NamedTuple

from stepscope.advisor.traces.reader import Args, Number

_BYTES = {
    "double": 8,
    "long": 8,
    "complexfloat": 8,
    "complexdouble": 16,
    "float": 4,
    "int": 4,
    "half": 2,
    "bfloat16": 2,
    "short": 2,
    "byte": 1,
    "char": 1,
    "bool": 1,
}
"""Of an element, by the names of PyTorch's scalar types."""
_RANKS = re.compile(r"\d+")


class Collective(NamedTuple):
    """One kind of collective in one group of ranks, of one size."""

    name: str
    group: str
    members: str
    """Numbers of the ranks as the trace has them; long lists are shortened there."""
    size: int
    """Number of ranks."""
    bytes: int
    """The whole message as nccl-tests counts it: of what goes in and what comes out the larger."""

    @property
    def key(self) -> str:
        """What ranks have in common that hold the same collectives."""
        return f"{self.name} {self.group} {self.members}"

    def ranks(self) -> list[int]:
        """The members, as far as the list is complete."""
        found = [int(rank) for rank in _RANKS.findall(self.members)]
        return found if len(found) == self.size else []


def collective_of(args: Args) -> Collective:
    """From the arguments of a kernel."""
    elements = max(_integer(args.elements_in), _integer(args.elements_out))
    dtype = (args.dtype or "").lower()
    width = 1 if dtype.startswith("float8") else _BYTES.get(dtype, 0)
    return Collective(
        name=args.collective or "",
        group=str(args.group or ""),
        members=args.group_ranks or "",
        size=_integer(args.group_size),
        bytes=elements * width,
    )


def _integer(value: Number) -> int:
    try:
        return max(0, int(value or 0))
    except (ValueError, OverflowError):
        return 0
