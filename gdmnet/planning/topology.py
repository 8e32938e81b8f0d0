"""How deep a U-Net may go on each axis, and with which kernels: anisotropy decides.

The rules are nnU-Net's (Isensee et al., Nature Methods 2021, supplementary note 2).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil, prod

from gdmnet.geometry import Shape, Spacing

_MIN_EDGE = 4  # voxels an axis keeps at the bottleneck
THIN = 10  # an axis of so few voxels, and far shorter than the others, is treated as a stack
_THIN_SHARE = 4


def is_thin(patch: Shape, axis: int) -> bool:
    """Whether an axis is a short stack of slices: at most 10, a quarter of the longest axis."""
    return patch[axis] == 1 or (patch[axis] <= THIN and patch[axis] * _THIN_SHARE <= max(patch))


def topology(
    spacing: Spacing, patch: Shape, *, max_stages: int | None = None
) -> tuple[Shape, tuple[Shape, ...], tuple[Shape, ...]]:
    """Kernels and strides of each stage, finest first, and the patch they need.

    Each stage halves the axes that have at least 8 voxels left and are finer than twice the finest
    of these, until none is left (an axis that is halved alone must have 12). The kernel of an axis
    is 1 until its spacing lies within a factor of 2 of the finest, then 3. Thin axes keep kernel
    and stride 1.

    Args:
        spacing: mm (z, y, x).
        patch: wished voxels (z, y, x).
        max_stages: stages at most, None for no limit.

    Returns:
        The patch, padded up to a multiple of each axis' total stride; kernels; strides. Both have
        one entry a stage, and the first stride is 1.
    """
    thin = [is_thin(patch, axis) for axis in range(3)]
    current, size = list(spacing), list(patch)
    kernels = [_kernel(current, (1, 1, 1), thin)]
    strides: list[Shape] = [(1, 1, 1)]
    while max_stages is None or len(strides) < max_stages:
        halved = _axes_to_halve(current, size, thin)
        if not halved:
            break
        for axis in halved:
            current[axis] *= 2
            size[axis] = ceil(size[axis] / 2)
        strides.append(as_shape(2 if axis in halved else 1 for axis in range(3)))
        kernels.append(_kernel(current, kernels[-1], thin))
    padded = (ceil(n / m) * m for n, m in zip(patch, total_stride(strides), strict=True))
    return as_shape(padded), tuple(kernels), tuple(strides)


def total_stride(strides: Sequence[Shape]) -> Shape:
    """Voxels of the patch per voxel of the bottleneck, on each axis."""
    return as_shape(prod(stride[axis] for stride in strides) for axis in range(3))


def _axes_to_halve(spacing: list[float], size: list[int], thin: list[bool]) -> list[int]:
    large = [a for a in range(3) if size[a] >= 2 * _MIN_EDGE and not thin[a]]
    while large:
        finest = min(spacing[axis] for axis in large)
        fine = [axis for axis in large if spacing[axis] / finest < 2]
        if len(fine) > 1 or size[fine[0]] >= 3 * _MIN_EDGE:
            return fine
        large.remove(fine[0])  # too short to be halved alone; it must not end the others' stages
    return []


def _kernel(spacing: list[float], previous: Sequence[int], thin: list[bool]) -> Shape:
    finest = min(spacing)
    return as_shape(
        3 if previous[axis] == 3 or (spacing[axis] / finest < 2 and not thin[axis]) else 1
        for axis in range(3)
    )


def as_shape(values: Iterable[int]) -> Shape:
    """Three whole numbers as (z, y, x)."""
    z, y, x = values
    return z, y, x
