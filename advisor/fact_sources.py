"""How to get a fact that was not measured: which run, machine or setting would show it."""

from __future__ import annotations

_END = "let the `with profile(...)` block end: the machine is timed after the loop"
_LOADER = "iterate a torch DataLoader inside the `with profile(...)` block"
_RANKS = "profile a run of several processes (torchrun) with DistributedDataParallel"
_COLLECTIVES = "call torch.distributed inside the `with profile(...)` block"
_SIZES = f"{_COLLECTIVES}, with processor tensors of three sizes or more"
_WINDOW = "run at least 24 steps, with no other torch.profiler active"
_DEVICE = "profile on a machine with a CUDA device and its driver's NVML"
_ALLOCATOR = "profile a run that computes on a CUDA device"
_COPYING = "copy batches to a CUDA device inside the `with profile(...)` block"
_SCHEDULER = "profile on Linux with scheduler statistics (/proc/self/task/*/schedstat)"
_PRESSURE = "profile on Linux with pressure information (/proc/pressure)"
_IO = "profile on Linux, where /proc/self/task/*/io counts what a thread reads"
_LONGER = "run longer: samples are taken once a second, and trends need half a minute of them"
_STEPS = "run at least 30 steps after warm-up"
_STACKS = "run for a few seconds at least, so that the stack sampler sees the loop"
_CONNECTIONS = "profile all ranks on Linux, where they exchange over TCP (gloo, or NCCL's sockets)"
_OPTIMIZER = "step a torch.optim optimizer inside the `with profile(...)` block"
_TRACE = "record a trace with torch.profiler on a CUDA device, and judge that too"
_MODEL = "call a torch.nn.Module inside the `with profile(...)` block"

_BY_NAME = {
    "attention.fused": _WINDOW,
    "checkpoint.by_hand_share": _STACKS,
    "checkpoint.every": "profile steps among which a checkpoint is written",
    "checkpoint.seconds": "profile steps among which a checkpoint is written",
    **dict.fromkeys(
        ("comm.calls_per_step", "comm.call_bytes", "comm.pickled_share", "comm.barrier_share"),
        _COLLECTIVES,
    ),
    **dict.fromkeys(("comm.latency_seconds", "comm.link_bandwidth"), _SIZES),
    **dict.fromkeys(
        (
            "compilation.again",
            "compilation.again_places",
            "compilation.break_places",
            "compilation.graph_breaks",
            "compilation.limit_hits",
            "compilation.limit_places",
        ),
        "use torch.compile inside the `with profile(...)` block",
    ),
    **dict.fromkeys(
        (
            "ranks.link_bandwidth",
            "ranks.slow_link",
            "ranks.slow_links",
            "ranks.usual_link_bandwidth",
        ),
        _CONNECTIONS,
    ),
    "compute.optimizer": _OPTIMIZER,
    "cpu.foreign_cores": _LONGER,
    "cpu.main_delay_share": _SCHEDULER,
    "cpu.pressure_share": _PRESSURE,
    "cpu.spare_cores": _LONGER,
    "cpu.throttled_share": "profile on Linux, in a container with a processor quota",
    "data_loading.host_to_device": _DEVICE,
    "env.omp_num_threads": "set OMP_NUM_THREADS; unset, PyTorch uses every core",
    "fetch.bytes_per_read": _IO,
    "fetch.copied_bytes": "use loader workers: num_workers=1 or more",
    "fetch.grown_bytes": "use loader workers: num_workers=1 or more",
    "fetch.helper_cpu_share": "use loader workers: num_workers=1 or more",
    "fetch.read_amplification": _IO,
    "fetch.read_bytes": _IO,
    "fetch.run_delay_share": _SCHEDULER,
    "fetch.storage_bytes": _IO,
    "fetch.storage_share": _IO,
    "gpu.count": _MODEL,
    "gpu.kernel_seconds": _TRACE,
    "gpu.kernels_per_step": _TRACE,
    "gpu.launches_per_second": _TRACE,
    "gpu.layout_share": _TRACE,
    "gpu.launch_delay_seconds": _TRACE,
    "gpu.queue_length": _TRACE,
    "gpu.sm_efficiency": _TRACE,
    "gpu.filled_share": _TRACE,
    "gpu.occupancy": _TRACE,
    "gpu.tensor_core_share": _TRACE,
    "validation.gradients": "profile steps among which the model is validated",
    "host.locking_threads_cores": _LONGER,
    "host.unlocked_threads_cores": _LONGER,
    "loader.any_order_gain": "use loader workers: num_workers=1 or more",
    "loader.deeper_queue_gain": "use loader workers: num_workers=1 or more",
    "loader.item_operators": _END,
    "loader.utilisation": "use loader workers: num_workers=1 or more",
    "loader.worker_imbalance": "use two loader workers or more",
    "logging.by_hand_share": _STACKS,
    "memory.activation_share": _ALLOCATOR,
    "memory.bandwidth": _WINDOW,
    "memory.batch_room": _ALLOCATOR,
    "memory.device_allocations_per_step": _ALLOCATOR,
    "memory.fragmented_share": _ALLOCATOR,
    "memory.out_of_memory": _ALLOCATOR,
    "memory.reserved_ratio": _ALLOCATOR,
    "memory.reserved_share": _ALLOCATOR,
    "memory.retries_per_step": _ALLOCATOR,
    "memory.state_share": _OPTIMIZER,
    "memory.capacity": _DEVICE,
    "model.sync_batch_norms": _MODEL,
    "optimizer.fused_gain": f"{_OPTIMIZER}, and {_END}",
    "compute.arithmetic": _WINDOW,
    "compute.launch": _WINDOW,
    "run.warmup_share": _STEPS,
    "step.drift": _STEPS,
    "step.excess_share": _STEPS,
    "step.micro_batches": _OPTIMIZER,
    "step.variation": _STEPS,
    "storage.early_reads": _LONGER,
    "storage.own_share": f"{_IO}; {_LONGER}",
    "storage.pressure_share": _PRESSURE,
    "torch.autocast_gain": _END,
    "validation.every": "profile steps among which the model is validated",
}
_BY_GROUP = {
    "checkpoint": _STEPS,
    "comm": _RANKS,
    "communication": _RANKS,
    "compilation": _STEPS,
    "compute": _WINDOW,
    "copy": _COPYING,
    "cpu": _LONGER,
    "cpu_preprocessing": _LOADER,
    "data": _STEPS,
    "data_loading": _LOADER,
    "env": "record the profile anew: this one says nothing of the environment's variables",
    "fetch": _LOADER,
    "gc": _STEPS,
    "gpu": _DEVICE,
    "host": _STEPS,
    "loader": _LOADER,
    "logging": _STEPS,
    "machine": _END,
    "memory": _LONGER,
    "model": _MODEL,
    "operators": _WINDOW,
    "optimizer": _OPTIMIZER,
    "probe": f"{_LOADER}, and {_END.partition(':')[0]}: loader and model are then tried alone",
    "ranks": "give `advise` the profiles or traces of all ranks: a folder of them",
    "run": _STEPS,
    "step": _STEPS,
    "storage": _LONGER,
    "sync": _STEPS,
    "torch": _STEPS,
    "validation": _STEPS,
}


def how_to_get(name: str) -> str:
    """What to do so that fact `name` is there the next time."""
    bare = name.removeprefix("share.").removeprefix("gain.")
    return _BY_NAME.get(bare) or _BY_GROUP[bare.partition(".")[0]]
