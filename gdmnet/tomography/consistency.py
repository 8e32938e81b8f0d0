"""Make a volume agree with the line integrals that were measured of it.

The volume x0 is moved to the most likely one given the measurement p and the belief that x0 is
right up to some error: the minimum over x of

    sum w (p - A x)^2 + |x - x0|^2 / error^2,    1 / w = exp(p) / photons + mismatch^2,

where the first term of 1 / w is the variance of a line integral of Poisson counts (Sauer & Bouman,
IEEE TSP 41, 1993) and the second what the projector itself may be wrong by. What no view sees stays
as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gdmnet.tomography.blocks import slabs
from gdmnet.tomography.physics import attenuation
from gdmnet.tomography.projection import project, project_adjoint
from gdmnet.tomography.record import Acquisition

EXPECTED_ERROR = 40.0
"""HU by which a volume may be wrong: measured, 20 changes too little and 80 lets noise in."""
PADDING = -1023.5
"""HU: what lies at or below the floor of 12-bit CT, -1024, is no tissue, but filled in."""
_MISMATCH = 0.01  # of a line integral: pixels are no tissue, a bin is no ray
_USUAL_PHOTONS = 1e5  # where the record of a scan does not say


@dataclass(frozen=True)
class _Problem:
    """What is measured and not yet explained, of a few slices.

    Attributes:
        residual: (z, views, bins), p - A x0.
        weights: (z, views, bins), of the squared residual.
        belief: weight of the squared change in (1/mm)^2.
        acquisition: of the sinogram.
    """

    residual: NDArray
    weights: NDArray
    belief: float
    acquisition: Acquisition

    def forward(self, change: NDArray) -> NDArray:
        return project(change, self.acquisition.spacing, self.acquisition.scan)

    def adjoint(self, sinogram: NDArray) -> NDArray:
        grid = self.acquisition.slice_grid
        return project_adjoint(sinogram, grid.shape, grid.spacing, self.acquisition.scan)


def data_consistent(
    volume: NDArray,
    sinogram: NDArray,
    acquisition: Acquisition,
    *,
    outside: NDArray | None = None,
    method: str = "cg",
    iterations: int = 8,
) -> NDArray:
    """A few iterations on the measured views, starting from a volume.

    Args:
        volume: (z, y, x) in HU, on the acquisition's grid.
        sinogram: (z, views, bins), the measured line integrals.
        acquisition: of the sinogram.
        outside: (z, y, x) in HU, what stands for the padding of the volume (-1024 HU and less)
            while it is projected: a prediction ends at the body, but rays pass the couch as well.
        method: a name in `METHODS`.
        iterations: steps; 0 changes nothing.

    Returns:
        float32 (z, y, x) in HU; padding stays as it is.

    Raises:
        ValueError: a volume or sinogram of another shape.
    """
    scan = acquisition.scan
    wanted = (len(volume), scan.n_views, scan.detector.n_bins)
    if volume.shape != acquisition.grid.shape or sinogram.shape != wanted:
        raise ValueError(f"volume {volume.shape} and sinogram {sinogram.shape} do not fit the scan")
    padding = volume <= PADDING
    whole = volume if outside is None else np.where(padding, outside, volume)
    result = volume.astype(np.float32)
    for part in slabs(len(volume)):  # slices do not depend on each other
        start = attenuation(whole[part], acquisition.mu_water)
        measured = sinogram[part].astype(np.float32)
        residual = measured - project(start, acquisition.spacing, scan)
        belief = (1000 / (EXPECTED_ERROR * acquisition.mu_water)) ** 2
        problem = _Problem(residual, _weights(measured, acquisition), belief, acquisition)
        change = METHODS[method](problem, iterations) * (1000 / acquisition.mu_water)
        result[part] += np.where(padding[part], 0, change)
    return result


def _weights(measured: NDArray, acquisition: Acquisition) -> NDArray:
    simulation = acquisition.simulation
    photons = _USUAL_PHOTONS if simulation is None else simulation.photons
    if photons is None:
        return np.full_like(measured, 1 / _MISMATCH**2)
    electronic = 0.0 if simulation is None else simulation.electronic_noise
    share = np.exp(np.minimum(measured, np.log(photons))) / np.float32(photons)  # 1 / counts
    variance = share + electronic**2 * share**2 + np.float32(_MISMATCH**2)
    return (1 / variance).astype(np.float32)


def _conjugate_gradients(problem: _Problem, iterations: int) -> NDArray:
    """Preconditioned by the diagonal: rays through the middle of a body weigh thousandfold less."""
    diagonal = problem.adjoint(problem.weights) * np.float32(problem.acquisition.spacing[1])
    diagonal += np.float32(problem.belief)
    gradient = problem.adjoint(problem.weights * problem.residual)
    change = np.zeros_like(gradient)
    step = gradient / diagonal
    power = _dots(gradient, step)
    for _ in range(iterations):
        image = problem.adjoint(problem.weights * problem.forward(step))
        image += np.float32(problem.belief) * step
        length = power / np.maximum(_dots(step, image), 1e-30)
        change += length * step
        gradient -= length * image
        scaled = gradient / diagonal
        before, power = power, _dots(gradient, scaled)
        step = scaled + power / np.maximum(before, 1e-30) * step
    return change


def _sirt(problem: _Problem, iterations: int) -> NDArray:
    """Simultaneous iterative reconstruction (Gilbert, J. Theor. Biol. 36, 1972), without weights.

    x := x + C A' R (p - A x), where R and C divide by the sums of the rows and columns of A.
    """
    rows = problem.forward(np.ones((1, *problem.acquisition.slice_grid.shape), np.float32))
    shortest = min(problem.acquisition.spacing)  # rays that only touch a corner count little
    columns = problem.adjoint(np.ones_like(rows))
    change = np.zeros((len(problem.residual), *columns.shape[1:]), np.float32)
    for _ in range(iterations):
        unexplained = problem.residual - problem.forward(change)
        change += problem.adjoint(unexplained / np.maximum(rows, shortest)) / columns
    return change


METHODS: dict[str, Callable[[_Problem, int], NDArray]] = {"cg": _conjugate_gradients, "sirt": _sirt}
"""How to solve it, by name: conjugate gradients of the above, or SIRT, slower and simpler."""


def _dots(first: NDArray, second: NDArray) -> NDArray:
    """The inner product slice by slice, (z, 1, 1)."""
    products = np.einsum("zyx,zyx->z", first, second, dtype=np.float64)
    dots: NDArray = products.astype(np.float32)[:, None, None]
    return dots
