"""Where an array lies in the patient: axis order (z, y, x), millimetres, LPS inside the package."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gdmnet.errors import SettingError

Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]
_LARGEST = 3e38  # that a float32 in a header holds
SPACINGS = (0.02, 60.0)  # mm that a voxel of a patient's image may measure


def shape_of(array: NDArray) -> Shape:
    """The spatial shape (z, y, x) of an array (..., z, y, x)."""
    z, y, x = array.shape[-3:]
    return z, y, x


@dataclass(frozen=True)
class NiftiForms:
    """Both placements in a NIfTI header, verbatim: files on its grid carry them, too."""

    codes: tuple[int, int]  # of qform and sform; 0 where there is none
    pixdim: tuple[float, float, float, float]  # handedness of the qform (1, -1), then mm (x, y, z)
    qform: tuple[float, ...]  # quaternion b, c, d and offset (x, y, z) in mm, in RAS
    sform: tuple[float, ...]  # three rows of four, mm in RAS
    decided: str | None = None  # the form that the user chose, where the two differ

    def __post_init__(self) -> None:
        numbers = (*self.pixdim, *self.qform, *self.sform)
        _refuse_unless(
            codes=all(0 <= code < 1 << 15 for code in self.codes),
            qform=len(self.qform) == 6,
            sform=len(self.sform) == 12,
            pixdim=not any(abs(number) > _LARGEST for number in numbers),
        )


@dataclass(frozen=True)
class Geometry:
    """The grid of one image, seen in LPS, with what is needed to go back to the stored file.

    Origin and the nine direction cosines, row-major, are verbatim from the file, in LPS.
    """

    shape: Shape  # voxels along the LPS axes (z, y, x)
    spacing: Spacing  # mm along the LPS axes (z, y, x)
    itk_origin: tuple[float, float, float] = (0.0, 0.0, 0.0)  # mm (x, y, z)
    itk_direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    axes: tuple[int, int, int] = (0, 1, 2)  # `stored.transpose(axes)` has LPS axis order (z, y, x)
    flips: tuple[bool, bool, bool] = (False, False, False)  # axes (z, y, x) that are then reversed
    forms: NiftiForms | None = None  # of a NIfTI file
    is_oriented: bool = True  # whether the file tells how its axes lie in the patient

    def __post_init__(self) -> None:
        _refuse_unless(
            shape=min(self.shape) >= 1,
            spacing=all(0 < width < 1e5 for width in self.spacing),
            itk_direction=len(self.itk_direction) == 9,
            axes=sorted(self.axes) == [0, 1, 2],
        )

    @property
    def stored_shape(self) -> Shape:
        """Voxels along the axes (z, y, x) of the stored file."""
        z, y, x = (self.shape[axis] for axis in np.argsort(self.axes))
        return z, y, x

    @property
    def itk_spacing(self) -> tuple[float, float, float]:
        """Spacing (x, y, z) of the stored file."""
        z, y, x = (self.spacing[axis] for axis in np.argsort(self.axes))
        return x, y, z


def _refuse_unless(**fields: bool) -> None:
    """Raise a SettingError that names the first field that cannot be."""
    for name, can_be in fields.items():
        if not can_be:
            raise SettingError(f"{name} is none that a grid can have")


def placement_note(geometry: Geometry) -> str | None:
    """What a person should know of where an image lies in its patient; None if all is plain."""
    forms = geometry.forms
    if forms is not None and forms.decided:
        return f"sform and qform differ; placed by its {forms.decided}, as was asked for"
    if geometry.is_oriented:
        return None
    what = "no NRRD space, no matrix" if forms is None else "both NIfTI codes are 0"
    return (
        f"the file says nothing of its orientation ({what}): left, right and the order of the axes"
        " are a guess"
    )


def stored_geometry(
    shape: Sequence[int],
    spacing: Sequence[float],
    origin: Sequence[float] | NDArray,
    direction: NDArray,
) -> Geometry:
    """The grid of an array as a file stores it: voxels and mm along the stored axes (z, y, x).

    The origin is that of the first voxel, mm (x, y, z) in LPS; the direction's cosines (3, 3) are a
    column each of the stored x, y and z.
    """
    cosines = tuple(float(cosine) for cosine in direction.ravel())
    axes, flips = nearest_lps(cosines)
    x, y, z = (float(place) for place in origin)
    (a, b, c), first = axes, (x, y, z)
    sizes, widths = (shape[a], shape[b], shape[c]), (spacing[a], spacing[b], spacing[c])
    return Geometry(sizes, widths, first, cosines, axes, flips)


def nearest_lps(
    itk_direction: tuple[float, ...],
) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """The permutation and the flips that bring a stored array nearest to LPS, as in `Geometry`.

    The nine direction cosines are row-major; column k is the patient direction of the stored index
    axis k = x, y, z.
    """
    cosines = np.asarray(itk_direction, dtype=np.float64).reshape(3, 3)
    remaining = np.abs(cosines)
    stored_of_patient = [0, 0, 0]  # patient axis x, y, z -> stored index axis x, y, z
    for _ in range(3):
        patient, stored = np.unravel_index(int(np.argmax(remaining)), remaining.shape)
        stored_of_patient[int(patient)] = int(stored)
        remaining[patient, :] = -1.0
        remaining[:, stored] = -1.0
    axes = tuple(2 - stored_of_patient[2 - lps] for lps in range(3))
    flips = tuple(bool(cosines[2 - lps, stored_of_patient[2 - lps]] < 0) for lps in range(3))
    return (axes[0], axes[1], axes[2]), (flips[0], flips[1], flips[2])


def to_lps(stored: NDArray, geometry: Geometry) -> NDArray:
    """A stored (z, y, x) array in LPS axes: permuted and flipped, never interpolated."""
    permuted = stored.transpose(geometry.axes)
    return np.ascontiguousarray(np.flip(permuted, tuple(np.flatnonzero(geometry.flips))))


def to_stored(array: NDArray, geometry: Geometry) -> NDArray:
    """The inverse of `to_lps`."""
    flipped = np.flip(array, tuple(np.flatnonzero(geometry.flips)))
    return np.ascontiguousarray(flipped.transpose(np.argsort(geometry.axes)))


def lps_frame(geometry: Geometry) -> tuple[NDArray, NDArray]:
    """Origin (x, y, z) in mm and direction (3, 3) of the image once it lies in LPS axes."""
    stored = np.reshape(geometry.itk_direction, (3, 3))
    direction = stored[:, [2 - axis for axis in geometry.axes[::-1]]]  # columns x, y, z
    flips = np.array(geometry.flips[::-1])
    lengths = (np.array(geometry.shape[::-1]) - 1) * geometry.spacing[::-1]  # mm
    origin = geometry.itk_origin + (direction * (lengths * flips)).sum(axis=1)
    return origin, np.where(flips, -direction, direction)


def grid_difference(first: Geometry, second: Geometry) -> str | None:
    """The first way in which two grids differ, in words with both values; None if they agree.

    Tolerances allow for NIfTI's float32 header: 1e-3 of the spacing, 1e-3 of a direction cosine,
    and 1 % of the smallest spacing (at least 1e-3 mm) for the origin: of the file, where both are
    stored alike. A quaternion in float32 turns a volume by up to 5e-4, which moves its far corner.
    """
    if first.shape != second.shape:
        return f"shape {first.shape} against {second.shape} (z, y, x)"
    if not np.allclose(first.spacing, second.spacing, rtol=1e-3, atol=0):
        return f"spacing {shown(first.spacing)} against {shown(second.spacing)} mm (z, y, x)"
    first_origin, first_direction = lps_frame(first)
    second_origin, second_direction = lps_frame(second)
    if not np.allclose(first_direction, second_direction, rtol=0, atol=1e-3):
        cosines = shown(first_direction.ravel()), shown(second_direction.ravel())
        return f"direction {cosines[0]} against {cosines[1]}"
    if (first.axes, first.flips) == (second.axes, second.flips):
        first_origin, second_origin = np.array(first.itk_origin), np.array(second.itk_origin)
    tolerance = max(1e-3, 0.01 * min(first.spacing))
    if not np.allclose(first_origin, second_origin, rtol=0, atol=tolerance):
        return f"origin {shown(first_origin)} against {shown(second_origin)} mm (x, y, z)"
    return None


def shown(values: Iterable[float]) -> str:
    """Numbers in words: (1.5, 1.5, 3)."""
    return f"({', '.join(f'{value:g}' for value in values)})"
