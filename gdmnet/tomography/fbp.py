"""Filtered back-projection of parallel and fan-beam sinograms, pixel by pixel."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray
from scipy import fft, sparse

from gdmnet.errors import DatasetError
from gdmnet.tomography.projection import ViewBlocks, hounsfield, product, slabs
from gdmnet.tomography.scan import CURVED, Acquisition, Grid, Scan

WINDOWS: dict[str, Callable[[NDArray], NDArray]] = {
    "ram-lak": np.ones_like,
    "shepp-logan": lambda f: np.sinc(f / 2),
    "cosine": lambda f: np.cos(np.pi * f / 2),
    "hamming": lambda f: 0.54 + 0.46 * np.cos(np.pi * f),
    "hann": lambda f: 0.5 + 0.5 * np.cos(np.pi * f),
}
"""A name in `FILTERS` -> a frequency, as a share (0 to 1) of the highest that the detector samples,
to the factor on the ramp."""

_TRUNCATED = 0.01  # mean of the outermost bins as a share of the largest value


def reconstruct(sinogram: NDArray, grid: Grid, scan: Scan, *, window: str = "hann") -> NDArray:
    """Slices, float32 (z, y, x) in 1/mm, from line integrals (z, views, bins).

    They are zero where not all views see the pixel; `window` is a name in `FILTERS`.

    Raises:
        DatasetError: the arc of a fan is too short.
    """
    weights, truncated = view_weights(scan), is_truncated(sinogram)
    volume = np.zeros((len(sinogram), *grid.shape), dtype=np.float32)
    for views, matrix in back_projector(scan, grid):
        for part in slabs(len(sinogram)):
            rows = sinogram[part, views] * weights[views]
            filtered = filter_rows(rows, scan, window, truncated=truncated)
            volume[part] += product(matrix, filtered, grid.shape)
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


def is_truncated(sinogram: NDArray) -> bool:
    """Whether the object reaches beyond the detector: its outermost bins are not near zero."""
    edges = sinogram[..., [0, -1]]
    return bool(edges.mean() > _TRUNCATED * sinogram.max())


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
    if scan.source_distance is not None and spare < np.abs(gamma).max() - 1e-9:
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
    if is_full or spare <= 0:
        shape = np.broadcast_shapes(beta.shape, gamma.shape)
        return np.full(shape, 0.5 if is_full else 1.0)
    before, after = (np.maximum(spare + sign * gamma, 1e-9) for sign in (1, -1))
    rising = np.minimum(beta / before, 2)
    falling = np.minimum((np.pi + 2 * spare - beta) / after, 2)
    share: NDArray = np.sin(np.pi / 4 * rising) ** 2 * np.sin(np.pi / 4 * falling) ** 2
    return share


def ramp(n_bins: int, pitch: float, angle: float | None = None) -> NDArray:
    """The band-limited ramp in space: Kak & Slaney 1988, eq. 3.61 (parallel) and 3.92 (fan).

    h(0) = 1 / (4 pitch^2), h(n) = -1 / (pi n pitch)^2 for odd n, else 0, pitch in mm; on a curved
    detector, whose bins are `angle` radians apart, times (n angle / sin(n angle))^2.

    Returns:
        float64 (2 n_bins - 1,), n = 0 at index n_bins - 1, in 1/mm^2.
    """
    n = np.arange(1 - n_bins, n_bins)
    kernel = np.zeros(n.size)
    odd = n % 2 != 0
    kernel[odd] = -1 / (np.pi * n[odd] * pitch) ** 2
    kernel[n == 0] = 1 / (4 * pitch**2)
    if angle is not None:
        kernel[odd] *= (n[odd] * angle / np.sin(n[odd] * angle)) ** 2
    return kernel


def filter_rows(sinogram: NDArray, scan: Scan, window: str, *, truncated: bool = False) -> NDArray:
    """Convolve each row with the windowed ramp.

    Rows are padded with zeros so that the convolution does not wrap around. Truncated rows are
    continued by a soft slope to zero instead: a step at the detector's end would become a bright
    rim about the field of view.

    Returns:
        float32 (..., bins), in 1/mm.
    """
    pitch, angle = scan.pitch(), scan.fan_step()
    n_bins, n_extra = sinogram.shape[-1], 0
    if truncated:  # continued by so many bins, on a curved detector in front of the source
        room = n_bins // 2 if angle is None else int(3 / angle) - n_bins
        n_extra = max(0, min(n_bins // 2, room))
    half = n_bins + n_extra
    size = fft.next_fast_len(2 * half - 1, real=True)
    kernel = np.zeros(size)
    kernel[: 2 * half - 1] = ramp(half, pitch, angle)
    response = pitch * fft.rfft(np.roll(kernel, 1 - half)).real
    response *= WINDOWS[window](2 * fft.rfftfreq(size))
    slope = np.cos(np.pi / 2 * np.arange(1, n_extra + 1, dtype=np.float32) / (n_extra + 1)) ** 2
    ends = sinogram[..., :1] * slope[::-1], sinogram[..., -1:] * slope
    spectrum = fft.rfft(np.concatenate([ends[0], sinogram, ends[1]], axis=-1), size)
    spectrum *= response.astype(np.float32)
    filtered: NDArray = fft.irfft(spectrum, size)[..., n_extra : n_extra + n_bins]
    return filtered


@lru_cache(maxsize=4)
def back_projector(scan: Scan, grid: Grid) -> ViewBlocks:
    """The matrix (pixels, rays): for each pixel and view the two bins about its shadow.

    In a fan weighted by (D / L)^2, L the pixel's distance from the source on a curved detector, and
    that distance along the central ray on a flat one (Kak & Slaney 1988, eq. 3.98 and 3.107).
    """
    return ViewBlocks(partial(_matrix, scan, grid), scan.n_views, 2 * grid.shape[0] * grid.shape[1])


def _matrix(scan: Scan, grid: Grid, first: int, stop: int) -> sparse.csr_array:
    angles = scan.angles()[first:stop]
    n_pixels, n_bins = grid.shape[0] * grid.shape[1], scan.detector.n_bins
    bins = np.empty((n_pixels, angles.size, 2), dtype=np.int32)
    weights = np.empty(bins.shape, dtype=np.float32)
    for view, angle in enumerate(angles):
        place, weight = _shadow(scan, grid, angle)
        lower = np.clip(np.floor(place), 0, n_bins - 2)
        share = np.clip(place - lower, 0, 1)
        bins[:, view, 0] = lower + view * n_bins
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
