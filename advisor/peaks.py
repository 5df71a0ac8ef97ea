"""What a machine does at its best: measured on a processor, from data sheets on a device."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from stepscope.profiler.format import Profile

TERA, GIGA = 1e12, 1e9


class Peaks(NamedTuple):
    """Rates that nothing on this machine exceeds."""

    flops: dict[str, float]
    """Operations per second of matrix products by type of their values, e.g. `float32`."""
    bytes_per_s: float
    """To and from memory."""
    source: str
    """Where these figures are from, in words."""


class _Sheet(NamedTuple):
    """Dense rates of one kind of device; TF32 None where it has none."""

    name: re.Pattern[str]
    bits16: float
    tf32: float | None
    bits32: float
    bytes_per_s: float


def _sheet(name: str, bits16: float, tf32: float | None, bits32: float, gigabytes: float) -> _Sheet:
    """From TFLOP/s and GB/s."""
    return _Sheet(
        re.compile(name),
        bits16 * TERA,
        tf32 and tf32 * TERA,
        bits32 * TERA,
        gigabytes * GIGA,
    )


_SHEETS: Final = (
    _sheet(r"\bB200\b", 2250, 1125, 75, 7700),
    _sheet(r"\bGH200\b.*144G", 989.5, 494.7, 67, 4900),
    _sheet(r"\bGH200\b", 989.5, 494.7, 67, 4000),
    _sheet(r"\bH200 NVL\b", 835.5, 417.5, 60, 4800),
    _sheet(r"\bH200\b", 989.5, 494.7, 67, 4800),
    _sheet(r"\bH100 NVL\b", 835.5, 417.5, 60, 3900),
    _sheet(r"\bH100 PCIe\b", 756, 378, 51, 2000),
    _sheet(r"\bH100\b.*HBM3", 989.5, 494.7, 67, 3350),
    _sheet(r"\bA100.*PCIE?.*80GB|\bA100 80GB PCIe", 312, 156, 19.5, 1935),
    _sheet(r"\bA100.*80GB", 312, 156, 19.5, 2039),
    _sheet(r"\bA100\b", 312, 156, 19.5, 1555),
    _sheet(r"\bA30\b", 165, 82, 10.3, 933),
    _sheet(r"\bA40\b", 149.7, 74.8, 37.4, 696),
    _sheet(r"\bA10\b", 125, 62.5, 31.2, 600),
    _sheet(r"\bL40S\b", 362, 183, 91.6, 864),
    _sheet(r"\bL40\b", 181, 90.5, 90.5, 864),
    _sheet(r"\bL4\b", 121, 60, 30.3, 300),
    _sheet(r"\bV100-SXM2\b", 125, None, 15.7, 900),
    _sheet(r"\bV100-PCIE\b", 112, None, 14, 900),
    _sheet(r"\bT4\b", 65, None, 8.1, 320),
    _sheet(r"\bRTX 3090\b", 71, 35.6, 35.6, 936),
    _sheet(r"\bRTX 4090\b", 165.2, 82.6, 82.6, 1008),
)
"""NVIDIA's data sheets and architecture white papers: without sparsity, accumulating in float32."""


def peaks_of(profile: Profile) -> Peaks | None:
    """The rates of what the model runs on; None where they are not known."""
    gpus = profile.environment.gpus
    if _on_device(profile):
        names = {gpu.name for gpu in gpus}
        return _device(names.pop(), profile) if len(names) == 1 else None
    best = profile.environment.calibration
    if best is None:
        return None
    flops = {"float32": best.gemm_fp32_flops}
    if best.gemm_bf16_flops is not None:
        flops["bfloat16"] = best.gemm_bf16_flops
    threads = f"{best.threads} thread{'s' * (best.threads != 1)}"
    return Peaks(flops, best.copy_bytes_per_s, f"timed on this machine with {threads}")


def _on_device(profile: Profile) -> bool:
    if profile.trace is not None:
        return profile.trace.device is not None
    models = profile.configuration.models
    return any(device.startswith("cuda") for model in models for device in model.devices)


def _device(name: str, profile: Profile) -> Peaks | None:
    if "MIG" in name:  # of which the name does not tell how large a part it is
        return None
    sheet = next((sheet for sheet in _SHEETS if sheet.name.search(name)), None)
    if sheet is None:
        return None
    # Where it is not known whether TF32 is on, the higher rate: a share of it is not too high.
    tf32 = sheet.tf32 if profile.configuration.tf32_matmul is not False else None
    flops = {"float16": sheet.bits16, "float32": tf32 or sheet.bits32}
    if sheet.tf32 is not None:  # older devices have no bfloat16 either
        flops["bfloat16"] = sheet.bits16
    return Peaks(flops, sheet.bytes_per_s, f"data sheet of the {name}, dense")
