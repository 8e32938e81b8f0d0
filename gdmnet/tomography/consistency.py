"""Make a volume agree with the line integrals that were measured of it.

The volume x0 is moved to the most likely one given the measurement p and the belief that x0 is
right up to some error: the minimum over x of

    sum w (p - A x)^2 + sum (x - x0)^2 / error^2,    1 / w = exp(p) / photons + mismatch^2,

where the first term of 1 / w is the variance of a line integral of Poisson counts (Sauer & Bouman,
IEEE TSP 41, 1993) and the second what the projector itself may be wrong by. A volume may be wrong
at its edges more than where it is flat. What no view sees stays as it was.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gdmnet.arrays.body import filled_slices
from gdmnet.tomography.projection import project, project_adjoint, slabs
from gdmnet.tomography.scan import Acquisition

# What a volume may be wrong by: HU, and share of the range about a voxel. Measured on blurred CTs
# and reconstructions of real patients; the same everywhere gains less.
_FLAT, _EDGE = 20.0, 0.2
_OUTSIDE = 200.0  # HU: what the stand-in outside a prediction may be wrong by
_AIR_BELOW = -700.0  # HU: couches are denser, the streaks of few views in air are not
_FLOOR = -1023.5  # HU: -1024, the lowest value of 12-bit CT, is what images are padded with
_MISMATCH = 0.01  # of a line integral: pixels are no tissue, a bin is no ray
_USUAL_PHOTONS = 1e5  # where the record of a scan does not say


def data_consistent(
    volume: NDArray,
    sinogram: NDArray,
    acquisition: Acquisition,
    *,
    outside: NDArray | None = None,
    iterations: int = 12,
) -> NDArray:
    """A few iterations on the measured views, starting from a volume.

    Args:
        volume: (z, y, x) in HU, on the acquisition's grid.
        sinogram: (z, views, bins), the measured line integrals.
        acquisition: of the sinogram.
        outside: (z, y, x) in HU, a reconstruction of the same views, which stands for the padding
            about the volume's body (-1024 HU) while it is projected: a prediction ends at the body,
            but rays pass the couch as well. Its streaks in air are left out.
        iterations: steps; 0 changes nothing.

    Returns:
        float32 (z, y, x) in HU; padding stays as it is.

    Raises:
        ValueError: a volume or sinogram of another shape.
    """
    fits = volume.shape == acquisition.grid.shape and sinogram.shape == acquisition.sinogram_shape
    if not fits:
        raise ValueError(f"volume {volume.shape} and sinogram {sinogram.shape} do not fit the scan")
    result = volume.astype(np.float32)
    for part in slabs(len(volume)):  # slices do not depend on each other
        # What is filled in about the body, not the air in it: floor that joins the slice's border.
        padding = ~filled_slices(volume[part] > _FLOOR, axis=0)
        whole = np.where(padding, -1000.0, volume[part])
        if outside is not None:
            whole = np.where(padding & (outside[part] > _AIR_BELOW), outside[part], whole)
        measured = sinogram[part].astype(np.float32)
        start = acquisition.mu_water * (1 + whole / 1000)  # noise in air must not be clipped
        residual = measured - project(start, acquisition.slice_grid, acquisition.scan)
        error = np.where(padding, _OUTSIDE, _expected_error(whole))
        belief = ((1000 / (acquisition.mu_water * error)) ** 2).astype(np.float32)
        weights = _weights(measured, acquisition)
        change = _most_likely_change(residual, weights, belief, acquisition, iterations)
        result[part] += np.where(padding, 0, change * (1000 / acquisition.mu_water))
    return result


def _expected_error(hu: NDArray) -> NDArray:
    """What each voxel of (z, y, x) may be wrong by in HU: more where its slice has an edge."""
    smooth = ndimage.gaussian_filter(hu, (0, 0.7, 0.7))  # not every grain is an edge
    size = (1, 3, 3)
    spread = ndimage.maximum_filter(smooth, size) - ndimage.minimum_filter(smooth, size)
    return np.asarray(_FLAT + _EDGE * spread)


def _weights(measured: NDArray, acquisition: Acquisition) -> NDArray:
    simulation = acquisition.simulation
    photons = _USUAL_PHOTONS if simulation is None else simulation.photons
    if photons is None:
        return np.full_like(measured, 1 / _MISMATCH**2)
    electronic = 0.0 if simulation is None else simulation.electronic_noise
    share = np.exp(np.minimum(measured, np.log(photons))) / np.float32(photons)  # 1 / counts
    variance = share + electronic**2 * share**2 + np.float32(_MISMATCH**2)
    return (1 / variance).astype(np.float32)


def _most_likely_change(
    residual: NDArray, weights: NDArray, belief: NDArray, acquisition: Acquisition, iterations: int
) -> NDArray:
    """The minimum over d of sum w (r - A d)^2 + sum b d^2, by conjugate gradients from d = 0.

    Preconditioned by the diagonal: rays through the middle of a body weigh thousandfold less.
    Residual r = p - A x0 and weights are (z, views, bins), the belief b is (z, y, x) in mm^2.
    """
    grid, scan = acquisition.slice_grid, acquisition.scan
    back = partial(project_adjoint, grid=grid, scan=scan)
    diagonal = back(weights) * np.float32(grid.spacing[1]) + belief  # (z, y, x)
    gradient = back(weights * residual)  # A' w r
    change = np.zeros_like(gradient)
    step = gradient / diagonal
    power = _dots(gradient, step)
    for _ in range(iterations):
        image = back(weights * project(step, grid, scan)) + belief * step  # (A' w A + b) s
        length = power / np.maximum(_dots(step, image), 1e-30)
        change += length * step
        gradient -= length * image
        scaled = gradient / diagonal
        before, power = power, _dots(gradient, scaled)
        step = scaled + power / np.maximum(before, 1e-30) * step
    return change


def _dots(first: NDArray, second: NDArray) -> NDArray:
    """The inner product slice by slice, (z, 1, 1)."""
    products = np.einsum("zyx,zyx->z", first, second, dtype=np.float64)
    return np.asarray(products, np.float32)[:, None, None]
