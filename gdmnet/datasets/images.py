"""An image that is to be converted: a file, or a DICOM series."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gdmnet.data.case import Series, Volume
from gdmnet.data.dicom import grid_of, read_series
from gdmnet.data.volume import read_geometry, read_volume
from gdmnet.geometry import Geometry

Image = Path | Series


def read_image(image: Image) -> Volume:
    """The image as float32 (1, z, y, x) in LPS, file units.

    Raises:
        DatasetError: it cannot be read.
    """
    return read_series(image) if isinstance(image, Series) else read_volume(image)


def grid_of_image(image: Image) -> Geometry:
    """The grid of the image, from headers only.

    Raises:
        DatasetError: it cannot be read.
    """
    return grid_of(image) if isinstance(image, Series) else read_geometry(image)


def name_of_image(image: Image) -> str:
    """The file's name, or modality and description of the series: nothing of the patient."""
    return image.label if isinstance(image, Series) else image.name


def is_whole(array: NDArray) -> bool:
    """True if int16 holds every value exactly."""
    limits = np.iinfo(np.int16)
    fits = array.min() >= limits.min and array.max() <= limits.max
    return bool(fits and (array == np.rint(array)).all())
