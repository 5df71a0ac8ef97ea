"""What torch-tb-profiler 0.4.3, the last release, reads wrong in traces of torch 1.13 and later.

Its parser knows the names of torch 1.12. Since then calls of the device's runtime have another
category, so that kernels find no operator; takings of a batch are annotations, which it drops, so
that data loading is 0 %; kernels of collectives carry the number of another operator than the
one named after the collective, so that communication counts as computing; and annotations are
repeated on the device, which doubles the steps. Each repair undoes one of these. Where a trace
does not tell which operator has launched a kernel, the parser is kept from naming a wrong one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from stepscope.advisor.export.chrome import Event
from stepscope.advisor.traces.columns import Columns, integer
from stepscope.advisor.traces.files import Source as File
from stepscope.advisor.traces.kernels import category
from stepscope.advisor.traces.kinds import KINDS, Kind
from stepscope.advisor.traces.reader import NO_ARGS, Reader
from stepscope.advisor.traces.reader import Event as Seen
from stepscope.advisor.traces.roles import Role, role_of
from stepscope.advisor.traces.steps import Edges, Marks, host_edges

_OPERATOR, _RUNTIME, _UNKNOWN = "cpu_op", "Runtime", "annotation"
_REPEATED = "gpu_user_annotation"
_OF_OLD = "Operator"
_FIRST_ID = 1 << 40
"""Numbers of operators that we add: more than a trace counts to, and exact in JavaScript."""
_FIRST_THREAD = 1 << 30
_NO_THREAD = _FIRST_THREAD - 1
_MOST_DEVICES = 64
_NUMBERS = ("External id", "external id", "correlation")
_COLLECTIVE = re.compile(
    r"(?i)all_?reduce|all_?gather|reduce_?scatter|all_?to_?all|send_?recv|broadcast|reduce"
)
_NAMES = {
    "allreduce": "all_reduce", "allgather": "all_gather", "reducescatter": "reduce_scatter",
    "broadcast": "broadcast", "reduce": "reduce",
    "alltoall": "all_gather", "sendrecv": "all_gather",
}  # fmt: skip
_KNOWN_COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "broadcast", "reduce")
_OWN = frozenset(f"nccl:{name}" for name in _KNOWN_COLLECTIVES)
_AS_OPERATORS = re.compile(r"Optimizer\.|(Distributed)?DataParallel\.forward$")
_LOADER = re.compile(r"enumerate\(DataLoader\)#.*\.__next__$|enumerate\(DataPipe\)#")
_TYPES = {"Float": "float", "Half": "c10::Half", "BFloat16": "c10::BFloat16", "Int": "int",
          "Long": "long int", "Byte": "unsigned char"}  # fmt: skip


class Survey(NamedTuple):
    """What has to be known of a trace before its first event is written."""

    edges: Edges
    origin_us: float
    collectives: dict[int, int]
    """Correlations of kernels of collectives, numbered."""


def survey(path: Path) -> Survey:
    """Look through a trace.

    Raises:
        TraceError: it cannot be read.
    """
    reader, columns = Reader(File(path)), Columns()
    marks = Marks(columns)
    collectives: dict[int, int] = {}
    of_old = False
    try:
        for events in reader.events():
            marks.look(columns.records(events))
            for event in events:
                if type(event) is Seen:
                    of_old |= event.cat == _OF_OLD
                    if _is_collective(event.cat, event.name):
                        correlation = integer((event.args or NO_ARGS).correlation)
                        collectives.setdefault(correlation, len(collectives))
    finally:
        reader.close()
    edges = host_edges(marks)
    return Survey(edges, columns.origin_us or 0.0, {} if of_old else collectives)


@lru_cache(maxsize=1 << 16)
def _is_collective(cat: str, name: str) -> bool:
    return KINDS.get(cat) == Kind.KERNEL and category(name) == "collective"


@lru_cache(maxsize=1 << 16)
def _takes_a_batch(name: str) -> bool:
    return role_of(name, Kind.ANNOTATION) == Role.DATA


class Repairs:
    """Makes a trace readable to that parser; events stay, and some are added.

    Args:
        found: what was seen of the same trace before.
    """

    def __init__(self, found: Survey) -> None:
        self._found = found
        self._threads: dict[str, int] = {}
        self._calls: dict[int, Event] = {}
        """Calls that launch a collective whose kernel has not come yet, by its number."""
        self._kernels: dict[int, Event] = {}
        """Kernels of collectives whose call has not come yet."""
        self._paired: set[int] = set()
        self._main: tuple[Any, Any] | None = None
        """Process and thread that take batches or optimizer steps."""

    def repaired(self, events: list[Event]) -> list[Event]:
        """The events, changed where it is necessary, with those that are added."""
        added = [self._repair(event) for event in events if event.get("ph") == "X"]
        return events + [event for event in added if event is not None]

    def rest(self) -> list[Event]:
        """What can only be added when all events are there."""
        unlaunched = [
            _operator(kernel, kernel, number) | {"tid": _NO_THREAD}
            for number, kernel in self._kernels.items()
        ]
        return unlaunched + list(self._steps())

    def _repair(self, event: Event) -> Event | None:
        if not isinstance(event.get("args"), dict):
            event["args"] = {}
        for key in _NUMBERS:
            if key in event["args"]:
                event["args"][key] = integer(event["args"][key])
        kind = KINDS.get(event["cat"])
        if kind is not None and kind >= Kind.KERNEL:
            return self._work(event)
        if event["cat"] != "Trace":
            event["tid"] = self._thread(event.get("tid"))
        if kind == Kind.RUNTIME:
            return self._call(event)
        if event["cat"] == _REPEATED:
            self._repeated(event)
        elif kind in (Kind.OPERATOR, Kind.ANNOTATION):
            self._host(event, kind)
        return None

    def _host(self, event: Event, kind: Kind) -> None:
        name = event["name"]
        if name in _OWN and self._found.collectives:
            event["cat"] = _UNKNOWN
            return
        takes = _takes_a_batch(name)
        if takes and not _LOADER.match(name):
            event["name"] = f"enumerate(DataLoader)#{name}.__next__"
        if takes or _AS_OPERATORS.match(name):
            event["cat"] = _OPERATOR if kind == Kind.ANNOTATION else event["cat"]
            self._main = self._main or (event.get("pid"), event["tid"])

    def _repeated(self, event: Event) -> None:
        """An annotation as it is repeated on the device: no step, nor an operator."""
        if event["name"].startswith("ProfilerStep#") or event["name"] in _OWN:
            event["cat"] = _UNKNOWN

    def _thread(self, tid: Any) -> Any:
        """A number for a thread: the parser takes nothing else."""
        try:
            int(tid)
        except (TypeError, ValueError, OverflowError):
            return self._threads.setdefault(str(tid), _FIRST_THREAD + len(self._threads))
        return tid

    def _call(self, call: Event) -> Event | None:
        call["cat"] = _RUNTIME
        _forget_wrong_operator(call)
        number = self._found.collectives.get(integer(call["args"].get("correlation")))
        # A graph launches kernels of all kinds with one call.
        if number is None or number in self._paired or "Graph" in call["name"]:
            return None
        _identify(call, number)
        if number not in self._kernels:
            self._calls[number] = call
            return None
        self._paired.add(number)
        return _operator(call, self._kernels.pop(number), number)

    def _work(self, work: Event) -> Event | None:
        args = work["args"]
        work["pid"] = integer(work.get("pid"))
        device = integer(args.get("device", work["pid"]))
        args["device"] = device if 0 <= device < _MOST_DEVICES else 0
        _forget_wrong_operator(work)
        if not _is_collective(work["cat"], work["name"]):
            return None
        number = self._found.collectives.get(integer(args.get("correlation")))
        if number is None:
            return None
        _identify(work, number)
        if number in self._paired:
            return None
        if number not in self._calls:
            self._kernels.setdefault(number, work)
            return None
        self._paired.add(number)
        return _operator(self._calls.pop(number), work, number)

    def _steps(self) -> Iterator[Event]:
        """Steps, where the trace has none of its own."""
        edges = self._found.edges
        if self._main is None or edges.by in ("steps", "whole"):
            return
        pid, tid = self._main
        for i, (begin, end) in enumerate(pairwise(edges.times)):
            yield {
                "ph": "X", "cat": "user_annotation", "name": f"ProfilerStep#{edges.first + i}",
                "pid": pid, "tid": self._thread(tid), "dur": (end - begin) / 1000,
                "ts": self._found.origin_us + begin / 1000, "args": {},
            }  # fmt: skip


def _forget_wrong_operator(event: Event) -> None:
    """In torch 1.13 to 2.0 the number of the operator is that of the call: of some other one."""
    args = event["args"]
    if "External id" in args and args["External id"] == args.get("correlation"):
        args["External id"] = 0


def _identify(event: Event, number: int) -> None:
    """Let an event belong to the operator that we add for a collective."""
    args = event["args"]
    for key in ("external id", "External id"):
        if key in args:
            args[f"original {key}"] = args.pop(key)
    args["External id"] = _FIRST_ID + number


def _operator(around: Event, kernel: Event, number: int) -> Event:
    """An operator of the collective that a kernel is part of, as long as the call that started it.

    The parser knows five collectives; exchanges between pairs go under the name of one of them.
    """
    found = _COLLECTIVE.search(kernel["name"])
    name = _NAMES[found[0].lower().replace("_", "")] if found else _KNOWN_COLLECTIVES[0]
    args: dict[str, Any] = {"External id": _FIRST_ID + number, "added by": "stepscope"}
    size, kind = kernel["args"].get("In msg nelems"), _TYPES.get(str(kernel["args"].get("dtype")))
    if size is not None and kind:
        args |= {"Input Dims": [[integer(size)]], "Input type": [kind]}
    times = {key: around.get(key) for key in ("pid", "tid", "ts", "dur")}
    return {"ph": "X", "cat": _OPERATOR, "name": f"nccl:{name}", **times, "args": args}
