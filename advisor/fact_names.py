"""Every fact that rules may ask for: its unit and what it means.

`share.<cause>` and `gain.<cause>` exist for every cause of the bottleneck tree; the rest is
listed here. A fact that was not measured is absent: it is never zero.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from stepscope.advisor.causes import CAUSES

Unit = Literal[
    "share", "s", "bytes", "bytes/s", "count", "cores", "ratio", "flag", "text",
    "FLOP", "FLOP/s", "FLOP/byte", "J",
]  # fmt: skip


class FactName(NamedTuple):
    """Unit and meaning of one fact."""

    unit: Unit
    meaning: str


FACTS: dict[str, FactName] = {
    "run.steps": FactName("count", "training steps recorded, warm-up included"),
    "run.world_size": FactName("count", "processes that train together"),
    "run.warmup_share": FactName("share", "part of the whole run that went into warm-up steps"),
    "step.seconds": FactName("s", "mean wall time of a steady step"),
    "step.variation": FactName("ratio", "90th percentile of step time over the median"),
    "data.wait_share": FactName("share", "part of the step the training thread waits for a batch"),
    "loader.num_workers": FactName("count", "worker processes of the training loader"),
    "loader.best_workers": FactName("count", "worker count at which the model predicts the best"),
    "loader.prefetch_factor": FactName("count", "batches each worker keeps ready"),
    "loader.persistent_workers": FactName("flag", "workers survive the end of an epoch"),
    "loader.pin_memory": FactName("flag", "batches are copied to page-locked memory"),
    "loader.in_order": FactName("flag", "batches are handed over in the order they were asked for"),
    "loader.start_method": FactName("text", "fork, spawn or forkserver"),
    "loader.kind": FactName("text", "map or iterable"),
    "loader.collate_fn": FactName("text", "name of the collate function"),
    "loader.epochs": FactName("count", "how often the loader was iterated"),
    "loader.utilisation": FactName("share", "part of the time that workers spend making batches"),
    "loader.service_seconds": FactName("s", "time one worker needs for one batch"),
    "loader.service_variation": FactName("ratio", "90th percentile of that time over the median"),
    "loader.item_seconds": FactName("s", "time one worker needs for one sample"),
    "loader.batch_bytes": FactName("bytes", "tensor bytes of one batch"),
    "fetch.cpu_share": FactName("share", "part of a fetch on a processor"),
    "fetch.blocked_share": FactName("share", "part of a fetch blocked (storage, network, locks)"),
    "fetch.run_delay_share": FactName("share", "part of a fetch ready to run but without a core"),
    "fetch.collate_share": FactName("share", "part of a fetch in the collate function"),
    "fetch.read_bytes": FactName("bytes", "bytes per batch passed to read calls"),
    "fetch.storage_bytes": FactName("bytes", "bytes per batch that came from the device"),
    "fetch.bytes_per_read": FactName("bytes", "mean size of a read call"),
    "fetch.major_faults": FactName("count", "page faults per batch that had to read storage"),
    "fetch.copied_bytes": FactName(
        "bytes", "bytes per batch that a forked worker copied of memory it shared with its parent"
    ),
    "fetch.grown_bytes": FactName("bytes", "bytes per batch by which a worker's memory grows"),
    "fetch.helper_cpu_share": FactName("share", "processor time of helper threads over fetch time"),
    "cpu.usable_cores": FactName("cores", "cores granted by affinity and cgroup quota"),
    "cpu.demand_cores": FactName("cores", "cores' worth of processor time this job uses"),
    "cpu.saturation": FactName("share", "processor time used by this job over the cores' own"),
    "cpu.foreign_cores": FactName("cores", "cores' worth of time used by other programs"),
    "cpu.spare_cores": FactName("cores", "usable cores that neither this job nor others used"),
    "cpu.processes_per_core": FactName("ratio", "loader workers plus the trainer over the cores"),
    "cpu.main_delay_share": FactName("share", "part of the step the trainer waits for a core"),
    "torch.intra_op_threads": FactName("count", "threads one operator may use"),
    "torch.deterministic": FactName("flag", "deterministic algorithms are forced"),
    "torch.anomaly_mode": FactName("flag", "autograd anomaly detection is on"),
    "torch.tf32": FactName("flag", "TF32 is allowed for matrix products"),
    "torch.cudnn_benchmark": FactName("flag", "cuDNN picks kernels by measuring"),
    "torch.autocast": FactName("text", "dtype of autocast around forward, or `off`"),
    "env.omp_num_threads": FactName("count", "OMP_NUM_THREADS, where it is set"),
    "env.cuda_launch_blocking": FactName("flag", "CUDA_LAUNCH_BLOCKING is set"),
    "gpu.count": FactName("count", "CUDA devices that the model lives on"),
    "gpu.utilisation": FactName("share", "NVML utilisation, mean"),
    "gpu.tensor_core_share": FactName(
        "share", "kernel time of products, convolutions and attention in tensor-core kernels"
    ),
    "gpu.kernel_seconds": FactName("s", "mean time of a kernel"),
    "gpu.kernels_per_step": FactName("count", "kernels that a step runs"),
    "gpu.launches_per_second": FactName("count", "kernels over the time of the steps"),
    "gpu.layout_share": FactName(
        "share", "kernel time that brings images into another memory layout and back"
    ),
    "gpu.launch_delay_seconds": FactName("s", "median time from a launch to its kernel's begin"),
    "gpu.sm_efficiency": FactName(
        "share", "multiprocessors with a block to work on, mean over the step"
    ),
    "gpu.filled_share": FactName(
        "share", "multiprocessors that get a block, mean while kernels run (collectives left out)"
    ),
    "gpu.occupancy": FactName(
        "share", "active warps over what a multiprocessor holds, mean while kernels run"
    ),
    "gpu.queue_length": FactName("count", "launched work that waits for the device, mean"),
    "copy.pageable_share": FactName("share", "uploaded bytes that came from pageable memory"),
    "copy.upload_bytes": FactName("bytes", "bytes copied to the device per step"),
    "gpu.memory_share": FactName("share", "device memory in use over device memory, peak"),
    "model.parameters": FactName("count", "parameters of the largest model"),
    "model.convolutions": FactName("count", "convolution modules"),
    "model.attentions": FactName("count", "attention modules"),
    "model.channels_last": FactName("flag", "convolution weights are stored channels-last"),
    "model.compiled": FactName("flag", "torch.compile is on"),
    "model.distributed": FactName("text", "wrapper class for distributed training, or `off`"),
    "optimizer.name": FactName("text", "class of the optimizer"),
    "optimizer.tensors": FactName("count", "parameter tensors it updates"),
    "optimizer.fused": FactName("flag", "fused implementation is on"),
    "optimizer.foreach": FactName("flag", "multi-tensor implementation is on"),
    "optimizer.fused_available": FactName("flag", "the class has a fused implementation"),
    "operators.per_step": FactName("count", "operators called per step"),
    "operators.mean_seconds": FactName("s", "mean self time of an operator"),
    "operators.matmul_share": FactName(
        "share", "operator time in matrix products, convolutions, attention"
    ),
    "operators.elementwise_share": FactName(
        "share", "operator time in elementwise and normalising operators"
    ),
    "compute.flops_per_step": FactName(
        "FLOP", "operations of a step's products, convolutions and attention"
    ),
    "compute.flops_per_second": FactName("FLOP/s", "these operations over the time of a step"),
    "compute.mfu": FactName(
        "share",
        "model FLOPs utilisation: time of these operations at the peak of their types over the "
        "time of a step; what backward computes again is not counted",
    ),
    "compute.hfu": FactName("share", "hardware FLOPs utilisation: the same with it"),
    "compute.arithmetic_intensity": FactName(
        "FLOP/byte", "operations of the model over the bytes that it has to move at least"
    ),
    "compute.peak_share": FactName(
        "share", "time that the operators need at the machine's best over the time they take"
    ),
    "operators.arithmetic_bound_share": FactName(
        "share", "operator time in those whose first limit is arithmetic, by roofline"
    ),
    "operators.bandwidth_bound_share": FactName(
        "share", "operator time in those whose first limit is memory traffic, by roofline"
    ),
    "operators.launch_bound_share": FactName(
        "share",
        "operator time in those whose first limit is their own dispatch, or that do no more",
    ),
    "operators.uncounted_share": FactName(
        "share", "operator time in those of which nobody knows what they compute"
    ),
    "gpu.misaligned_share": FactName(
        "share", "operations of products with a dimension that is no multiple of 16 bytes"
    ),
    "machine.bf16_speed": FactName("ratio", "bf16 over fp32 matrix product rate, measured here"),
    "checkpoint.count": FactName("count", "checkpoints written in steady steps"),
    "checkpoint.seconds": FactName("s", "time one checkpoint stops the loop"),
    "checkpoint.every": FactName("count", "steps between checkpoints"),
    "validation.count": FactName("count", "validation passes inside steady steps"),
    "validation.every": FactName("count", "steps between validation passes"),
    "logging.per_step": FactName("count", "log and print calls per step"),
    "attention.fused": FactName("flag", "whether attention runs as one fused operator"),
    "fetch.opens": FactName("count", "calls per batch that open, look up or list files"),
    "compilation.per_step": FactName("count", "compilations per step, after warm-up"),
    "compilation.graph_breaks": FactName(
        "count", "places at which torch.compile had to stop and go back to Python"
    ),
    "compilation.break_places": FactName("text", "the first of them, with what the compiler says"),
    "compilation.again": FactName("count", "compilations of functions that had been compiled"),
    "compilation.again_places": FactName("text", "the first of these functions, and why"),
    "compilation.limit_hits": FactName("count", "functions that the compiler has given up"),
    "compilation.limit_places": FactName("text", "the first of these functions, and why"),
    "loader.deeper_queue_gain": FactName("share", "speedup minus one, predicted for a queue of 8"),
    "loader.any_order_gain": FactName(
        "share", "speedup minus one, predicted for taking batches as they are finished"
    ),
    "gc.per_step": FactName("count", "garbage collections per step"),
    "sync.per_step": FactName("count", "values read out of tensors and device waits, per step"),
    "memory.growth_bytes": FactName("bytes", "resident memory gained per step, robust slope"),
    "memory.growth_share_per_hour": FactName("share", "that growth per hour over usable memory"),
    "memory.host_used_share": FactName("share", "machine memory in use, peak"),
    "memory.swap_bytes": FactName("bytes", "growth of swapped memory during the run"),
    "comm.exposed_share": FactName(
        "share", "part of the step in collectives not hidden by backward"
    ),
    "comm.overlap_share": FactName("share", "part of communication hidden behind backward"),
    "comm.gradient_bytes": FactName("bytes", "gradient bytes exchanged per step"),
    "step.batch_gain": FactName(
        "share", "more samples per second, predicted for a batch twice as large"
    ),
    "step.micro_batches": FactName("count", "batches that one update of the weights takes"),
    "step.excess_share": FactName("share", "part of the time by which steps exceed the median"),
    "step.drift": FactName("ratio", "median step time of the last third over that of the first"),
    "env.debug_variables": FactName(
        "count", "variables set that make a library check or print what it does"
    ),
    "env.debug_names": FactName("text", "names of these variables"),
    "env.compile_disabled": FactName("flag", "a variable switches torch.compile off"),
    "env.direct_links_disabled": FactName(
        "flag", "a variable forbids NCCL direct links between devices or InfiniBand"
    ),
    "cpu.threads_per_core": FactName(
        "ratio", "intra-op threads plus loader workers over the usable cores"
    ),
    "cpu.throttled_share": FactName("share", "part of the time for which a quota stops this job"),
    "cpu.pressure_share": FactName("share", "part of the time some task waits for a core (PSI)"),
    "storage.pressure_share": FactName(
        "share", "part of the time some task waits for storage (PSI)"
    ),
    "storage.early_reads": FactName(
        "ratio", "disk reads per second in the first third of the run over the last, at most 100"
    ),
    "storage.own_share": FactName(
        "share", "bytes the loader read from storage over all that the machine's disks read"
    ),
    "fetch.storage_share": FactName("share", "bytes that came from the device over bytes read"),
    "fetch.read_amplification": FactName("ratio", "bytes read over tensor bytes, of one batch"),
    "loader.batch_size": FactName("count", "samples in a batch"),
    "loader.workers_gain": FactName(
        "share", "speedup minus one, predicted for the best number of workers"
    ),
    "loader.handover_ratio": FactName(
        "ratio", "cost of taking a batch from a worker over the cost of making it"
    ),
    "loader.item_operators": FactName(
        "ratio", "time for one sample, in operators on one element, timed on this machine"
    ),
    "loader.worker_imbalance": FactName("ratio", "time of the busiest worker over the mean"),
    "validation.loader_workers": FactName("count", "worker processes of loaders for validation"),
    "validation.worker_starts": FactName(
        "count", "worker processes started for validation during the run"
    ),
    "torch.autocast_gain": FactName("share", "speedup minus one, predicted for bf16 autocast"),
    "optimizer.fused_gain": FactName(
        "share", "speedup minus one, predicted for the fused optimizer"
    ),
    "operators.copy_share": FactName("share", "operator time in copies and conversions"),
    "operators.indexing_share": FactName("share", "operator calls that take elements or slices"),
    "operators.zeroing_share": FactName("share", "part of the step that sets gradients to zero"),
    "operators.recomputed_share": FactName(
        "share", "layers called in backward over layers called in forward"
    ),
    "model.sync_batch_norms": FactName("count", "normalising layers that exchange statistics"),
    "comm.calls_per_step": FactName("count", "messages that the program sends itself, per step"),
    "comm.call_bytes": FactName("bytes", "mean size of such a message"),
    "comm.pickled_share": FactName("share", "part of the step in collectives of pickled objects"),
    "comm.barrier_share": FactName("share", "part of the step in barriers"),
    "comm.latency_seconds": FactName(
        "s", "time of a message of no size, by a line through the sizes that were seen"
    ),
    "comm.link_bandwidth": FactName("bytes/s", "bus bandwidth, by the slope of that line"),
    "comm.bucket_cap_bytes": FactName("bytes", "size to which gradients are gathered at most"),
    "comm.bucket_view": FactName("flag", "gradients live in the buckets and are not copied"),
    "comm.static_graph": FactName("flag", "DistributedDataParallel was told static_graph=True"),
    "comm.first_bucket_share": FactName(
        "share", "part of backward that is over when the first bucket is sent"
    ),
    "comm.backend": FactName("text", "library that exchanges gradients, e.g. nccl or gloo"),
    "comm.buckets": FactName("count", "messages into which gradients are gathered"),
    "comm.bucket_bytes": FactName("bytes", "mean size of such a message"),
    "gpu.idle": FactName("count", "devices of the machine that nobody used during the run"),
    "model.float64": FactName("flag", "the largest model has parameters in double precision"),
    "comm.unused_searched": FactName(
        "flag", "the graph is searched for parameters without a gradient in each step"
    ),
    "comm.unused_bytes": FactName("bytes", "parameters that were found to have no gradient"),
    "comm.no_sync_per_step": FactName("ratio", "backward passes per step under no_sync()"),
    "validation.gradients": FactName("flag", "validation keeps what a backward pass would need"),
    "gpu.visible": FactName("count", "devices of the machine, used or not"),
    "gpu.memory_growth_share": FactName("share", "growth of device memory in use per hour"),
    "memory.swap_share": FactName("share", "swap in use over the machine's memory, peak"),
    "host.locking_threads_cores": FactName(
        "cores", "cores used by the program's other Python threads that need Python's lock"
    ),
    "host.unlocked_threads_cores": FactName(
        "cores", "cores used by the program's other Python threads without Python's lock"
    ),
    "logging.by_hand_share": FactName(
        "share", "part of the step in the loop's own lines that write files in small pieces"
    ),
    "checkpoint.by_hand_share": FactName(
        "share", "part of the step in the loop's own lines that write files in large pieces"
    ),
    "ranks.count": FactName("count", "ranks of the job of which there is a record"),
    "ranks.missing": FactName("count", "ranks of the job of which there is none"),
    "ranks.imbalance": FactName(
        "ratio", "time outside of collectives of the slowest rank over the mean of the ranks"
    ),
    "ranks.link_bandwidth": FactName(
        "bytes/s", "what the link of the slowest rank carries, by the kernel's counters"
    ),
    "ranks.slow_links": FactName("count", "ranks with a link much slower than the others'"),
    "ranks.slow_link": FactName("text", "numbers of these ranks"),
    "ranks.usual_link_bandwidth": FactName("bytes/s", "what the links of the others carry, median"),
    "ranks.waiting_share": FactName(
        "share", "part of the step in collectives before all ranks are there, mean of the ranks"
    ),
    "ranks.one_straggler": FactName("flag", "it is nearly always the same rank that comes last"),
    "ranks.straggler": FactName("text", "number of that rank"),
    "ranks.straggler_part": FactName("share", "part of the waiting that is for it"),
    "ranks.straggler_cause": FactName("text", "what it spends most time on beyond the median rank"),
    "ranks.straggler_seconds": FactName("s", "that time, per step"),
    "probe.headroom": FactName("ratio", "batch rate of the loader alone over the model's alone"),
    "probe.model_step_seconds": FactName("s", "the loop's body with a batch that is there already"),
    "probe.loader_batch_seconds": FactName("s", "time between batches when only the loader runs"),
    "probe.serial_fraction": FactName("share", "part of blocked time that workers cannot share"),
    "probe.own_delay_share": FactName(
        "share", "part of the fetches' waiting for a core that other workers cause"
    ),
    "probe.batch_ratio": FactName(
        "ratio", "time of model and optimizer with twice the batch over that with the present one"
    ),
    "probe.half_batch_ratio": FactName("ratio", "the same with half of the batch"),
    "probe.best_threads": FactName(
        "count", "the smallest number of intra-op threads with which the model is fastest"
    ),
    "probe.threads_gain": FactName(
        "share", "speedup minus one, predicted for that number of threads"
    ),
    "probe.thread_efficiency": FactName(
        "share", "parallel efficiency: time with one thread over that with all, times their number"
    ),
    "probe.unscaled_share": FactName(
        "share", "operator time, with all threads, in those that hardly gain by them"
    ),
    "probe.unscaled_operators": FactName("text", "the most expensive of these operators"),
}

DEVICE_FACTS = {
    "gpu.idle_share": FactName("share", "part of the step in which the device has nothing to run"),
    "gpu.clock_share": FactName("share", "clock under load over the highest the device has"),
    "gpu.thermal_share": FactName("share", "part of the time under load that heat lowers clocks"),
    "gpu.power_capped_share": FactName(
        "share", "part of the time under load that the power cap lowers clocks"
    ),
    "gpu.other_processes": FactName("count", "other processes on the device, mean"),
    "gpu.other_memory_share": FactName("share", "device memory that other processes hold, mean"),
    "gpu.energy_per_step": FactName("J", "energy of the devices in use per step"),
    "gpu.link_share": FactName("share", "rate of the link under load over what the slot allows"),
    "gpu.link_rate": FactName("bytes/s", "what the link to the host can carry as it runs"),
    "copy.upload_rate": FactName("bytes/s", "uploaded bytes over the time that it takes"),
    "copy.link_share": FactName("share", "that rate over what the link can carry"),
    "copy.non_blocking_share": FactName("share", "uploads that asked not to be waited for"),
    "copy.readback_bytes": FactName("bytes", "bytes copied to the host by .to() per step"),
    "memory.retries_per_step": FactName(
        "count", "times per step that the allocator emptied its cache and tried again"
    ),
    "memory.device_allocations_per_step": FactName(
        "count", "times per steady step that the allocator asked the device for memory"
    ),
    "memory.out_of_memory": FactName("count", "allocations that failed for good"),
    "memory.reserved_ratio": FactName("ratio", "memory the allocator holds over memory in use"),
    "memory.reserved_share": FactName("share", "device memory that the allocator holds, peak"),
    "memory.fragmented_share": FactName(
        "share", "part of the allocator's memory in split blocks that nobody uses"
    ),
    "memory.state_share": FactName("share", "gradients and optimizer state over memory in use"),
    "memory.activation_share": FactName("share", "activations over device memory in use, peak"),
    "memory.batch_room": FactName("ratio", "how many times the batch would fit, predicted"),
}
"""Of a live profile with a device."""
FACTS |= DEVICE_FACTS


def fact_name(name: str) -> FactName | None:
    """Unit and meaning of fact `name`, or None if there is no such fact."""
    kind, _, cause = name.partition(".")
    if cause in CAUSES and kind == "share":
        return FactName("share", f"part of the step: {CAUSES[cause].label}")
    if cause in CAUSES and kind == "gain":
        return FactName("share", f"speedup minus one, predicted without: {CAUSES[cause].label}")
    return FACTS.get(name)
