"""What a reader must know before believing the numbers: how the run ended, noise, gaps."""

from __future__ import annotations

from stepscope.advisor.advice import NotMeasured
from stepscope.advisor.device_path import device_times
from stepscope.advisor.facts import Facts
from stepscope.advisor.wording import share, size
from stepscope.profiler.format import Profile

FEW_STEPS = 30
NOISY = 1.5
BUSY_NEIGHBOURS = 0.25
FOUND_BY = {
    "optimizer": "the end of the first optimizer's step()",
    "backward": "the end of each backward pass",
    "batch": "the wait for each batch of the loader",
}


def notes_of(profile: Profile, facts: Facts) -> list[str]:
    """One sentence per circumstance that limits what can be concluded."""
    notes = []
    run = profile.run
    if run.ended == "running":
        notes.append(
            "Incomplete: the run was still going on, or was killed, when this profile was written; "
            "the last seconds before its end are missing."
        )
    elif run.ended == "exception":
        notes.append(f"The loop ended with {run.exception}; all steps before it are counted.")
    if run.steps_by == "whole":
        notes.append("The trace marks no steps, so that all of it counts as one.")
    if run.steps_by in FOUND_BY:
        notes.append(f"Steps were found by {FOUND_BY[run.steps_by]}.")
    if profile.steady.total < FEW_STEPS:
        notes.append(
            f"Only {profile.steady.total} steps after warm-up: intervals are wide; profile 100."
        )
    if device_times(profile) is not None:
        notes.append(
            "The breakdown is of the device: where it works what it does, where it is idle what "
            "the training thread does meanwhile. Step time and phases over the run are the "
            "training thread's, which runs ahead of the device."
        )
    variation = facts.get("step.variation")
    if isinstance(variation, float) and variation > NOISY:
        notes.append(
            f"Step times vary: the slowest tenth takes at least {variation:.1f} times the median."
        )
    foreign = facts.get("cpu.foreign_cores")
    cores = profile.environment.usable_cores
    if isinstance(foreign, float) and foreign > BUSY_NEIGHBOURS * cores:
        notes.append(
            f"Other programs used {foreign:.1f} of {cores:g} usable cores meanwhile; "
            "on a quiet machine the numbers would differ."
        )
    lost = sum(worker.lost for loader in profile.loaders for worker in loader.workers)
    if lost:
        notes.append(f"{lost} batch records were overwritten before they were read.")
    return notes + profile.problems


def missing_signals(profile: Profile) -> list[NotMeasured]:
    """What this profile could not see, and how to change that."""
    if profile.trace is not None:
        return [
            NotMeasured(
                what="loader workers, processor time and what is switched on",
                reason="a Kineto trace does not record them",
                remedy="record a profile with `with profile(...)` or `advise run`",
            )
        ]
    missing = []
    if profile.window is None:
        missing.append(
            NotMeasured(
                what="operators",
                reason="no torch.profiler window was recorded",
                remedy="run at least 24 steps, with no other torch.profiler active",
            )
        )
    if profile.steady.run_delay_ns is None:
        missing.append(
            NotMeasured(
                what="waiting for a core",
                reason="the kernel offers no /proc/self/task/*/schedstat",
                remedy="run on Linux with scheduler statistics",
            )
        )
    if not profile.loaders:
        missing.append(
            NotMeasured(
                what="inside of the data pipeline",
                reason="no torch DataLoader was iterated inside the context",
                remedy="create the loader's iterator inside `with profile(...)`",
            )
        )
    places = {place for model in profile.configuration.models for place in model.devices}
    if places - {"cpu", "meta"} and device_times(profile) is None:
        missing.append(
            NotMeasured(
                what="when the device works, and what it is idle for",
                reason=f"the model is on {', '.join(sorted(places))}, and too few of its steps "
                "were followed with events of CUDA or ROCm",
                remedy="run at least 20 steps on such a device, or judge a trace of torch.profiler",
            )
        )
    if profile.environment.calibration is None:
        missing.append(
            NotMeasured(
                what="the machine's own speed",
                reason="the run did not reach the end of the context",
                remedy="let the `with profile(...)` block end",
            )
        )
    return missing


def environment_of(profile: Profile) -> dict[str, str]:
    """The machine and the settings in words, for the report."""
    e, c = profile.environment, profile.configuration
    words = {
        "Python": e.python,
        "PyTorch": e.torch + (f", CUDA {e.cuda}" if e.cuda else ""),
        "Platform": e.platform,
    }
    if e.cpu_count is not None:
        words["Processor"] = f"{e.cpu_model or 'unknown'}, {e.cpu_count} logical"
        words["Usable cores"] = f"{e.usable_cores:g}"
    if memory := e.memory_limit_bytes or e.memory_bytes:
        words["Memory"] = size(memory)
    if c.intra_op_threads is not None:
        words["Intra-op threads"] = str(c.intra_op_threads)
    for gpu in e.gpus:
        held = f", {size(gpu.memory_bytes)}" if gpu.memory_bytes else ""
        words[f"GPU {gpu.index}"] = gpu.name + held
    words |= {f"${name}": value for name, value in e.variables.items()}
    if profile.trace is not None:
        return words
    overhead = profile.overhead.background_cpu_ns / max(1, profile.run.wall_ns)
    words["Profiler's own thread"] = f"{share(overhead)} of one core"
    return words
