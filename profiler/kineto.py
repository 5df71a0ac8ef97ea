"""The operators that torch.profiler has recorded, each with its caller and its own time.

`profile.events()` makes an object of forty fields of each event, which takes 0.1 ms, while the
training waits. What is asked for here is in the events themselves, for a tenth of that: their
accessors are private, so that whatever they do not give is taken from the public list instead.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from torch._C._autograd import DeviceType

USER_SCOPE = 7
"""Of `record_function`: an annotation around operators, no operator itself."""
_LEFT_OUT = frozenset(
    (
        *("[memory]", "[OutOfMemory]", "aten::is_leaf", "aten::output_nr", "aten::_version"),
        *("profiler::_record_function_enter", "profiler::_record_function_enter_new"),
        "profiler::_record_function_exit",
    )
)
"""As PyTorch's own tables leave them out."""
_DEVICES = frozenset(
    getattr(DeviceType, name)
    for name in ("CUDA", "PrivateUse1", "XPU")
    if hasattr(DeviceType, name)
)


class Call:
    """One call of an operator on a thread of the host."""

    __slots__ = (
        *("caller", "end", "ended", "name", "own_device_ns", "own_ns"),
        *("scope", "start", "thread"),
    )

    def __init__(self, name: str, thread: int, scope: int, start: int, end: int) -> None:
        self.name = name
        self.thread = thread
        self.scope = scope
        self.start = start
        """Nanoseconds of the profiler's clock, as `end`."""
        self.end = end
        self.ended = True
        """Whether it did so on its thread and before the recording; else nothing is inside it."""
        self.caller: Call | None = None
        self.own_ns = 0
        """Without the calls inside."""
        self.own_device_ns = 0
        """Of the kernels that it has launched itself."""


def calls(profiler: Any) -> list[Call]:
    """The calls that a `torch.profiler.profile` has recorded, in no order.

    Args:
        profiler: has stopped.
    """
    try:
        return calls_of(profiler.profiler.kineto_results.events())
    except Exception:  # another version of PyTorch may have other names for all of this
        return calls_listed(profiler.events())


def calls_of(events: Iterable[Any]) -> list[Call]:
    """The calls in a list of `_KinetoEvent`.

    Raises:
        AttributeError: one of the accessors is missing.
    """
    made: list[Call] = []
    launchers: dict[int, Call] = {}
    linked: list[tuple[int, Any]] = []
    for event in events:
        name, on_host = event.name(), event.device_type() == DeviceType.CPU
        if name in _LEFT_OUT or (hasattr(event, "is_hidden_event") and event.is_hidden_event()):
            continue
        link = event.linked_correlation_id()
        if not on_host:
            if link > 0 and event.device_type() in _DEVICES:
                linked.append((link, duration_ns(event)))
            continue
        thread, start = event.start_thread_id(), start_ns(event)
        call = Call(name, thread, event.scope(), start, start + duration_ns(event))
        call.ended = not event.is_async() and thread == event.end_thread_id()
        made.append(call)
        if not call.ended:
            continue
        if link > 0:
            linked.append((link, call))
        else:
            launchers[event.correlation_id()] = call
    for link, what in linked:
        launcher = launchers.get(link)
        if launcher is not None and isinstance(what, Call):
            what.thread = launcher.thread  # a call of the device's library, told on another one
        elif launcher is not None:
            launcher.own_device_ns += what
    return _nested(made)


def _nested(made: list[Call]) -> list[Call]:
    """`made` with callers and own times; of two of a name, one all there is in the other, one."""
    threads: dict[int, list[Call]] = defaultdict(list)
    kept: list[Call] = []
    for call in made:
        (threads[call.thread] if call.ended else kept).append(call)
    for of_thread in threads.values():
        of_thread.sort(key=lambda call: (call.start, -call.end))
        inside: dict[int, list[Call]] = {}
        open_: list[Call] = []
        for call in of_thread:
            while open_ and (call.start >= open_[-1].end or call.end > open_[-1].end):
                open_.pop()
            if open_:
                call.caller = open_[-1]
                inside[id(open_[-1])].append(call)
            inside[id(call)] = []
            open_.append(call)
        for call in reversed(of_thread):  # the inner ones first
            children = inside[id(call)]
            while len(children) == 1 and children[0].name == call.name:
                call.own_device_ns = children[0].own_device_ns
                same, children = children[0], inside[id(children[0])]
                same.caller = None
                same.name = ""
            inside[id(call)] = children
            for child in children:
                child.caller = call
            call.own_ns = call.end - call.start - sum(c.end - c.start for c in children)
        kept += [call for call in of_thread if call.name]
    return kept


def calls_listed(events: Iterable[Any]) -> list[Call]:
    """The calls in the public list of `FunctionEvent`."""
    made: dict[int, Call] = {}
    callers: list[tuple[Call, Any]] = []
    for event in events:
        if event.device_type != DeviceType.CPU:
            continue
        span = event.time_range
        call = Call(
            event.name, event.thread, event.scope, round(span.start * 1000), round(span.end * 1000)
        )
        call.ended = not event.is_async
        call.own_ns = round(event.self_cpu_time_total * 1000)
        # torch < 2.4 calls it by the device's name
        tells = hasattr(event, "self_device_time_total")
        on_device = event.self_device_time_total if tells else event.self_cuda_time_total
        call.own_device_ns = round(on_device * 1000)
        made[id(event)] = call
        callers.append((call, event.cpu_parent))
    for call, caller in callers:
        call.caller = made.get(id(caller))
    return list(made.values())


def start_ns(event: Any) -> int:
    """When a `_KinetoEvent` began."""
    # torch < 2.4 tells microseconds
    return int(event.start_ns() if hasattr(event, "start_ns") else event.start_us() * 1000)


def duration_ns(event: Any) -> int:
    """How long a `_KinetoEvent` took."""
    return int(event.duration_ns() if hasattr(event, "duration_ns") else event.duration_us() * 1000)
