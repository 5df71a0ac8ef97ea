"""What a kernel does, by its name.

A new category is a row of `CATEGORIES`; the first pattern that is found in a name decides. Names
are those of cuBLAS, cuDNN, CUTLASS, Triton, PyTorch and their ROCm counterparts.
"""

from __future__ import annotations

import re
from typing import Final, Literal

Category = Literal[
    "collective",
    "attention",
    "convolution",
    "gemm",
    "optimizer",
    "embedding",
    "normalisation",
    "copy",
    "reduction",
    "elementwise",
    "other",
]

CATEGORIES: Final[tuple[tuple[Category, re.Pattern[str]], ...]] = tuple(
    (category, re.compile(pattern, re.IGNORECASE))  # type: ignore[misc]
    for category, pattern in (
        (
            "collective",
            r"nccl|rccl|oneccl|^hccl|nvshmem|multimem|cross_device_reduce|all_?reduce_kernel"
            r"|all_?gather_kernel|reduce_?scatter_kernel|all_?to_?all|deep_ep::|custom_ar",
        ),
        (
            "attention",
            r"flash_?(fwd|bwd|attn)|fmha|attention|attn_(fwd|bwd)|mha_|_attn_|flashinfer|ck_tile.*fmha",
        ),
        ("optimizer", r"adam|lamb_|multi_tensor_apply|sgd_(math|step)|adagrad|fused_?optim"),
        (
            "normalisation",
            r"batch_?norm|layer_?norm|group_?norm|rms_?norm|bn_(fw|bw)|\bbn[fb]|_norm_|instance_?norm"
            r"|cuComputePartGrad|GammaBeta|MIOpenBatchNorm",
        ),
        (
            "convolution",
            r"conv|wgrad|dgrad|fprop|winograd|implicit_?gemm|cudnn::cnn|cask_cudnn|im2col|col2im"
            r"|miopen.*(conv|igemm)|igemm_|nchwToNhwc|nhwcToNchw|xdlops_(fwd|bwd|wrw)|dwc_",
        ),
        (
            "gemm",
            r"gemm|gemv|cublas|cutlass|cijk_|nvjet|wgmma|xmma|hmma|s?884|16816|matmul|_mm_|dot_kernel"
            r"|triton_(tem|mm)|splitk|magma_|tensile|rocblas|bmm",
        ),
        ("embedding", r"embedding|index(_|)(select|add|put)|gather|scatter|krn_partial|lookup"),
        ("copy", r"copy|CatArray|transpose|permute|memcpy|memset|fill|contiguous|pad_|roll_"),
        (
            "reduction",
            r"reduce|softmax|sum_|norm|argm|sort|topk|scan|cumsum|nll_loss|cross_entropy|unique|radix"
            r"|triton_(red|per)",
        ),
        (
            "elementwise",
            r"elementwise|unrolled|vectorized|pointwise|triton_(poi|fused)|dropout|relu|gelu|pool"
            r"|distribution|activation|threshold|foreach|upsample|tensor_kernel_scan|op_tensor|where",
        ),
    )
)
ARITHMETIC: Final = ("gemm", "convolution", "attention", "other")
"""Bound by arithmetic more often than not; of `other` nothing is known."""

_TENSOR_CORE = re.compile(
    r"[hs]884|[hsfi]?1688|[hsi]?16816|16832|gmma|hmma|imma|wmma|xmma|nvjet|tensorop|sm(80|90|100)_.*gemm"
    r"|bf16.*gemm|_bf16_|tf32|mfma|xdlops|MT\d+x\d+.*_(BB|HH|HB)S?_|flash_(fwd|bwd)|fmha"
)
"""Names that stand for tensor-core (AMD: matrix-core) instructions, or formats that need them."""


def category(name: str) -> Category:
    """What kind of work a kernel of this name does."""
    for kind, pattern in CATEGORIES:
        if pattern.search(name):
            return kind
    return "other"


def uses_tensor_cores(name: str) -> bool:
    """Whether a kernel's name says that it computes with tensor cores."""
    return _TENSOR_CORE.search(name) is not None


_COPY = re.compile(r"\(?(\w+) -> (\w+)\)?")
_DIRECTION = re.compile(r"([HDP])(?:ost|evice|eer)?To([HDP])", re.IGNORECASE)


def copy_of(name: str) -> tuple[str, str]:
    """Direction (`HtoD`, `DtoH`, `DtoD`, ...) and the host's memory (`pinned`, `pageable`).

    Args:
        name: e.g. `Memcpy HtoD (Pageable -> Device)`; the memory is `unknown` where a profiler
            calls it `Host`.
    """
    found = _DIRECTION.search(name)
    direction = f"{found[1].upper()}to{found[2].upper()}" if found else "unknown"
    if direction in ("DtoD", "PtoP"):
        return direction, "device"
    ends = [end.lower() for end in _COPY.findall(name)[0]] if _COPY.search(name) else []
    return direction, next((end for end in ends if end in ("pinned", "pageable")), "unknown")
