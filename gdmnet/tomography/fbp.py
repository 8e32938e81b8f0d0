"""Filtered back-projection of parallel and fan-beam sinograms, pixel by pixel."""

from __future__ import annotations

from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from gdmnet.errors import DatasetError
from gdmnet.tomography.blocks import ViewBlocks, columns, rows, slabs
from gdmnet.tomography.filtering import filter_rows, is_truncated
from gdmnet.tomography.physics import hounsfield
from gdmnet.tomography.record import Acquisition
from gdmnet.tomography.scan import Grid, Scan
from gdmnet.tomography.settings import CURVED


def reconstruct(sinogram: NDArray, grid: Grid, scan: Scan, *, window: str = "hann") -> NDArray:
    """Slices from line integrals.

    Args:
        sinogram: (z, views, bins), without unit.
        grid: of a slice.
        scan: what was measured.
        window: a name in `FILTERS`.

    Returns:
        float32 (z, y, x), attenuation in 1/mm; zero where not all views see the pixel.

    Raises:
        DatasetError: the arc of a fan is too short.
    """
    weights = view_weights(scan)
    truncated = is_truncated(sinogram)
    volume = np.zeros((len(sinogram), *grid.shape), dtype=np.float32)
    for views, matrix in back_projector(scan, grid):
        for part in slabs(len(sinogram)):
            filtered = filter_rows(
                sinogram[part, views] * weights[views],
                scan.pitch(),
                window,
                angle=scan.fan_step(),
                truncated=truncated,
            )
            volume[part] += rows(matrix @ columns(filtered), grid.shape)
    volume[:, ~seen(scan, grid)] = 0
    return volume


def reconstruct_hounsfield(
    sinogram: NDArray, acquisition: Acquisition, *, window: str = "hann"
) -> NDArray:
    """The volume that was acquired, float32 (1, z, y, x) in HU; arguments as for `reconstruct`."""
    mu = reconstruct(sinogram, acquisition.slice_grid, acquisition.scan, window=window)
    return hounsfield(mu, acquisition.mu_water)[None]


def seen(scan: Scan, grid: Grid) -> NDArray:
    """Which pixels (rows, columns) lie in the field of view, the circle that all views see."""
    y, x = grid.coordinates()
    inside: NDArray = np.hypot(y[:, None], x) <= scan.radius()
    return inside


def view_weights(scan: Scan) -> NDArray:
    """float32 (views, bins): what line integrals are multiplied by before they are filtered.

    The step of the view angle in radians, the cosine of the fan angle (Kak & Slaney 1988, eq. 3.94
    and 3.105, both detectors at the isocentre) and the share of each ray in what all rays
    along its line count: 1 on a half turn, 1/2 on a full one, between them the smooth weights of
    Parker (Med. Phys. 9, 1982) with the overscan as fan angle (Silver, Med. Phys. 27, 2000).

    Raises:
        DatasetError: the arc of a fan is shorter than a half turn plus the fan.
    """
    arc, gamma = np.deg2rad(scan.arc), scan.fan_angles()
    step = arc / scan.n_views
    spare = (arc - np.pi) / 2
    if scan.is_fan and spare < np.abs(gamma).max() - 1e-9:
        least = 180 + 2 * np.rad2deg(np.abs(gamma).max())
        raise DatasetError(
            f"an arc of {scan.arc:g} degrees is too short for this fan, which needs {least:.0f} for"
            " filtered back-projection"
        )
    beta = step * np.arange(scan.n_views)[:, None]
    weights = step * np.cos(gamma) * _share(beta, gamma, spare, is_full=scan.arc == 360)
    return weights.astype(np.float32)


def _share(beta: NDArray, gamma: NDArray, spare: float, *, is_full: bool) -> NDArray:
    """The share of the ray (beta, gamma) among the rays along its line; spare: overscan / 2."""
    shape = np.broadcast_shapes(beta.shape, gamma.shape)
    if is_full:
        return np.full(shape, 0.5)
    if spare <= 0:
        return np.ones(shape)
    before, after = (np.maximum(spare + sign * gamma, 1e-9) for sign in (1, -1))
    rising = np.minimum(beta / before, 2)
    falling = np.minimum((np.pi + 2 * spare - beta) / after, 2)
    share: NDArray = np.sin(np.pi / 4 * rising) ** 2 * np.sin(np.pi / 4 * falling) ** 2
    return share


@lru_cache(maxsize=4)
def back_projector(scan: Scan, grid: Grid) -> ViewBlocks:
    """The matrix (pixels, rays): for each pixel and view the two bins about its shadow.

    In a fan weighted by (D / L)^2, L the pixel's distance from the source on a curved detector, and
    that distance along the central ray on a flat one (Kak & Slaney 1988, eq. 3.98 and 3.107).
    """
    return ViewBlocks(partial(_matrix, scan, grid), scan.n_views, 2 * grid.shape[0] * grid.shape[1])


def _matrix(scan: Scan, grid: Grid, views: slice) -> sparse.csr_array:
    angles = scan.angles()[views]
    n_pixels, n_bins = grid.shape[0] * grid.shape[1], scan.detector.n_bins
    bins = np.empty((n_pixels, angles.size, 2), dtype=np.int32)
    weights = np.empty(bins.shape, dtype=np.float32)
    for view, angle in enumerate(angles):
        place, weight = _shadow(scan, grid, angle)
        first = np.clip(np.floor(place), 0, n_bins - 2)
        share = np.clip(place - first, 0, 1)
        bins[:, view, 0] = first + view * n_bins
        bins[:, view, 1] = bins[:, view, 0] + 1
        weights[:, view, 0] = weight * (1 - share)
        weights[:, view, 1] = weight * share
    ends = np.arange(0, bins.size + 1, 2 * angles.size, dtype=np.int32)
    return sparse.csr_array(
        (weights.ravel(), bins.ravel(), ends), shape=(n_pixels, angles.size * n_bins)
    )


def _shadow(scan: Scan, grid: Grid, angle: float) -> tuple[NDArray, NDArray | float]:
    """Where each pixel (flat) falls on the detector, in bins, and its weight."""
    y, x = grid.coordinates()
    cosine, sine = np.cos(angle), np.sin(angle)
    side = (x * cosine + y[:, None] * sine).ravel()  # mm from the central ray
    middle = (scan.detector.n_bins - 1) / 2 - scan.detector.offset
    if scan.source_distance is None:
        return side / scan.pitch() + middle, 1.0
    distance = scan.source_distance
    depth = (distance - x * sine + y[:, None] * cosine).ravel()  # mm from the source
    if scan.detector.shape == CURVED:
        place = distance * np.arctan2(side, depth)
        weight = distance**2 / (side**2 + depth**2)
    else:
        place, weight = distance * side / depth, (distance / depth) ** 2
    return place / scan.pitch() + middle, weight
