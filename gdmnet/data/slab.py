"""The central slab of a case: the same few slices of every image, as a case of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from gdmnet.data.case import CaseFiles, Volume
from gdmnet.data.volume import read_volume, write_volume
from gdmnet.geometry import Geometry


def central_slab(volume: Volume, n_slices: int) -> Volume:
    """The middle slices along z, where they were in the patient; all of a volume with fewer."""
    n = volume.geometry.shape[0]
    first = max(0, (n - n_slices) // 2)
    last = min(n, first + n_slices)
    array = np.ascontiguousarray(volume.array[:, first:last])
    return Volume(array, _cropped(volume.geometry, first, last))


def write_slab(case: CaseFiles, n_slices: int, folder: Path) -> CaseFiles:
    """A case's central slab as files in images/, targets/ and masks/; what is there is kept.

    Args:
        case: its sources and, if it has them, target and mask, on one grid.
        n_slices: of the slab.
        folder: of all slabs of this thickness.

    Raises:
        DatasetError: an image cannot be read.
        OutputError: the folder cannot be written.
    """

    def cut(path: Path, kind: str) -> Path:
        output = folder / kind / path.name
        if not output.exists():
            output.parent.mkdir(parents=True, exist_ok=True)
            write_volume(output, central_slab(read_volume(path), n_slices))
        return output

    return replace(
        case,
        sources=tuple(cut(path, "images") for path in case.sources),
        target=None if case.target is None else cut(case.target, "targets"),
        mask=None if case.mask is None else cut(case.mask, "masks"),
    )


def _cropped(geometry: Geometry, first: int, last: int) -> Geometry:
    """The grid of the slices [first, last) along the LPS axis z."""
    n, y, x = geometry.shape
    stored_first = n - last if geometry.flips[0] else first
    column = 2 - geometry.axes[0]  # of the stored index axis that runs along z
    step = np.reshape(geometry.itk_direction, (3, 3))[:, column] * geometry.spacing[0]
    i, j, k = np.asarray(geometry.itk_origin) + stored_first * step
    return replace(geometry, shape=(last - first, y, x), itk_origin=(float(i), float(j), float(k)))
