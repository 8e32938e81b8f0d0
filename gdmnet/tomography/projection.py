"""What a scanner measures of a volume: line integrals, their exact adjoint, and counted photons.

scipy multiplies a sparse matrix with all columns of a dense matrix at once. The columns are the
slices of a volume, so that every index that is read serves many slices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, lru_cache, partial

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from gdmnet.tomography.scan import Grid, Scan

BLOCK_BYTES = 2**27  # of one matrix: what is in work besides what is kept
KEPT_BYTES = 2**29  # of all matrices of one operator; beyond that they are made anew each time
SLAB = 16  # slices at a time: one cache line of float32 a pixel
RAYS_PER_BIN = 2  # a bin is as wide as a pixel: two rays say more about what it counts than one

_BYTES_PER_ENTRY = 8  # float32 and int32
_Axis = tuple[NDArray, float, int]


def attenuation(hu: NDArray, mu_water: float) -> NDArray:
    """Attenuation mu_water (1 + HU / 1000) in 1/mm, float32; nothing is thinner than vacuum."""
    mu = hu.astype(np.float32) * np.float32(mu_water / 1000) + np.float32(mu_water)
    return np.maximum(mu, 0, out=mu)


def hounsfield(mu: NDArray, mu_water: float) -> NDArray:
    """Hounsfield units 1000 (mu / mu_water - 1), float32."""
    return mu.astype(np.float32) * np.float32(1000 / mu_water) - np.float32(1000)


def measure(
    volume: NDArray,
    grid: Grid,
    scan: Scan,
    rng: np.random.Generator,
    *,
    photons: float | None,
    electronic_noise: float = 0.0,
) -> NDArray:
    """The line integrals that a scanner would report: finite bins, photon and electronic noise.

    Each bin collects `RAYS_PER_BIN` rays. It counts Poisson(photons * mean of exp(-line integral)),
    plus a normal deviate of the electronics; less than one photon counts as one; the line integral
    is -log(count / photons). Slices draw their noise in order.

    Args:
        volume: (z, y, x), attenuation in 1/mm.
        grid: of a slice.
        scan: what is measured.
        rng: of the noise.
        photons: that reach a bin through air; None is without any noise.
        electronic_noise: standard deviation in photons.

    Returns:
        float32 (z, views, bins), without unit.
    """
    transmitted = np.zeros((len(volume), scan.n_views, scan.detector.n_bins), dtype=np.float32)
    for share in (np.arange(RAYS_PER_BIN) + 0.5) / RAYS_PER_BIN - 0.5:
        offset = scan.detector.offset + float(share)
        ray = replace(scan, detector=replace(scan.detector, offset=offset))
        transmitted += np.exp(-project(volume, grid, ray)) / RAYS_PER_BIN
    if photons is None:
        return -np.log(np.maximum(transmitted, np.finfo(np.float32).tiny))
    for row in transmitted:  # slice by slice: Poisson needs float64
        counts = rng.poisson(photons * row.astype(np.float64)).astype(np.float64)
        if electronic_noise > 0:
            counts += rng.normal(0.0, electronic_noise, counts.shape)
        row[...] = np.maximum(counts, 1) / photons
    return -np.log(transmitted)


def project(volume: NDArray, grid: Grid, scan: Scan) -> NDArray:
    """Line integrals, float32 (z, views, bins), of every slice of a (z, y, x) in 1/mm."""
    sinogram = np.empty((len(volume), scan.n_views, scan.detector.n_bins), dtype=np.float32)
    for views, matrix in projector(scan, grid):
        for part in slabs(len(volume)):
            sinogram[part, views] = product(matrix, volume[part], (-1, scan.detector.n_bins))
    return sinogram


def project_adjoint(sinogram: NDArray, grid: Grid, scan: Scan) -> NDArray:
    """Spread line integrals (z, views, bins) back along their rays, float32 (z, y, x).

    The exact adjoint, by the same matrix: the inner products <project(v), s> and
    <v, project_adjoint(s)> are equal.
    """
    volume = np.zeros((len(sinogram), *grid.shape), dtype=np.float32)
    for views, matrix in projector(scan, grid):
        for part in slabs(len(sinogram)):
            volume[part] += product(matrix.T, sinogram[part, views], grid.shape)
    return volume


class ViewBlocks:
    """The matrix of a scan in blocks of consecutive views: kept where all fit, else made anew.

    `build` makes that of the views from a first to before a last; `entries_per_view` is at most so.
    """

    def __init__(
        self, build: Callable[[int, int], sparse.csr_array], n_views: int, entries_per_view: int
    ) -> None:
        bytes_per_view = _BYTES_PER_ENTRY * entries_per_view
        step = max(1, BLOCK_BYTES // bytes_per_view)
        self._ends = [(i, min(i + step, n_views)) for i in range(0, n_views, step)]
        self._build = cache(build) if bytes_per_view * n_views <= KEPT_BYTES else build

    def __iter__(self) -> Iterator[tuple[slice, sparse.csr_array]]:
        """Each range of views with its matrix."""
        for ends in self._ends:
            yield slice(*ends), self._build(*ends)


def slabs(n_slices: int) -> Iterator[slice]:
    """Ranges of slices to be worked on together."""
    for first in range(0, n_slices, SLAB):
        yield slice(first, min(first + SLAB, n_slices))


def product(matrix: sparse.csr_array, slices: NDArray, shape: tuple[int, ...]) -> NDArray:
    """A matrix times every slice of (z, ...), float32 (z, *shape)."""
    columns = np.ascontiguousarray(slices.reshape(len(slices), -1).T, dtype=np.float32)
    return (matrix @ columns).T.reshape(len(slices), *shape)


@lru_cache(maxsize=4)
def projector(scan: Scan, grid: Grid) -> ViewBlocks:
    """The matrix (rays, pixels) of a scan in mm: Joseph's method (IEEE TMI 1, 1982).

    A ray is followed along the axis in whose direction it advances faster, measured in pixels;
    in each row (or column) that it crosses, the image is interpolated between the two nearest
    pixels. Outside the image it is zero.
    """
    entries = 2 * max(grid.shape) * scan.detector.n_bins
    return ViewBlocks(partial(_matrix, scan, grid), scan.n_views, entries)


def _matrix(scan: Scan, grid: Grid, first: int, stop: int) -> sparse.csr_array:
    angles = scan.angles()[first:stop]
    return sparse.vstack([_view(scan, grid, angle) for angle in angles], format="csr")


def _view(scan: Scan, grid: Grid, angle: float) -> sparse.csr_array:
    """The rays of one view (bins, pixels), in float32."""
    theta, t = angle - scan.fan_angles(), scan.distances()
    cosine, sine = np.cos(theta), np.sin(theta)
    # Of each axis: pixel centres, their distance in mm, the step from one to the next when flat.
    y, x = zip(grid.coordinates(), grid.spacing, (grid.shape[1], 1), strict=True)
    dy, dx = grid.spacing
    steep = np.abs(cosine) * dx >= np.abs(sine) * dy  # advances faster along y, in pixels
    both = [
        _crossings(t[steep], sine[steep], cosine[steep], y, x),
        _crossings(t[~steep], cosine[~steep], sine[~steep], x, y),
    ]
    order = np.concatenate([np.flatnonzero(steep), np.flatnonzero(~steep)])
    return sparse.vstack(both, format="csr")[np.argsort(order)]


def _crossings(t: NDArray, a: NDArray, b: NDArray, along: _Axis, across: _Axis) -> sparse.csr_array:
    """Rays `a along + b across = t` followed along one axis: two pixels at each of its steps."""
    (centres, side, stride), (others, width, stride_across) = along, across
    place = (t[:, None] - a[:, None] * centres) / (b[:, None] * width)
    place += (others.size - 1) / 2  # in pixels across
    first = np.floor(place).astype(np.int32)
    pair = first[..., None] + np.array([0, 1], dtype=np.int32)  # (rays, steps, 2)
    inside = (pair >= 0) & (pair < others.size)
    share = place - first
    length = (side / np.abs(b))[:, None]  # of the ray within one step
    weights = np.stack([length * (1 - share), length * share], axis=-1)[inside].astype(np.float32)
    steps = np.arange(centres.size, dtype=np.int32)[:, None] * np.int32(stride)
    pixels = (pair * np.int32(stride_across) + steps)[inside]
    ends = np.concatenate([[0], np.cumsum(inside.sum(axis=(1, 2)))]).astype(np.int32)
    return sparse.csr_array((weights, pixels, ends), shape=(t.size, centres.size * others.size))
