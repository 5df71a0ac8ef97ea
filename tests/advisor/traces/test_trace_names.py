"""Kernels, copies and marks are told by their names."""

from __future__ import annotations

import pytest

from stepscope.advisor.traces.kernels import category, copy_of, uses_tensor_cores
from stepscope.advisor.traces.kinds import Kind
from stepscope.advisor.traces.roles import Role, role_of


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (
            "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)",
            "collective",
        ),
        ("ncclKernel_SendRecv_RING_SIMPLE_Sum_int8_t(ncclWorkElem)", "collective"),
        ("void flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128, 64>>", "attention"),
        ("fmha_cutlassF_f32_aligned_64x64_rf_sm80", "attention"),
        ("sm80_xmma_fprop_implicit_gemm_indexed_tf32f32_f32_nhwckrsc", "convolution"),
        ("void implicit_convolve_sgemm<float, float, 128, 5, 5, 3, 3, 3, 1>", "convolution"),
        ("ampere_fp16_s16816gemm_fp16_128x64_ldg8_f2f_stages_64x4_tn", "gemm"),
        ("nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_NNT", "gemm"),
        ("Cijk_Ailk_Bljk_SB_MT64x64x16_SE_1LDSB0", "gemm"),
        ("void cublasLt::splitKreduce_kernel<32, 16, int, float>", "gemm"),
        ("void cudnn::bn_bw_1C11_kernel_new<float, float, float2, 32, true, 1>", "normalisation"),
        (
            "void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<float>",
            "normalisation",
        ),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<>", "optimizer"),
        ("void at::native::(anonymous namespace)::CatArrayBatchedCopy<float, 2>", "copy"),
        (
            "void at::native::vectorized_elementwise_kernel<4, at::native::AddFunctor<float>>",
            "elementwise",
        ),
        ("triton_poi_fused_add_relu_0", "elementwise"),
        ("void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float>>", "reduction"),
        ("void at::native::indexSelectLargeIndex<float, long, unsigned int>", "embedding"),
        ("my_own_kernel", "other"),
    ],
)
def test_kernels_have_a_category(name: str, kind: str) -> None:
    assert category(name) == kind


@pytest.mark.parametrize(
    ("name", "uses"),
    [
        ("ampere_fp16_s16816gemm_fp16_128x64_ldg8_f2f_stages_64x4_tn", True),
        ("volta_s884cudnn_fp16_128x128_ldg8_relu", True),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1", True),
        ("nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_NNT", True),
        ("ampere_sgemm_128x64_tn", False),
        ("volta_sgemm_128x32_nn", False),
        ("void at::native::vectorized_elementwise_kernel<4>", False),
    ],
)
def test_tensor_cores_are_told_by_name(name: str, uses: bool) -> None:
    assert uses_tensor_cores(name) is uses


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Memcpy HtoD (Pageable -> Device)", ("HtoD", "pageable")),
        ("Memcpy HtoD (Pinned -> Device)", ("HtoD", "pinned")),
        ("Memcpy DtoH (Device -> Pinned)", ("DtoH", "pinned")),
        ("Memcpy DtoD (Device -> Device)", ("DtoD", "device")),
        ("Memcpy PtoP (Device -> Device)", ("PtoP", "device")),
        ("Memcpy HtoD (Host -> Device)", ("HtoD", "unknown")),
        ("CopyHostToDevice", ("HtoD", "unknown")),
        ("Memcpy", ("unknown", "unknown")),
    ],
)
def test_copies_have_a_direction_and_a_memory(name: str, expected: tuple[str, str]) -> None:
    assert copy_of(name) == expected


@pytest.mark.parametrize(
    ("name", "kind", "role"),
    [
        ("ProfilerStep#12", Kind.ANNOTATION, Role.STEP),
        ("enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__", Kind.OPERATOR, Role.DATA),
        ("## data_load ##", Kind.ANNOTATION, Role.DATA),
        ("Optimizer.step#AdamW.step", Kind.ANNOTATION, Role.OPTIMIZER),
        ("autograd::engine::evaluate_function: AddmmBackward0", Kind.OPERATOR, Role.BACKWARD),
        ("nccl:all_reduce", Kind.ANNOTATION, Role.COLLECTIVE),
        ("cudaStreamSynchronize", Kind.RUNTIME, Role.SYNC),
        ("hipDeviceSynchronize", Kind.RUNTIME, Role.SYNC),
        ("cudaMalloc", Kind.RUNTIME, Role.ALLOCATION),
        ("cudaLaunchKernel", Kind.RUNTIME, Role.LAUNCH),
        ("cudaMemcpyAsync", Kind.RUNTIME, Role.LAUNCH),
        ("aten::mm", Kind.OPERATOR, Role.PLAIN),
        ("cudaMalloc", Kind.ANNOTATION, Role.PLAIN),
    ],
)
def test_the_host_has_roles(name: str, kind: Kind, role: Role) -> None:
    assert role_of(name, kind) is role
