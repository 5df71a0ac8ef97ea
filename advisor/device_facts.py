"""Facts about devices: what they do, what they hold, what holds them back, what is copied."""

from __future__ import annotations

from collections.abc import Iterable

from stepscope.advisor.device_memory import memory_picture
from stepscope.advisor.device_path import DEVICE_PHASES, device_times
from stepscope.advisor.knowledge import Draft
from stepscope.advisor.measure import Measurement
from stepscope.advisor.samples import mean_of, settled, theil_sen
from stepscope.profiler.format import Device, DeviceMemory, Gpu, Profile

LANE_BYTES_PER_S = {1: 0.25e9, 2: 0.5e9, 3: 0.985e9, 4: 1.969e9, 5: 3.938e9, 6: 7.563e9}
"""One PCI Express lane, each way, after line coding; by generation (PCI-SIG)."""
_LOADED = 0.5
"""A sample counts as under load from this utilisation on: idle devices lower clock and link."""
_MIN_LOADED = 3


def device_facts(facts: Draft, profile: Profile, measurement: Measurement) -> None:
    """All that a live profile tells of its devices."""
    _idle(facts, profile)
    gpus = _used(profile)
    for source in (_clocks, _tenants, _energy):
        source(facts, profile, gpus, measurement.breakdown.step_seconds)
    _link(facts, profile, gpus)
    device = profile.device
    if device is not None:
        _copies(facts, device, profile)
        if device.memory is not None:
            _allocator(facts, device.memory, profile)
    _picture(facts, profile)


def _used(profile: Profile) -> list[Gpu]:
    """Devices that the models are on; where that is not known, all that the program can see."""
    places = {place for model in profile.configuration.models for place in model.devices}
    gpus = [gpu for gpu in profile.environment.gpus if gpu.cuda_index is not None]
    ours = [gpu for gpu in gpus if {f"cuda:{gpu.cuda_index}"} & places]
    return ours or ([] if places else gpus)


def _idle(facts: Draft, profile: Profile) -> None:
    """Expects the steady steps on the device's critical path."""
    if device_times(profile) is None:
        return
    steady = profile.steady
    busy = sum(sum(steady.phases.get(phase, [])) for phase in DEVICE_PHASES)
    facts["gpu.idle_share"] = 1 - busy / max(1, sum(steady.wall_ns))
    if facts.get("gpu.utilisation") is None:
        facts["gpu.utilisation"] = busy / max(1, sum(steady.wall_ns))


def _column(profile: Profile, gpu: Gpu, name: str) -> list[float | None]:
    return profile.samples.columns.get(f"gpu{gpu.index}_{name}", [])


def _under_load(profile: Profile, gpu: Gpu, name: str) -> list[float]:
    """Values of a signal while the device was at work; all where its use was not sampled."""
    values, busy = _column(profile, gpu, name), _column(profile, gpu, "utilisation")
    if not busy:
        return [value for value in values if value is not None]
    pairs = zip(values, busy, strict=False)
    return [value for value, used in pairs if value is not None and (used or 0.0) >= _LOADED]


def clock_share(profile: Profile) -> float | None:
    """Clock under load over the highest the device has; of several devices, the slowest one's."""
    shares = []
    for gpu in _used(profile):
        clock = _under_load(profile, gpu, "sm_clock_mhz")
        if gpu.max_sm_clock_mhz and len(clock) >= _MIN_LOADED:
            shares.append(sum(clock) / len(clock) / gpu.max_sm_clock_mhz)
    return min(shares, default=None)


def _clocks(facts: Draft, profile: Profile, gpus: list[Gpu], step: float) -> None:
    facts["gpu.clock_share"] = clock_share(profile)
    for fact, name in (
        ("gpu.thermal_share", "throttled_thermal_share"),
        ("gpu.power_capped_share", "throttled_power_share"),
    ):
        known = [_under_load(profile, gpu, name) for gpu in gpus]
        shares = [sum(values) / len(values) for values in known if len(values) >= _MIN_LOADED]
        facts[fact] = max(shares, default=None)


def _tenants(facts: Draft, profile: Profile, gpus: list[Gpu], step: float) -> None:
    counts = [mean_of(_column(profile, gpu, "other_processes")) for gpu in gpus]
    facts["gpu.other_processes"] = _most(counts)
    shares = []
    for gpu in gpus:
        held = mean_of(_column(profile, gpu, "other_memory_bytes"))
        if held is not None and gpu.memory_bytes:
            shares.append(held / gpu.memory_bytes)
    facts["gpu.other_memory_share"] = max(shares, default=None)


def _energy(facts: Draft, profile: Profile, gpus: list[Gpu], step: float) -> None:
    """From the counter of the device, or from samples of its power."""
    watts: list[float | None] = []
    seconds = [t / 1e9 for t in profile.samples.time_ns]
    for gpu in gpus:
        counter = [
            (t, joules)
            for t, joules in zip(seconds, _column(profile, gpu, "energy_j"), strict=False)
            if joules is not None
        ]
        if len(counter) >= 2 and counter[-1][0] > counter[0][0]:
            (began, before), (ended, after) = counter[0], counter[-1]
            watts.append((after - before) / (ended - began))
        else:
            watts.append(mean_of(_column(profile, gpu, "power_w")))
    known = [value for value in watts if value is not None]
    facts["gpu.energy_per_step"] = sum(known) * step if known else None


def link_share(profile: Profile) -> float | None:
    """Rate of the link to the host as it ran under load, over what device and slot can do."""
    shares = []
    for gpu in _used(profile):
        now, most = _rate_of(profile, gpu), _link_rate(gpu.max_pcie_generation, gpu.max_pcie_width)
        if now is not None and most is not None:
            shares.append(now / most)
    return min(shares, default=None)


def _link(facts: Draft, profile: Profile, gpus: list[Gpu]) -> None:
    facts["gpu.link_share"] = link_share(profile)
    rates = [rate for gpu in gpus if (rate := _rate_of(profile, gpu)) is not None]
    facts["gpu.link_rate"] = min(rates, default=None)


def _rate_of(profile: Profile, gpu: Gpu) -> float | None:
    generation = max(_under_load(profile, gpu, "pcie_generation"), default=None)
    width = max(_under_load(profile, gpu, "pcie_width"), default=None)
    return _link_rate(generation, width)


def _link_rate(generation: float | None, width: float | None) -> float | None:
    lane = LANE_BYTES_PER_S.get(int(generation)) if generation else None
    return lane * width if lane is not None and width else None


def _copies(facts: Draft, device: Device, profile: Profile) -> None:
    uploads = [c for c in device.copies if c.direction == "HtoD"]
    known = [c for c in uploads if c.memory != "unknown"]
    total = sum(c.bytes or 0 for c in known)
    steps = profile.steady.total
    if not total or not steps:
        return
    facts["copy.upload_bytes"] = total / steps
    pageable = sum(c.bytes or 0 for c in known if c.memory == "pageable")
    facts["copy.pageable_share"] = pageable / total
    calls = sum(c.calls for c in uploads)
    facts["copy.non_blocking_share"] = sum(c.non_blocking or 0 for c in uploads) / max(1, calls)
    readbacks = [c for c in device.copies if c.direction == "DtoH"]
    facts["copy.readback_bytes"] = sum(c.bytes or 0 for c in readbacks) / steps
    spent = sum(profile.steady.phases.get("transfer", []))
    if spent:
        rate = total / spent * 1e9
        facts["copy.upload_rate"] = rate
        link = facts.get("gpu.link_rate")
        if isinstance(link, float):
            facts["copy.link_share"] = min(1.0, rate / link)


def _allocator(facts: Draft, memory: DeviceMemory, profile: Profile) -> None:
    columns = memory.course.columns
    at = [int(step or 0) for step in columns.get("step", [])]
    first = profile.steady.first[0] if profile.steady.first else 0
    steady = [i for i, step in enumerate(at) if step >= first]
    if len(steady) >= 2 and at[steady[-1]] > at[steady[0]]:
        begin, end = steady[0], steady[-1]
        for fact, name in (
            ("memory.retries_per_step", "retries"),
            ("memory.device_allocations_per_step", "device_allocations"),
        ):
            before, after = columns[name][begin], columns[name][end]
            if before is not None and after is not None:
                facts[fact] = (after - before) / (at[end] - at[begin])
    facts["memory.out_of_memory"] = _most(columns.get("ooms", []))
    facts["memory.reserved_ratio"] = memory.peak_reserved_bytes / max(
        1, memory.peak_allocated_bytes
    )
    facts["memory.fragmented_share"] = _fragmented(memory)
    if memory.total_bytes:
        facts["memory.reserved_share"] = memory.peak_reserved_bytes / memory.total_bytes
        if facts.get("gpu.memory_share") is None:  # of a divided device NVML knows only the whole
            facts["gpu.memory_share"] = memory.peak_reserved_bytes / memory.total_bytes
        points = [
            (t / 1e9, float(v))
            for t, v in zip(memory.course.time_ns, columns["allocated_bytes"], strict=True)
            if v is not None
        ]
        if course := settled(points):
            facts["gpu.memory_growth_share"] = theil_sen(course) * 3600 / memory.total_bytes


def _fragmented(memory: DeviceMemory) -> float | None:
    """Largest part of what the allocator holds that lies in split blocks nobody uses."""
    columns = memory.course.columns
    pairs = zip(columns["inactive_split_bytes"], columns["reserved_bytes"], strict=True)
    return max((split / held for split, held in pairs if split is not None and held), default=None)


def _picture(facts: Draft, profile: Profile) -> None:
    picture = memory_picture(profile)
    if picture is None or not picture.peak:
        return
    facts["memory.state_share"] = min(1.0, (picture.gradients + picture.state) / picture.peak)
    if picture.on_device:
        facts["memory.activation_share"] = picture.activations / picture.peak
        facts["memory.batch_room"] = picture.room


def _most(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
