"""How much memory a training step takes, and the presets' limits.

At its peak, where the backward begins, a step holds the state of every parameter and what the
forward keeps for the backward, which goes with the voxels of the feature maps:

    peak = 16 P + a F b     bytes, bfloat16 maps; P parameters, F feature-map voxels, b samples

a was measured for each objective on fake CUDA tensors (documentation/benchmarks, and the test
tests/fakecuda). A regression twin, for the realism dial, keeps another 16 P.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

from gdmnet.geometry import Shape
from gdmnet.plan import Architecture

_GIB = 2**30
_STATE_BYTES = 16  # of a parameter: weight, two moments, average, all float32
MAP_BYTES = {
    "regression": 5.1,
    "gan": 5.95,
    "gdm": 5.75,
    "flow": 6.0,
    "bridge": 6.0,
    "diffusion": 6.0,
}
"""a of each objective: bytes a feature-map voxel and sample at the peak of a step in bfloat16."""

_FLOAT32_BYTES = 4.7  # a voxel more than in bfloat16
_CONTEXT_GB = 0.6  # of the CUDA context and cuDNN
_FRAGMENTS = 1.1  # what the allocator holds, of what is asked of it
_USABLE = 0.95  # of a device: drivers, and a desktop
MOST_UNASKED_GB = 24.0


@dataclass(frozen=True)
class Preset:
    """A size of network and patch."""

    base_features: int  # of the finest stage; each further stage doubles them
    max_features: int  # of any stage
    blocks: tuple[int, ...]  # of the encoder's stages; the last serves all further stages
    max_stages: int | None  # None for no limit
    max_voxels: int | None  # of a patch; None plans by memory instead
    memory_gb: float  # of the training device that the preset is meant for


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
    """The preset, the memory in GB to plan for, and why.

    Preset and memory are those asked for, or None; `device_gb` that of the CUDA device, or None.
    """
    memory = memory_gb or min(device_gb or 8.0, MOST_UNASKED_GB)
    if preset is not None:
        return preset, memory, f"--preset {preset} was given"
    if device_gb is None:
        return "cpu", memory, "no CUDA device on this machine, so that a laptop can train it"
    source = "--memory" if memory_gb else "the CUDA device"
    preset = "S" if memory < 7.5 else "M" if memory < 20 else "L"
    reason = f"{memory:.1f} GB by {source}"
    if memory_gb is None and device_gb > memory:
        reason = (
            f"{memory:g} of the {device_gb:.1f} GB of the CUDA device: more make a step longer;"
            " --memory plans for them"
        )
    return preset, memory, reason


def step_gb(
    architecture: Architecture,
    patch: Shape,
    batch_size: int,
    objective: str,
    *,
    twin: bool = False,
    precision: str = "bf16",
) -> float:
    """GB (2^30 bytes) that tensors hold at the peak of a training step.

    An objective that is not in `MAP_BYTES` counts as the largest that is; with a `twin`, a
    regression is trained beside it. The precision is fp32, bf16 or fp16.
    """
    per_voxel = MAP_BYTES.get(objective, max(MAP_BYTES.values()))
    per_voxel += _FLOAT32_BYTES if precision == "fp32" else 0.0
    state = _STATE_BYTES * n_parameters(architecture) * (2 if twin else 1)
    maps = per_voxel * feature_map_voxels(architecture, patch) * batch_size
    return (state + maps) / _GIB


def largest_step_gb(architecture: Architecture, patch: Shape, batch_size: int) -> float:
    """The largest peak of all that a plan may be trained with: any objective, and gdm's dial."""
    peaks = [step_gb(architecture, patch, batch_size, name) for name in MAP_BYTES]
    return max(*peaks, step_gb(architecture, patch, batch_size, "gdm", twin=True))


def device_gb_for(peak_gb: float) -> float:
    """GB that a CUDA device must have for a step of this peak: .6 + 1.1 peak <= .95 memory."""
    return (_CONTEXT_GB + _FRAGMENTS * peak_gb) / _USABLE


def most_samples(architecture: Architecture, patch: Shape, memory_gb: float) -> int:
    """Samples of a batch with which all that may be trained fits a device of this memory."""
    room = (_USABLE * memory_gb - _CONTEXT_GB) / _FRAGMENTS * _GIB
    state = _STATE_BYTES * n_parameters(architecture)
    voxels = min((room - state) / max(MAP_BYTES.values()), (room - 2 * state) / MAP_BYTES["gdm"])
    return max(0, int(voxels / feature_map_voxels(architecture, patch)))


def make_architecture(
    preset: Preset, kernels: Sequence[Shape], strides: Sequence[Shape]
) -> Architecture:
    """The preset's features and blocks on these kernels and strides."""
    stages = range(len(strides))
    features = tuple(min(preset.base_features * 2**i, preset.max_features) for i in stages)
    blocks = tuple(preset.blocks[min(i, len(preset.blocks) - 1)] for i in stages)
    return Architecture(features, tuple(kernels), tuple(strides), blocks)


def feature_map_voxels(architecture: Architecture, patch: Shape) -> int:
    """Sum of channels times voxels over all convolutions' outputs, for one patch.

    Encoder: the stem, two convolutions a block, and the 1 x 1 x 1 projection of a shortcut where
    stride or features change. Decoder, each stage: the upsampled map, one convolution, and one
    channel of output, as in nnU-Net with its outputs at every resolution, so that its budgets hold.
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


def n_parameters(architecture: Architecture) -> int:
    """Parameters of the generator of one source channel without time; more hardly count."""
    features, kernels = architecture.features, architecture.kernels
    total = features[0] * (prod(kernels[0]) + 2) + features[0] + 1  # stem and head
    for i, blocks in enumerate(architecture.blocks):
        n_in, n_out, size = features[max(i - 1, 0)], features[i], prod(kernels[i])
        total += (n_in + (2 * blocks - 1) * n_out) * n_out * size + 4 * blocks * n_out
        total += (n_in + 2) * n_out if n_in != n_out else 0  # the shortcut's projection
    for i in range(len(features) - 1):
        total += (features[i + 1] + 1) * features[i]  # to the finer stage's features
        total += 2 * features[i] ** 2 * prod(kernels[i]) + 2 * features[i]
    return total
