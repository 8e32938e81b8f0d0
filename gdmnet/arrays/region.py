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
    if name == "circle":
        return np.maximum(inscribed_circle(body.shape, spacing), body)
    return np.ones(body.shape, dtype=np.uint8)


def inscribed_circle(shape: Shape, spacing: Spacing) -> NDArray:
    """The field of view: voxels whose centre lies in the largest circle of their axial slice.

    Returns:
        uint8 (z, y, x); the circle is one in mm, about the middle of the slice.
    """
    sides = list(zip(shape, spacing, strict=True))[1:]
    y, x = ((np.arange(n) + 0.5 - n / 2) * mm for n, mm in sides)
    radius = min(n * mm for n, mm in sides) / 2
    circle = y[:, None] ** 2 + x[None, :] ** 2 <= radius**2
    return np.repeat(circle[None].astype(np.uint8), shape[0], axis=0)
