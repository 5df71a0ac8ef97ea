"""Is what is said of a device right? One command on a machine with one, in under eight minutes.

    python bench/gpu_check.py --out FOLDER

Runs six loops with a planted cause (GEMM, bandwidth, launch, copy, sync, data): each is profiled
and judged, and timed with and without its cause, in turn. Of the same loops the device's idle time
is compared with a trace of torch.profiler, and of a step of ten milliseconds the cost of following
it is measured. `results.json`, the profiles and the traces in FOLDER are fixtures as they are.

Without a device `--smoke` runs the loops on the processor, small, to see that nothing breaks.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu_loops import LOOPS, ON_DEVICE, SMOKE, Loop, Size, same

from stepscope.advisor.advise import advise
from stepscope.advisor.device_memory import memory_picture
from stepscope.advisor.device_path import DEVICE_PHASES, on_device_path
from stepscope.advisor.facts import facts_of
from stepscope.advisor.measure import measure
from stepscope.advisor.rule_files import load_knowledge
from stepscope.advisor.traces.profile import load_trace
from stepscope.profiler import profile
from stepscope.profiler.format import Profile, Steps
from stepscope.profiler.storage import load

GOALS = {"idle": 0.02, "overhead": 0.005, "gain": 0.15, "room": 0.10}
WARMUP, STEPS = 20, 120
"""Of a profiled run."""
FIRST_TRACED, TRACED = 60, 30
"""Steps that are also recorded with torch.profiler, in a run of their own."""
TURNS, TURN_STEPS = 4, 40


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


# One loop -----------------------------------------------------------------------------------------


def recorded(name: str, path: Path, device: str, size: Size) -> Profile:
    """A profile of the planted loop."""
    loop = Loop(name, True, device, size)
    with profile(path, warmup_steps=WARMUP, max_steps=STEPS) as prof:
        for batch in prof.steps(loop.batches):
            loop.step(batch)
            if not prof.recording:
                break
    return load(path)


def traced(name: str, out: Path, device: str, size: Size) -> tuple[Profile, Path]:
    """The same loop anew, with some of its steps under torch.profiler as well."""
    loop, path = Loop(name, True, device, size), out / f"{name}.traced.profile.json"
    tracer: Any = None
    with profile(path, warmup_steps=WARMUP) as prof:
        for number, batch in enumerate(prof.steps(loop.batches)):
            if number == FIRST_TRACED - 1:
                tracer = torch.profiler.profile()  # made late: ours keeps away from another one
                tracer.start()
            loop.step(batch)
            if tracer is not None:
                tracer.step()
            if number == FIRST_TRACED + TRACED:
                break
    tracer.stop()
    plain, packed = out / f"{name}.pt.trace.json", out / f"{name}.pt.trace.json.gz"
    tracer.export_chrome_trace(str(plain))
    with plain.open("rb") as source, gzip.open(packed, "wb") as target:
        shutil.copyfileobj(source, target)
    plain.unlink()
    return load(path), packed


def gained(name: str, device: str, size: Size) -> float:
    """Measured speedup of the loop without its cause, both in turn."""
    sides = {planted: Loop(name, planted, device, size) for planted in (True, False)}
    batches = {planted: iter(loop.batches) for planted, loop in sides.items()}
    taken: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(TURNS + 1):
        for planted in (True, False) if turn % 2 else (False, True):
            _wait(device)
            begin = time.perf_counter()
            for _ in range(TURN_STEPS):
                sides[planted].step(next(batches[planted]))
            _wait(device)
            if turn:
                taken[planted].append(time.perf_counter() - begin)
    return statistics.median(taken[True]) / statistics.median(taken[False])


def idle_error(found: Profile, trace: Path) -> dict[str, float]:
    """Idle share of the traced steps: as followed live, and as the trace has it."""
    truth = load_trace(trace)
    assert truth.trace is not None
    wall = sum(truth.steady.wall_ns)
    busy = (truth.trace.busy_ns or 0) / wall
    device = found.device
    if device is None or device.times is None:
        return {"error": 1.0}
    device.times.steps, found.steady = _some(device.times.steps), _some(found.steady)
    path = on_device_path(found)
    live_wall = max(1, sum(path.steady.wall_ns))
    live = sum(sum(path.steady.phases.get(phase, [])) for phase in DEVICE_PHASES) / live_wall
    waited = sum(path.steady.phases.get("data_wait", [])) / live_wall
    true_wait = sum(truth.steady.phases.get("data_wait", [])) / wall
    return {
        "idle_live": 1 - live,
        "idle_trace": 1 - busy,
        "data_wait_live": waited,
        "data_wait_trace": true_wait,
        "error": abs(live - busy),
    }


def _some(steps: Steps) -> Steps:
    """The rows of the steps that were traced from begin to end."""
    kept = [i for i, n in enumerate(steps.first) if FIRST_TRACED < n < FIRST_TRACED + TRACED]
    return Steps(
        first=[steps.first[i] for i in kept],
        count=[steps.count[i] for i in kept],
        wall_ns=[steps.wall_ns[i] for i in kept],
        wall_max_ns=[steps.wall_max_ns[i] for i in kept],
        phases={name: [column[i] for i in kept] for name, column in steps.phases.items()},
    )


def checked(name: str, out: Path, device: str, size: Size) -> dict[str, Any]:
    """Everything about one loop."""
    found = recorded(name, out / f"{name}.profile.json", device, size)
    advice = advise(found, load_knowledge([]))
    path = on_device_path(found)
    facts = facts_of(path, measure(path))
    predicted = 1 + max(float(facts.get(f"gain.{cause}", 0.0)) for cause in LOOPS[name])
    measured = gained(name, device, size)
    result: dict[str, Any] = {
        "verdict": advice.verdict.cause,
        "right": advice.verdict.cause in LOOPS[name],
        "predicted": predicted,
        "measured": measured,
        "error": abs(predicted / measured - 1),
        "shares": {line.cause: line.share for line in advice.breakdown if line.share > 0.005},
        "problems": found.problems,
        "facts": {n: v for n, v in facts.items() if n.startswith(("gpu.", "copy.", "memory."))},
    }
    if found.device is not None and found.device.times is not None:
        times = found.device.times
        result["events_per_step"] = times.events / max(1, times.steps.total)
        result["own_share"] = times.own_ns / max(1, sum(times.steps.wall_ns))
    if device == "cuda":
        result["idle"] = idle_error(*traced(name, out, device, size))
    return result


# What following costs, and memory -----------------------------------------------------------------


def overhead(out: Path, device: str, size: Size) -> dict[str, float]:
    """Part by which a step gets longer while it is recorded; recorded and bare steps in turn."""
    loop = Loop("gemm", True, device, size)
    batch = next(iter(same(torch.ones(size.batch, size.width, device=device))))

    def timed(steps: Callable[[], object]) -> float:
        _wait(device)
        begin = time.perf_counter()
        steps()
        _wait(device)
        return time.perf_counter() - begin

    def bare() -> None:
        for _ in range(TURN_STEPS):
            loop.step(batch)

    ratios, per_step = [], []
    for turn in range(3 * TURNS):
        options: dict[str, Any] = {"warmup_steps": 0, "operator_steps": 0}
        order = (True, False) if turn % 2 else (False, True)
        spent: dict[bool, float] = {}
        for watched in order:
            if not watched:
                spent[False] = timed(bare)
                continue
            with profile(out / "overhead.profile.json", **options) as prof:
                for _ in range(10):
                    loop.step(batch)
                    prof.step()

                def steps(prof: profile = prof) -> None:
                    for _ in range(TURN_STEPS):
                        loop.step(batch)
                        prof.step()

                spent[True] = timed(steps)
        ratios.append(spent[True] / spent[False])
        per_step.append(spent[False] / TURN_STEPS)
    return {"step_s": statistics.median(per_step), "added": statistics.median(ratios) - 1}


def prices() -> dict[str, float]:
    """Microseconds that the calls take which the profiler makes."""
    one, other = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    tensor = torch.ones(1000).pin_memory()
    one.record()
    other.record()
    torch.cuda.synchronize()
    calls: dict[str, Callable[[], object]] = {
        "event.record": lambda: one.record(torch.cuda.current_stream(0)),
        "event.query": other.query,
        "event.elapsed_time": lambda: one.elapsed_time(other),
        "is_current_stream_capturing": torch.cuda.is_current_stream_capturing,
        "memory_stats_as_nested_dict": lambda: torch.cuda.memory_stats_as_nested_dict(0),
        "is_pinned": tensor.is_pinned,
    }
    found = {}
    for name in ("event.query", "event.elapsed_time", *calls):
        begin = time.perf_counter()
        for _ in range(1000):
            calls[name]()
        found[name] = (time.perf_counter() - begin) * 1e3
        torch.cuda.synchronize()
    return found


def room(out: Path, device: str, size: Size) -> dict[str, float]:
    """Peak memory of a batch twice as large: by the formula, and as it is."""
    path = out / "room.profile.json"
    with profile(path, operator_steps=0, warmup_steps=8) as prof:
        loop = Loop("gemm", True, device, size._replace(batch=8 * size.batch))
        for _, batch in zip(range(40), prof.steps(loop.batches), strict=False):
            loop.step(batch)
    picture = memory_picture(load(path))
    assert picture is not None
    predicted = picture.peak + picture.activations
    del loop
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    loop = Loop("gemm", True, device, size._replace(batch=16 * size.batch))
    for _, batch in zip(range(5), loop.batches, strict=False):
        loop.step(batch)
    measured = float(torch.cuda.max_memory_allocated())
    return {
        "predicted_bytes": predicted,
        "measured_bytes": measured,
        "error": abs(predicted / measured - 1),
        "room": picture.room or 0.0,
    }


# All of it ----------------------------------------------------------------------------------------


def met(results: dict[str, Any]) -> dict[str, bool]:
    """Which goals are reached."""
    loops = results["loops"]
    goals = {f"{name}: cause": each["right"] for name, each in loops.items()}
    goals |= {f"{name}: gain": each["error"] <= GOALS["gain"] for name, each in loops.items()}
    for name, each in loops.items():
        if "idle" in each:
            goals[f"{name}: idle"] = each["idle"]["error"] <= GOALS["idle"]
    if "overhead" in results:
        goals["overhead"] = results["overhead"]["added"] <= GOALS["overhead"]
        goals["room"] = results["room"]["error"] <= GOALS["room"]
    return goals


def main() -> int:
    """Run everything; exit status 1 if a goal is missed, 2 without a device."""
    parser = argparse.ArgumentParser(description="Check what is said of a device.")
    parser.add_argument("--out", type=Path, default=Path("gpu_check"))
    parser.add_argument("--smoke", action="store_true", help="on the processor, small")
    options = parser.parse_args()
    if not options.smoke and not torch.cuda.is_available():
        print("error: PyTorch sees no CUDA device here; --smoke runs without", file=sys.stderr)
        return 2
    device, size = ("cpu", SMOKE) if options.smoke else ("cuda", ON_DEVICE)
    options.out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    results: dict[str, Any] = {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(0) if device == "cuda" else "processor",
        "loops": {},
    }
    for name in LOOPS:
        results["loops"][name] = checked(name, options.out, device, size)
        print(name, json.dumps(results["loops"][name], default=str)[:400], flush=True)
        if device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
    if device == "cuda":
        results["overhead"] = overhead(options.out, device, size)
        results["prices_us"] = prices()
        results["room"] = room(options.out, device, size)
    results["goals"] = met(results)
    results["seconds"] = time.perf_counter() - began
    text = json.dumps(results, indent=2, default=str)
    (options.out / "results.json").write_text(text + "\n", encoding="utf-8")
    missed = [name for name, reached in results["goals"].items() if not reached]
    print(f"{len(results['goals']) - len(missed)} of {len(results['goals'])} goals reached;")
    print("missed:", ", ".join(missed) or "none")
    return 1 if missed and not options.smoke else 0


if __name__ == "__main__":
    sys.exit(main())
