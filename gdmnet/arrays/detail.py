"""What an image shows beyond the resolution of a coarser grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gdmnet.arrays.resample import resample
from gdmnet.geometry import Shape

_FINER = 1.01  # times as many voxels along an axis: less than that is the rounding of sizes


def lost_detail(image: NDArray, coarse_shape: Shape) -> NDArray | None:
    """An image minus what is left of it on a grid with fewer voxels.

    Only the axes that get coarser count: along the others the grid holds all of the image.

    Args:
        image: float32 (c, z, y, x).
        coarse_shape: voxels (z, y, x) of a grid over the same field of view.

    Returns:
        float32 (c, z, y, x); None where no axis gets coarser.
    """
    shape = image.shape[1:]
    z, y, x = (
        few if many > _FINER * few else many for many, few in zip(shape, coarse_shape, strict=True)
    )
    if (z, y, x) == shape:
        return None
    left = resample(resample(image, (z, y, x)), shape)
    return np.asarray(image - left, dtype=np.float32)
