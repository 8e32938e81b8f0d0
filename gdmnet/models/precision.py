"""Which number format a device computes in, and the autocast that does it."""

from __future__ import annotations

from math import ceil
from pathlib import Path

import torch

from gdmnet.errors import TrainingError
from gdmnet.plan import Configuration

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_CPU_BF16 = {"avx512_bf16", "amx_bf16"}
_AMPERE = 8  # compute capability
_CPU_INFO = Path("/proc/cpuinfo")
_SAFE_DEPTH, _SAFE_PLANE = 10, 32 * 32  # voxels of a feature map; see `is_safe_in_cpu_bf16`


def choose(precision: str, device: torch.device) -> str:
    """Resolve "auto"; a named precision comes back after a check.

    auto: bf16 on CUDA devices that have it, fp16 on older ones; bf16 on CPUs that have it in
    hardware (measured 2.4 times faster steps); else fp32.

    Raises:
        TrainingError: an unknown precision, or fp16 away from CUDA.
    """
    if precision == "auto":
        if has_bf16(device):
            return "bf16"
        return "fp16" if device.type == "cuda" else "fp32"
    if precision not in PRECISIONS:
        raise TrainingError(f"precision {precision}: unknown; use auto, {', '.join(PRECISIONS)}")
    if precision == "fp16" and device.type != "cuda":
        raise TrainingError("precision fp16 needs a CUDA device; use bf16, fp32 or auto")
    return precision


def choose_for(precision: str, device: torch.device, configuration: Configuration) -> str:
    """`choose`, for the training of one configuration: bf16 on CPUs only where it is safe.

    Raises:
        TrainingError: as `choose`, or bf16 was asked for where it would crash.
    """
    chosen = choose(precision, device)
    if chosen != "bf16" or device.type != "cpu" or is_safe_in_cpu_bf16(configuration):
        return chosen
    if precision == "auto":
        return "fp32"
    raise TrainingError(
        f"precision bf16 is not safe on a CPU for the flat patch {configuration.patch_size} of"
        f" {configuration.name}; use fp32 or auto"
    )


def is_safe_in_cpu_bf16(configuration: Configuration) -> bool:
    """False where a feature map is flat: a single slice, or few slices, each large.

    oneDNN's bf16 weight gradient of 3D convolutions corrupts memory there (torch 2.13 on AMX:
    1 x 80 x 80, 8 x 96 x 96 and 6 x 128 x 128 crashed; nothing with 10 or more slices did, nor
    the small deep maps of cubic patches). Of one slice, or of two (AMD's avx512_bf16: in every
    trial), also of small ones (1 x 16 x 12, 2 x 2 x 2), it gives NaN or wrong numbers.
    """
    z, y, x = configuration.patch_size
    for stride in configuration.architecture.strides:
        z, y, x = ceil(z / stride[0]), ceil(y / stride[1]), ceil(x / stride[2])
        if z <= 2 or (z < _SAFE_DEPTH and y * x > _SAFE_PLANE):
            return False
    return True


def has_bf16(device: torch.device) -> bool:
    """True where a device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= _AMPERE
    return device.type == "cpu" and cpu_has_bf16()


def cpu_has_bf16(cpu_info: Path = _CPU_INFO) -> bool:
    """True where the CPU multiplies bfloat16 in hardware (Linux; elsewhere False)."""
    try:
        lines = cpu_info.read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith("flags")), "")
    return not _CPU_BF16.isdisjoint(flags.split())


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The autocast context of a precision; does nothing for fp32."""
    return torch.autocast(device.type, dtype=PRECISIONS[precision], enabled=precision != "fp32")
