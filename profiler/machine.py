"""The machine and the software: what of them decides speed."""

from __future__ import annotations

import gc
import hashlib
import mmap
import os
import platform
import sys
import time
import uuid
from pathlib import Path

import psutil
import torch

from stepscope.profiler import cgroup
from stepscope.profiler.format import Calibration, Configuration, Environment, Gpu
from stepscope.profiler.observed import Observed

VARIABLES = (
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_VISIBLE_DEVICES",
    "CUDNN_DETERMINISTIC",
    "CUDNN_LOGINFO_DBG",
    "KMP_AFFINITY",
    "KMP_BLOCKTIME",
    "LD_PRELOAD",
    "MALLOC_CONF",
    "MKL_NUM_THREADS",
    "NCCL_DEBUG",
    "NCCL_IB_DISABLE",
    "NCCL_P2P_DISABLE",
    "NUMEXPR_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OMP_PROC_BIND",
    "OPENBLAS_NUM_THREADS",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_NO_CUDA_MEMORY_CACHING",
    "PYTHONDEVMODE",
    "PYTHONMALLOC",
    "PYTHONTRACEMALLOC",
    "TOKENIZERS_PARALLELISM",
    "TORCHDYNAMO_DISABLE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TORCH_COMPILE_DISABLE",
    "TORCH_CPP_LOG_LEVEL",
    "TORCH_CUDNN_V8_API_DISABLED",
    "TORCH_DISTRIBUTED_DEBUG",
    "TORCH_LOGS",
    "TORCH_SHOW_DISPATCH_TRACE",
)
_FRESH_BYTES = 8 * 2**20
_GEMM_SIZES, _SHORT_GEMM_SECONDS = (512, 1024, 2048), 1e-3
"""A product that takes less time is over before many threads are at work."""


def identity() -> str:
    """What tells this machine, and so its clock, from others until it is started anew."""
    try:
        name = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        name = f"{platform.node()} {uuid.getnode()}".encode()
    return hashlib.blake2s(name, digest_size=6).hexdigest()


def environment(gpus: list[Gpu]) -> Environment:
    """Describe where the run takes place."""
    memory = psutil.virtual_memory().total
    return Environment(
        python=platform.python_version(),
        torch=str(torch.__version__),
        platform=f"{platform.system()} {platform.release()} {platform.machine()}",
        host=platform.node() or None,
        cpu_model=_cpu_model(),
        cpu_count=os.cpu_count() or 1,
        cpu_affinity=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        cpu_quota=cgroup.cpu_quota(),
        memory_bytes=memory,
        memory_limit_bytes=_memory_limit(memory),
        gpus=gpus,
        cuda=torch.version.cuda,
        variables={name: _printable(os.environ[name]) for name in VARIABLES if name in os.environ},
    )


def configuration(observed: Observed) -> Configuration:
    """Describe what the program has switched on."""
    cuda = torch.cuda.is_available()
    compiled = observed.compiled.result() if observed.compiled is not None else None
    return Configuration(
        models=observed.models,
        optimizers=observed.optimizers,
        autocast=observed.autocast,
        intra_op_threads=torch.get_num_threads(),
        inter_op_threads=torch.get_num_interop_threads(),
        matmul_precision=torch.get_float32_matmul_precision(),
        tf32_matmul=torch.get_float32_matmul_precision() != "highest" if cuda else None,
        cudnn_benchmark=torch.backends.cudnn.benchmark if cuda else None,
        deterministic=torch.are_deterministic_algorithms_enabled(),
        anomaly_mode=torch.is_anomaly_enabled(),
        graph_breaks=len(compiled.graph_breaks) if compiled is not None else None,
        gc_enabled=gc.isenabled(),
        batch_size=observed.batch_size,
        batch_bytes=observed.batch_bytes,
    )


def calibrate() -> Calibration:
    """Time a few operations at their best, in less than 0.2 s; draws no random number.

    With the threads that the program uses: what it could reach as it is set up.
    """
    one = torch.ones(1)
    half = 8 * 2**20
    source, target = torch.ones(half), torch.empty(half)
    with torch.no_grad():
        eager = _best(lambda: torch.add(one, one), times=200)
        copy = _best(lambda: target.copy_(source), times=2)
        fp32, bf16 = _gemm_flops(torch.float32), _bf16_flops()
    return Calibration(
        eager_op_ns=eager * 1e9,
        copy_bytes_per_s=2 * 4 * half / copy,
        gemm_fp32_flops=fp32,
        gemm_bf16_flops=bf16,
        threads=torch.get_num_threads(),
        fresh_bytes_per_s=_FRESH_BYTES / min(_touch_fresh_memory() for _ in range(2)),
    )


def _touch_fresh_memory() -> float:
    """Seconds to write to every page of memory that the process did not have before."""
    with mmap.mmap(-1, _FRESH_BYTES) as fresh:
        ones = b"1" * (_FRESH_BYTES // mmap.PAGESIZE)
        begin = time.perf_counter()
        fresh[:: mmap.PAGESIZE] = ones
        return time.perf_counter() - begin


def _bf16_flops() -> float:
    # Without hardware for it the larger product takes half a second, and the smaller tells enough.
    small = _gemm_rate(torch.bfloat16, n=128, times=20)
    return small if small < 10e9 else _gemm_flops(torch.bfloat16)


def _gemm_flops(dtype: torch.dtype) -> float:
    """Rate of the product of two squares, large enough for all threads to be at work."""
    rate = 0.0
    for n in _GEMM_SIZES:
        rate = max(rate, _gemm_rate(dtype, n, times=3))
        if 2 * n**3 / rate > _SHORT_GEMM_SECONDS:
            break
    return rate


def _gemm_rate(dtype: torch.dtype, n: int, times: int) -> float:
    a = torch.ones(n, n, dtype=dtype)
    return 2 * n**3 / _best(lambda: torch.mm(a, a), times)


def _best(function: object, times: int) -> float:
    """Shortest wall time in seconds of several calls, the first not counted."""
    assert callable(function)
    function()
    shortest = float("inf")
    for _ in range(times):
        begin = time.perf_counter()
        function()
        shortest = min(shortest, time.perf_counter() - begin)
    return shortest


def _cpu_model() -> str | None:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or None


def _memory_limit(total: int) -> int | None:
    limit = cgroup.memory_limit()
    return limit if limit is not None and limit < total else None


def command_line() -> list[str]:
    """How the program was started; long arguments are cut."""
    return [_printable(argument[:200]) for argument in sys.argv[:50]]


def _printable(text: str) -> str:
    """`text` without the surrogates that stand for bytes that are not UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")
