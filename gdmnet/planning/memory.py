"""How much memory a training step takes, in voxels of feature maps, and the presets' budgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

import numpy as np

from gdmnet.geometry import Shape
from gdmnet.plan import Architecture

_BUDGET_GB = (0.0, 8.0, 24.0, 40.0)
_BUDGET_VOXELS = (0.0, 680e6, 2100e6, 3600e6)
"""Feature-map voxels that fit, measured for nnU-Net's presets ResEnc M, L and XL at batch 2."""


@dataclass(frozen=True)
class Preset:
    """A size of network and patch.

    Attributes:
        base_features: features of the finest stage; each further stage doubles them.
        max_features: features of any stage at most.
        blocks: encoder blocks of each stage; the last entry serves all further stages.
        max_stages: stages at most, None for no limit.
        max_voxels: voxels of a patch at most; None plans by memory instead.
        memory_gb: memory of the training device that the preset is meant for.
    """

    base_features: int
    max_features: int
    blocks: tuple[int, ...]
    max_stages: int | None
    max_voxels: int | None
    memory_gb: float


_GPU_BLOCKS = (1, 3, 4, 6)  # nnU-Net's residual-encoder presets
PRESETS: dict[str, Preset] = {
    # A training step of two 48^3 patches: 0.25 s on two cores with bfloat16, 0.45 s without.
    "cpu": Preset(16, 128, (1, 2, 2, 2), 4, 48**3, 8.0),
    "S": Preset(32, 320, _GPU_BLOCKS, None, None, 4.0),
    "M": Preset(32, 320, _GPU_BLOCKS, None, None, 8.0),
    "L": Preset(32, 320, _GPU_BLOCKS, None, None, 24.0),
}


def choose_preset(
    preset: str | None, memory_gb: float | None, device_gb: float | None
) -> tuple[str, float, str]:
    """The preset, the memory in GB to plan for, and why; None is not asked for, or no CUDA device.

    Args:
        preset: asked for.
        memory_gb: asked for.
        device_gb: of this machine's CUDA device.
    """
    memory = memory_gb or device_gb or 8.0
    if preset is not None:
        return preset, memory, f"--preset {preset} was given"
    if device_gb is None:
        return "cpu", memory, "no CUDA device on this machine, so that a laptop can train it"
    source = "--memory" if memory_gb else "the CUDA device"
    preset = "S" if memory < 7.5 else "M" if memory < 20 else "L"
    return preset, memory, f"{memory:.1f} GB by {source}"


def budget_voxels(memory_gb: float) -> float:
    """Feature-map voxels of one training sample that a device of this memory affords at batch 2.

    Linear between the anchors 8, 24 and 40 GB, in proportion below the first and above the last.
    """
    if memory_gb > _BUDGET_GB[-1]:
        return _BUDGET_VOXELS[-1] * memory_gb / _BUDGET_GB[-1]
    return float(np.interp(memory_gb, _BUDGET_GB, _BUDGET_VOXELS))


def make_architecture(
    preset: Preset, kernels: Sequence[Shape], strides: Sequence[Shape]
) -> Architecture:
    """The preset's features and blocks on these kernels and strides."""
    stages = range(len(strides))
    last = len(preset.blocks) - 1
    return Architecture(
        features=tuple(min(preset.base_features * 2**i, preset.max_features) for i in stages),
        kernels=tuple(kernels),
        strides=tuple(strides),
        blocks=tuple(preset.blocks[min(i, last)] for i in stages),
    )


def feature_map_voxels(architecture: Architecture, patch: Shape) -> int:
    """Sum of channels times voxels over all convolutions' outputs, for one patch.

    Encoder: the stem, two convolutions a block, and the 1 x 1 x 1 projection of a shortcut where
    stride or features change. Decoder, each stage: the upsampled map, one convolution, and one
    channel of output, as in nnU-Net with its outputs at every resolution, so that its budgets hold.

    Args:
        architecture: of the generator.
        patch: voxels (z, y, x).
    """
    features = architecture.features
    sizes = [prod(patch)]
    total = features[0] * prod(patch)
    shape: Sequence[int] = patch
    for i, (stride, blocks) in enumerate(
        zip(architecture.strides, architecture.blocks, strict=True)
    ):
        shape = [ceil(n / s) for n, s in zip(shape, stride, strict=True)]
        if i > 0:
            sizes.append(prod(shape))
        projected = prod(stride) > 1 or (i > 0 and features[i] != features[i - 1])
        total += (2 * blocks + projected) * features[i] * prod(shape)
    for i in range(len(features) - 1):
        total += (2 * features[i] + 1) * sizes[i]
    return total
