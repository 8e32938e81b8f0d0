"""Where a case's target counts and its patient is; and the bias field of MR images there.

The field, which coils and not tissue made bright or dark, is found by N4 (Tustison et al., IEEE TMI
2010) of SimpleITK on a coarse copy of the body, and divided out.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from gdmnet.arrays.body import body_mask, region_of
from gdmnet.arrays.crop import bounding_box, crop
from gdmnet.arrays.resample import resample, resample_mask, resampled_shape
from gdmnet.data.case import Volume
from gdmnet.errors import DatasetError
from gdmnet.geometry import Spacing, shape_of
from gdmnet.plan import BiasCorrection, Region

GIVEN = "given"  # the rule of a mask that came with the case
CORRECTED = ("zscore", "percentiles")
"""The schemes whose channels are corrected: the numbers of the others (CT, none) mean something."""

# A known field on a real brain MR is found with a correlation of 0.92 on a grid of 6 mm, 0.89 on a
# grid of 8 mm, and 0.77 with a fourth level: its mesh is fine enough to follow the anatomy.
_GRID = 6.0  # mm
_LEVELS = 3  # of the spline: 1, 2 and 4 meshes an axis
_ITERATIONS = 50  # a level, at most; N4's own default
_LEAST_POSITIVE = 0.5  # share of the body; a gain makes no negative values
_ONE_THREAD = threading.Lock()  # ITK's number of threads is one setting for the whole process


@dataclass(frozen=True)
class Body:
    """Masks on the sources' grid, uint8 (z, y, x)."""

    counted: NDArray  # where the target counts
    rule: str  # that made it
    patient: NDArray  # what intensities, the bias field and centres of patches are taken from


def find_body(
    sources: Volume, schemes: Sequence[str], region: Region, mask: Volume | None, *, case: str
) -> Body:
    """The body of a case: the given mask, above 0 inside, or else found in the sources.

    The sources are (c, z, y, x) in file units, with the normalisation of each channel ("ct" is in
    HU), the mask (1, z, y, x). The region says where the target counts unless a mask is given; the
    case is named in complaints.

    Raises:
        DatasetError: the mask is empty.
    """
    if mask is not None:
        given = (mask.array[0] > 0).astype(np.uint8)
        if not given.any():
            raise DatasetError(f"case {case}: the mask is empty; mark the body, or remove it")
        return Body(given, GIVEN, given)
    spacing = sources.geometry.spacing
    patient, rule = body_mask(sources.array, spacing, [scheme == "ct" for scheme in schemes])
    if region == "body":
        return Body(patient, rule, patient)
    return Body(region_of(region, patient, spacing), region, patient)


def without_bias(
    sources: Volume, schemes: Sequence[str], method: BiasCorrection, body: Body
) -> NDArray:
    """The sources (c, z, y, x) with the bias field of channels on an arbitrary scale divided out.

    The field has the geometric mean 1 in the body, so that the level of the image stays. It is
    found in the body as `body_mask` computes it, where masks are given, too: there are none at
    prediction, and masks with a rim of air would lead N4 astray. The method "none" gives the same
    array back.

    Raises:
        DatasetError: a channel is not positive in most of the body.
    """
    chosen = [i for i, scheme in enumerate(schemes) if scheme in CORRECTED]
    if method == "none" or not chosen:
        return sources.array
    inside, spacing = body.patient, sources.geometry.spacing
    if body.rule == GIVEN:
        inside, _ = body_mask(sources.array, spacing, [scheme == "ct" for scheme in schemes])
    corrected = sources.array.copy()
    for channel in chosen:
        try:
            corrected[channel] /= np.exp(log_field(corrected[channel], inside, spacing))
        except DatasetError as problem:
            raise DatasetError(f"source channel {channel}: {problem}") from None
    return corrected


def log_field(image: NDArray, body: NDArray, spacing: Spacing) -> NDArray:
    """The logarithm of the bias field by N4: float32 (z, y, x), mean 0 in the body.

    The same to the bit on one machine, whatever the number of threads: N4 runs on one. The body is
    non-zero inside, the spacing in mm (z, y, x).

    Raises:
        DatasetError: the image is not positive in most of the body.
    """
    box = bounding_box(body)
    part, inside = crop(image, box), crop(body, box) != 0
    shape = resampled_shape(shape_of(part), spacing, (_GRID, _GRID, _GRID))
    small = resample(part[None].astype(np.float32), shape, order=1)[0]
    small_inside = resample_mask(inside, shape) != 0
    positive = small_inside & (small > 0)
    if positive.sum() <= _LEAST_POSITIVE * small_inside.sum():
        raise DatasetError(
            "is not positive in most of the body, so that no gain can be found: it was normalised"
            " already; give the original image, or plan with --bias-correction none"
        )
    sides = [width * n / n_new for width, n, n_new in zip(spacing, part.shape, shape, strict=True)]
    field = resample(_n4(small, positive, sides)[None], shape_of(part), order=1)[0]
    field -= field[inside].mean(dtype=np.float64)
    margins = [(first, n - stop) for (first, stop), n in zip(box, image.shape, strict=True)]
    return np.pad(field, margins, mode="edge")


def _n4(image: NDArray, inside: NDArray, spacing: Sequence[float]) -> NDArray:
    """The logarithm of the field on the grid of the image; axes of one voxel are left out."""
    axes = tuple(axis for axis, n in enumerate(image.shape) if n == 1)
    flat, flat_inside = (np.squeeze(array, axes) for array in (image, inside.astype(np.uint8)))
    if flat.ndim < 2:  # a line of voxels: nothing to fit a surface to
        return np.zeros_like(image)
    itk_spacing = [width for axis, width in enumerate(spacing) if axis not in axes][::-1]
    itk_image, itk_mask = sitk.GetImageFromArray(flat), sitk.GetImageFromArray(flat_inside)
    itk_image.SetSpacing(itk_spacing)
    itk_mask.SetSpacing(itk_spacing)
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations([_ITERATIONS] * _LEVELS)
    with _ONE_THREAD:
        before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
        try:
            n4.Execute(itk_image, itk_mask)
            field = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(itk_image))
        finally:
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
    return np.reshape(field, image.shape).astype(np.float32)
