"""Where the target counts where this is more than the body: the field of view of a scanner."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gdmnet.geometry import Shape, Spacing
from gdmnet.plan import Region


def region_of(name: Region, body: NDArray, spacing: Spacing) -> NDArray:
    """The voxels where the target counts, uint8 (z, y, x).

    Args:
        name: "body" gives the body back; "circle" is the inscribed circle of the axial slices, what
            a CT reconstructs, and the body where an image that was cropped goes beyond it;
            "everything" is all of the volume.
        body: uint8 (z, y, x).
        spacing: mm (z, y, x).
    """
    if name == "body":
        return body
    z, y, x = body.shape
    if name == "circle":
        return np.maximum(inscribed_circle((z, y, x), spacing), body)
    return np.ones((z, y, x), dtype=np.uint8)


def inscribed_circle(shape: Shape, spacing: Spacing) -> NDArray:
    """The field of view: voxels whose centre lies in the largest circle of their axial slice.

    Returns:
        uint8 (z, y, x); the circle is one in mm, about the middle of the slice.
    """
    _, y, x = (
        (np.arange(size) + 0.5 - size / 2) * side for size, side in zip(shape, spacing, strict=True)
    )
    radius = min(shape[1] * spacing[1], shape[2] * spacing[2]) / 2
    circle = y[:, None] ** 2 + x[None, :] ** 2 <= radius**2
    return np.repeat(circle[None].astype(np.uint8), shape[0], axis=0)
