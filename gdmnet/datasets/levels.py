"""What an image looks like beside its peers: HU levels, contrast, similarity to another patient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gdmnet.arrays.crop import bounding_box, crop
from gdmnet.arrays.resample import resample
from gdmnet.data.hounsfield import why_not_hounsfield

_PADDING = -1900.0  # HU; scanners fill corners with -2000, -2048 or -3024
_AIR = (-1100.0, -900.0)
_SOFT = (-140.0, 110.0)  # fat near -100, muscle and brain near 40
_BONE = 200.0  # HU that one voxel in a thousand of any body exceeds
_SHARES = (1, 5, 10, 25, 50, 75, 90, 95, 99)  # per cent
_UNLIKE, _DEVIATIONS = 0.2, 4.0
_SCALE = 20.0  # scanners differ by a factor of ten
_SIDE, _COARSE = 32, 2.0
_ALIKE = 0.9  # different brains reach 0.80, the same one shifted and with noise 0.95


def why_not_plausible(image: NDArray, body: NDArray) -> str | None:
    """Why a CT's values inside and outside the body cannot be Hounsfield units; None if they can.

    Args:
        image: (z, y, x) in the file's units.
        body: (z, y, x), non-zero inside the body.
    """
    reason = why_not_hounsfield(image)
    if reason is not None:
        return reason
    outside = image[(body == 0) & (image > _PADDING)]
    if outside.size:
        air = float(np.median(outside))
        if not _AIR[0] <= air <= _AIR[1]:
            return f"not in HU: air outside the body is at {air:.0f}, not near -1000"
    inside = image[body != 0]
    bone = float(np.percentile(inside, 99.9))
    if bone < _BONE:
        return f"no bone: 99.9 % of the body lies below {bone:.0f} HU; was the CT windowed?"
    counts, edges = np.histogram(inside, np.arange(-300, 401, 10))
    smooth = ndimage.gaussian_filter1d(counts.astype(float), 1.5)
    soft = float(edges[int(smooth.argmax())] + 5)
    if not _SOFT[0] <= soft <= _SOFT[1]:
        return f"not in HU: most of the soft tissue is at {soft:.0f}, not between -140 and 110"
    return None


def contrast(image: NDArray, body: NDArray) -> tuple[float, ...]:
    """The shape of an image's histogram inside the body, free of scale and offset.

    Percentiles 1 to 99 less the median, in units of the distance between percentiles 5 and 95.
    """
    values = np.percentile(image[body != 0], _SHARES)
    spread = max(float(values[7] - values[1]), 1e-12)
    return tuple(float(value) for value in (values - values[4]) / spread)


def outliers(medians: Sequence[float], contrasts: Sequence[tuple[float, ...]]) -> list[str | None]:
    """What sets an image apart from its peers of the same channel; None for most.

    Args:
        medians: of each image inside the body.
        contrasts: of each image.
    """
    if len(medians) < 3:  # who is the odd one out?
        return [None] * len(medians)
    curves = np.array(contrasts)
    distances = np.abs(curves - np.median(curves, axis=0)).mean(axis=1)
    limit = max(_UNLIKE, _DEVIATIONS * float(np.median(distances)))
    usual = float(np.median(medians))
    return [
        _oddity(median / usual if usual else 1.0, float(distance), limit)
        for median, distance in zip(medians, distances, strict=True)
    ]


def _oddity(ratio: float, distance: float, limit: float) -> str | None:
    if distance > limit:
        return "another contrast than the other cases; is it the right sequence?"
    if ratio <= 0 or not 1 / _SCALE <= ratio <= _SCALE:
        return f"values {ratio:.3g} times those of the other cases; is the scale right?"
    return None


def signature(image: NDArray, body: NDArray) -> NDArray:
    """A fingerprint of the anatomy: float32 (32768,), of length 1.

    The body's box on 32 x 32 x 32 voxels, without what is smooth: all heads are alike there.
    """
    box = bounding_box(body)
    small = resample(crop(image, box)[None].astype(np.float32), (_SIDE,) * 3, order=1)[0]
    fine = small - ndimage.gaussian_filter(small, _COARSE)
    fine -= fine.mean()
    return (fine / max(float(np.linalg.norm(fine)), 1e-12)).ravel()


def look_alikes(signatures: Sequence[NDArray | None]) -> list[tuple[int, int, float]]:
    """Pairs (earlier, later, similarity up to 1) of images that seem to show one patient.

    Args:
        signatures: of each image; None for one that cannot be compared.
    """
    known = [(i, signature) for i, signature in enumerate(signatures) if signature is not None]
    if not known:
        return []
    stacked = np.stack([signature for _, signature in known])
    similarity = stacked @ stacked.T
    pairs = np.argwhere(np.triu(similarity > _ALIKE, 1))
    return [(known[i][0], known[j][0], float(similarity[i, j])) for i, j in pairs]
