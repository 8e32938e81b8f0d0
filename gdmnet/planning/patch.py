"""The largest patch of the right aspect that the memory affords, with the network it needs."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from gdmnet.geometry import Shape, Spacing
from gdmnet.plan import Architecture
from gdmnet.planning.memory import Preset, feature_map_voxels, make_architecture
from gdmnet.planning.topology import THIN, as_shape, is_thin, topology, total_stride

_LARGE_PATCH = 256**3  # voxels from which a patch is shrunk until it fits the memory


@dataclass(frozen=True)
class Network:
    """A patch, its network, and the voxels of all its feature maps."""

    patch: Shape
    architecture: Architecture
    feature_map_voxels: int


def fit_network(spacing: Spacing, median_shape: Shape, preset: Preset, budget: float) -> Network:
    """The patch and network for images of this spacing and size.

    The patch begins as a cube in mm, cut to the median shape, and loses its total stride on the
    axis that shows the largest share of the median image until it fits (nnU-Net's rule).

    Args:
        spacing: mm (z, y, x).
        median_shape: voxels (z, y, x) of the median image at this spacing.
        preset: limits on voxels and stages.
        budget: feature-map voxels at most; a preset with `max_voxels` goes by those instead.
    """
    voxels = preset.max_voxels or _LARGE_PATCH
    # Else nnU-Net's rule: what is cut off goes to the batch, and its golden plans hold.
    spread = preset.max_voxels is not None or min(median_shape) <= THIN
    wished = first_patch(spacing, median_shape, voxels, spread=spread)
    if preset.max_voxels is not None:  # padding up would spend voxels that the limit has not got
        _, _, strides = topology(spacing, wished, max_stages=preset.max_stages)
        steps = zip(wished, total_stride(strides), strict=True)
        wished = as_shape(max(m, round(n / m) * m) for n, m in steps)
    while True:
        patch, kernels, strides = topology(spacing, wished, max_stages=preset.max_stages)
        architecture = make_architecture(preset, kernels, strides)
        network = Network(patch, architecture, feature_map_voxels(architecture, patch))
        if _fits(network, median_shape, preset, budget) or max(wished) == 1:
            return network
        wished = _shrunk(wished, patch, spacing, median_shape, preset)


def first_patch(spacing: Spacing, median_shape: Shape, voxels: int, *, spread: bool) -> Shape:
    """A cube in mm of so many voxels, cut to the median shape.

    Args:
        spacing: mm (z, y, x).
        median_shape: voxels (z, y, x).
        voxels: of the cube.
        spread: whether the other axes grow by what the median shape cuts off.
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
    return as_shape(sizes)


def _fits(network: Network, median_shape: Shape, preset: Preset, budget: float) -> bool:
    if preset.max_voxels is None:
        return network.feature_map_voxels <= budget
    within = all(n <= m for n, m in zip(network.patch, median_shape, strict=True))
    return within and prod(network.patch) <= preset.max_voxels


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
    return as_shape(size if a == axis else n for a, n in enumerate(shape))
