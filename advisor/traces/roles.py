"""What the host was doing, by the names of annotations, operators and runtime calls.

A new marker is a row of `ROLES`; the first pattern that is found in a name decides.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Final

from stepscope.advisor.traces.kinds import Kind


class Role(IntEnum):
    """Roles of names; `PLAIN` is work like any other."""

    PLAIN = 0
    STEP = 1
    DATA = 2
    """Taking the next batch."""
    OPTIMIZER = 3
    BACKWARD = 4
    COLLECTIVE = 5
    SYNC = 6
    """A call that returns only when the device has got so far."""
    ALLOCATION = 7
    """A call that stops the device to get or give back memory."""
    LAUNCH = 8


_ANNOTATED: Final = frozenset({Kind.OPERATOR, Kind.ANNOTATION})
ROLES: Final = tuple(
    (role, kinds, re.compile(pattern))
    for role, kinds, pattern in (
        (Role.STEP, _ANNOTATED, r"^ProfilerStep"),
        (
            Role.DATA,
            _ANNOTATED,
            r"^enumerate\(DataLoader\)|^enumerate\(DataPipe\)|(?i:data_?load|next_batch)"
            r"|(?i:wait_for_(training_)?batch)",
        ),
        (Role.OPTIMIZER, _ANNOTATED, r"^Optimizer\.|(?i:^#* ?optimizer ?#*$)"),
        (Role.BACKWARD, _ANNOTATED, r"^autograd::engine::evaluate_function|^## ?backward"),
        (
            Role.COLLECTIVE,
            _ANNOTATED,
            r"^(nccl|gloo|mpi|ucc|xccl|hccl):|^c10d::|^record_param_comms",
        ),
        (
            Role.SYNC,
            frozenset({Kind.RUNTIME}),
            r"Synchronize|^cudaMemcpy$|^hipMemcpy$|hipMemcpyWithStream|cuMemcpy(Dto|Hto)\w$|StreamWaitValue",
        ),
        (
            Role.ALLOCATION,
            frozenset({Kind.RUNTIME}),
            r"^(cuda|hip)(Malloc|Free|HostAlloc|FreeHost|MallocHost)$|^cuMem(Create|Release|Map|Unmap)$",
        ),
        (
            Role.LAUNCH,
            frozenset({Kind.RUNTIME}),
            r"Launch|Memcpy|Memset|runFunction",
        ),
    )
)


def role_of(name: str, kind: int) -> Role:
    """What an event of this name and kind stands for."""
    for role, kinds, pattern in ROLES:
        if kind in kinds and pattern.search(name):
            return role
    return Role.PLAIN
