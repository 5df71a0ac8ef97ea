"""A recorded trace as the live profiler would have seen it: events where phases change.

A stream runs in order, so an event set at some moment is reached when all that was launched before
is done, or right away. Phases of the training thread are read from the trace's own marks.
"""

from __future__ import annotations

import gzip
import json
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from stepscope.profiler.device.division import Moment, divide
from stepscope.profiler.format import Device, DeviceTimes, Operator, Profile, Steps, Window

Event = dict[str, Any]
Span = tuple[float, float, str]
_LATENCY_US = 6.0
_SAME_US = 10.0
_BACKWARD_GAP_US = 2000.0
_RUNTIME = ("cuda_runtime", "Runtime", "cuda_driver")
_WORK = ("kernel", "gpu_memcpy", "gpu_memset", "Kernel", "Memcpy", "Memset")
_OPERATOR = ("cpu_op", "Operator")
_ANNOTATED = ("user_annotation", *_OPERATOR)


class _Work(NamedTuple):
    launched: float
    start: float
    end: float
    stream: int
    upload: bool


class Replay:
    """The training thread and the device of one trace; times in microseconds.

    Args:
        path: a packed trace with `ProfilerStep` marks.
    """

    def __init__(self, path: Path) -> None:
        with gzip.open(path) as file:
            events: list[Event] = json.load(file)["traceEvents"]
        self._events = [event for event in events if event.get("ph") == "X"]
        self._steps = sorted(
            (
                e
                for e in self._events
                if e["name"].startswith("ProfilerStep") and e.get("cat") in _ANNOTATED
            ),
            key=lambda event: float(event["ts"]),
        )
        self._thread = self._steps[0]["tid"]
        self._work = sorted(self._launched_work())
        self._spans = sorted([*self._host_spans(), *self._backward_spans()])
        moments = list(self._moments())
        edges = [event["ts"] for event in self._steps[1:]]
        cuts = [bisect_left([m.host_ns for m in moments], round(ts * 1000)) for ts in edges]
        begins, ends = [0, *cuts], [*cuts, len(moments) - 1]
        self.moments = [moments[a : b + 1] for a, b in zip(begins, ends, strict=True) if b > a]
        """Of each step, from the one in which it begins to the one in which the next does."""

    def into(self, profile: Profile) -> Profile:
        """`profile`, made from the same trace, as if it had been recorded live."""
        divided = [divide(moments) for moments in self.moments]
        walls = [sum(spent.values()) for spent in divided]
        names = {name for spent in divided for name in spent}
        n = len(divided)
        steps = Steps(
            first=list(range(n)),
            count=[1] * n,
            wall_ns=walls,
            wall_max_ns=walls,
            phases={name: [spent.get(name, 0) for spent in divided] for name in names},
        )
        profile.trace = None
        profile.steady = Steps(
            first=list(range(n)),
            count=[1] * n,
            wall_ns=walls,
            wall_max_ns=walls,
            phases={"python": walls},
        )
        profile.device = Device(times=DeviceTimes(device=0, steps=steps))
        profile.window = Window(
            first_step=0, steps=n, wall_ns=sum(walls), phases={}, operators=self._operators()
        )
        return profile

    def _launched_work(self) -> Iterator[_Work]:
        calls = {
            event["args"]["correlation"]: event
            for event in self._events
            if event.get("cat") in _RUNTIME and "correlation" in event.get("args", {})
        }
        for event in self._events:
            call = calls.get(event.get("args", {}).get("correlation"))
            if event.get("cat") in _WORK and call is not None:
                start, end = event["ts"], event["ts"] + event["dur"]
                upload = "HtoD" in event["name"]
                yield _Work(call["ts"], start, end, event["tid"], upload)

    def _host_spans(self) -> Iterator[Span]:
        uploads = [work.launched for work in self._work if work.upload]
        for event in self._events:
            begin, name = event["ts"], event["name"]
            end = begin + event["dur"]
            if event["tid"] != self._thread:
                continue
            if name.startswith("enumerate(DataLoader)"):
                yield begin, end, "data_wait"
            elif name.startswith("Optimizer."):
                yield begin, end, "optimizer"
            elif name == "aten::item" or ("Synchronize" in name and event.get("cat") in _RUNTIME):
                yield begin, end, "sync"
            elif name == "aten::to" and bisect_left(uploads, begin) < bisect_left(uploads, end):
                yield begin, end, "transfer"

    def _backward_spans(self) -> Iterator[Span]:
        nodes = sorted(
            (event["ts"], event["ts"] + event["dur"])
            for event in self._events
            if event["tid"] != self._thread and "autograd::engine" in event["name"]
        )
        begin = end = None
        for start, stop in nodes:
            if end is None or begin is None or start > end + _BACKWARD_GAP_US:
                if begin is not None and end is not None:
                    yield begin, end, "backward"
                begin, end = start, stop
            end = max(end, stop)
        if begin is not None and end is not None:
            yield begin, end, "backward"

    def _moments(self) -> Iterator[Moment]:
        """Marks where the phase changes and where steps begin."""
        first = self._steps[0]["ts"]
        last = self._steps[-1]["ts"] + self._steps[-1]["dur"]
        inner = (t for begin, end, _ in self._spans for t in (begin, end) if first < t < last)
        begins = {step["ts"] for step in self._steps}
        busiest = Counter[int]()
        for work in self._work:
            busiest[work.stream] += round(work.end - work.start)
        stream = [work for work in self._work if work.stream == busiest.most_common(1)[0][0]]
        launched = [work.launched for work in stream]
        reached = 0.0
        pending: Moment | None = None
        for time in sorted({first, last, *begins, *inner}):
            phase = self._phase(time)
            close = pending is not None and time - pending.host_ns / 1000 < _SAME_US
            if pending is not None and close and time not in begins:
                pending = pending._replace(phase=phase)
                continue
            if pending is not None:
                yield pending
            done = bisect_left(launched, time)
            reached = max(reached, time + _LATENCY_US, stream[done - 1].end if done else 0.0)
            pending = Moment(round(time * 1000), round(reached * 1000), phase)
        if pending is not None:
            yield pending

    def _phase(self, time: float) -> str:
        """The innermost span around a moment; what has no name is called forward."""
        around = [phase for begin, end, phase in self._spans if begin <= time < end]
        return around[-1] if around else "forward"

    def _operators(self) -> list[Operator]:
        """Time of kernels by the phase that launched them, as the window knows it."""
        moments = [moment for step in self.moments for moment in step]
        times = [moment.host_ns / 1000 for moment in moments]
        spent: Counter[str] = Counter()
        for work in self._work:
            place = bisect_right(times, work.launched) - 1
            if place >= 0:
                spent[moments[place].phase] += round((work.end - work.start) * 1000)
        return [
            Operator(name="aten::mm", calls=1, self_cpu_ns=0, self_device_ns=ns, phase=phase)
            for phase, ns in spent.items()
        ]
