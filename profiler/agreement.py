"""Whether all ranks are about to do the same.

Extra steps on some ranks only would pair their collectives with others of the next step. The
ranks therefore vote through the key-value store that the process group was made with: no
collective, and one answer for all.
"""

from __future__ import annotations

import datetime
import itertools
import os
from typing import Any

import torch

_PATIENCE = datetime.timedelta(seconds=30)
_votes = itertools.count()


def all_ranks_ready(ready: bool, patience: datetime.timedelta = _PATIENCE) -> bool:
    """Whether every rank says that it is `ready`, within `patience`; the same on all of them."""
    distributed = torch.distributed
    if not distributed.is_available() or not distributed.is_initialized():
        return ready and int(os.environ.get("WORLD_SIZE", "1") or 1) == 1
    world, rank = distributed.get_world_size(), distributed.get_rank()
    if world == 1:
        return ready
    try:
        store = distributed.distributed_c10d._get_default_store()
        topic = f"stepscope/vote{next(_votes)}"
        store.set(f"{topic}/{rank}", "yes" if ready else "no")
        verdict = "yes" if _everybody(store, topic, world, patience) else "no"
        # A rank that ran out of patience may differ from one that did not: the first one counts.
        return bool(store.compare_set(f"{topic}/verdict", "", verdict) == b"yes")
    except Exception:  # a store of another kind
        return False


def _everybody(store: Any, topic: str, world: int, patience: datetime.timedelta) -> bool:
    ballots = [f"{topic}/{rank}" for rank in range(world)]
    try:
        store.wait(ballots, patience)
    except Exception:  # its class differs between versions
        return False
    return all(store.get(ballot) == b"yes" for ballot in ballots)
