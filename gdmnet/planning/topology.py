"""The largest patch that the memory affords, and how deep a U-Net goes on it: anisotropy decides.

The rules are nnU-Net's (Isensee et al., Nature Methods 2021, supplementary note 2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import TypeVar

from gdmnet.geometry import Shape, Spacing
from gdmnet.plan import Architecture
from gdmnet.planning.memory import Preset, feature_map_voxels, make_architecture

_MIN_EDGE = 4  # voxels an axis keeps at the bottleneck
THIN = 10  # an axis of so few voxels, and far shorter than the others, is treated as a stack
_THIN_SHARE = 4
_LARGE_PATCH = 256**3  # voxels from which a patch is shrunk until it fits the memory
T = TypeVar("T")


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
    and stride 1. Spacing is in mm, the wished patch in voxels, both (z, y, x).

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
        strides.append(triple(2 if axis in halved else 1 for axis in range(3)))
        kernels.append(_kernel(current, kernels[-1], thin))
    padded = (ceil(n / m) * m for n, m in zip(patch, total_stride(strides), strict=True))
    return triple(padded), tuple(kernels), tuple(strides)


def total_stride(strides: Sequence[Shape]) -> Shape:
    """Voxels of the patch per voxel of the bottleneck, on each axis."""
    return triple(prod(stride[axis] for stride in strides) for axis in range(3))


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
    return triple(
        3 if previous[axis] == 3 or (spacing[axis] / finest < 2 and not thin[axis]) else 1
        for axis in range(3)
    )


def triple(values: Iterable[T]) -> tuple[T, T, T]:
    """Three numbers as (z, y, x)."""
    z, y, x = values
    return z, y, x


@dataclass(frozen=True)
class Network:
    """A patch, its network, and the voxels of all its feature maps."""

    patch: Shape
    architecture: Architecture
    feature_map_voxels: int


def fit_network(
    spacing: Spacing, median_shape: Shape, preset: Preset, affords: Callable[[Network], bool]
) -> Network:
    """The patch and network for images of this spacing and size.

    The patch begins as a cube in mm, cut to the median shape, and loses its total stride on the
    axis that shows the largest share of the median image until it fits (nnU-Net's rule).

    The spacing is mm (z, y, x), the median image's shape voxels (z, y, x) at this spacing. A preset
    with `max_voxels` goes by those, not by whether the memory `affords` a network.
    """
    voxels = preset.max_voxels or _LARGE_PATCH
    # Else nnU-Net's rule: what is cut off goes to the batch, and its golden plans hold.
    spread = preset.max_voxels is not None or min(median_shape) <= THIN
    wished = first_patch(spacing, median_shape, voxels, spread=spread)
    if preset.max_voxels is not None:  # padding up would spend voxels that the limit has not got
        _, _, strides = topology(spacing, wished, max_stages=preset.max_stages)
        steps = zip(wished, total_stride(strides), strict=True)
        wished = triple(max(m, round(n / m) * m) for n, m in steps)
    while True:
        patch, kernels, strides = topology(spacing, wished, max_stages=preset.max_stages)
        architecture = make_architecture(preset, kernels, strides)
        network = Network(patch, architecture, feature_map_voxels(architecture, patch))
        if preset.max_voxels:
            within = all(n <= m for n, m in zip(patch, median_shape, strict=True))
            fits = within and prod(patch) <= preset.max_voxels
        else:
            fits = affords(network)
        if fits or max(wished) == 1:
            return network
        wished = _shrunk(wished, patch, spacing, median_shape, preset)


def first_patch(spacing: Spacing, median_shape: Shape, voxels: int, *, spread: bool) -> Shape:
    """A cube in mm of so many voxels, cut to the median shape (z, y, x).

    With `spread` the other axes grow by what is cut off.
    """
    sizes = list(median_shape)
    free = [0, 1, 2]
    while free:
        room = voxels / prod(sizes[axis] for axis in range(3) if axis not in free)
        edge = (room * prod(spacing[axis] for axis in free)) ** (1 / len(free))
        wished = {axis: max(1, round(edge / spacing[axis])) for axis in free}
        cut = [axis for axis in free if wished[axis] >= median_shape[axis]]
        if not cut or not spread:
            for axis in free:
                sizes[axis] = min(wished[axis], median_shape[axis])
            break
        free = [axis for axis in free if axis not in cut]
    return triple(sizes)


def _shrunk(
    wished: Shape, patch: Shape, spacing: Spacing, median_shape: Shape, preset: Preset
) -> Shape:
    """The wish, shorter by a total stride on the axis that shows most of the median image.

    Only the wish is kept, not its padding, so that each call shortens it and the search ends.
    """
    # Thin stacks stay whole as long as they can: a part of one would double the windows.
    shares = [0.0 if is_thin(median_shape, a) else patch[a] / median_shape[a] for a in range(3)]
    axis = max((a for a in range(3) if wished[a] > 1), key=lambda a: (shares[a], a))
    shorter = patch
    for _ in range(2):  # the shorter patch may go less deep, and then needs a smaller step
        step = total_stride(topology(spacing, shorter, max_stages=preset.max_stages)[2])[axis]
        shorter = _with(patch, axis, max(1, patch[axis] - step))
    return _with(wished, axis, min(shorter[axis], wished[axis] - 1))


def _with(shape: Shape, axis: int, size: int) -> Shape:
    return triple(size if a == axis else n for a, n in enumerate(shape))
