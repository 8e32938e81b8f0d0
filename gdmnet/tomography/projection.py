"""Forward projection, ray by ray, and its exact adjoint."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from gdmnet.tomography.blocks import ViewBlocks, columns, rows, slabs
from gdmnet.tomography.scan import Grid, Scan


def project(volume: NDArray, grid: Grid, scan: Scan) -> NDArray:
    """Line integrals of every slice.

    Args:
        volume: (z, y, x), attenuation in 1/mm; zero outside the array.
        grid: of a slice.
        scan: what is measured.

    Returns:
        float32 (z, views, bins), without unit.
    """
    sinogram = np.empty((len(volume), scan.n_views, scan.detector.n_bins), dtype=np.float32)
    for views, matrix in projector(scan, grid):
        for part in slabs(len(volume)):
            measured = matrix @ columns(volume[part])
            sinogram[part, views] = rows(measured, (-1, scan.detector.n_bins))
    return sinogram


def project_adjoint(sinogram: NDArray, grid: Grid, scan: Scan) -> NDArray:
    """Spread line integrals back along their rays: the exact adjoint, by the same matrix.

    For every v and s the inner products <project(v), s> and <v, project_adjoint(s)> are equal.

    Args:
        sinogram: (z, views, bins).
        grid: of a slice.
        scan: what was measured.

    Returns:
        float32 (z, y, x).
    """
    volume = np.zeros((len(sinogram), *grid.shape), dtype=np.float32)
    for views, matrix in projector(scan, grid):
        for part in slabs(len(sinogram)):
            volume[part] += rows(matrix.T @ columns(sinogram[part, views]), grid.shape)
    return volume


@lru_cache(maxsize=4)
def projector(scan: Scan, grid: Grid) -> ViewBlocks:
    """The matrix (rays, pixels) of a scan in mm: Joseph's method (IEEE TMI 1, 1982).

    A ray is followed along the axis in whose direction it advances faster, measured in pixels;
    in each row (or column) that it crosses, the image is interpolated between the two nearest
    pixels. Outside the image it is zero.
    """
    entries = 2 * max(grid.shape) * scan.detector.n_bins
    return ViewBlocks(partial(_matrix, scan, grid), scan.n_views, entries)


class _Axis(NamedTuple):
    """Pixel centres in mm, their distance, and the step from one to the next in a flat slice."""

    centres: NDArray
    side: float
    stride: int


def _matrix(scan: Scan, grid: Grid, views: slice) -> sparse.csr_array:
    return sparse.vstack([_view(scan, grid, angle) for angle in scan.angles()[views]], format="csr")


def _view(scan: Scan, grid: Grid, angle: float) -> sparse.csr_array:
    """The rays of one view (bins, pixels), in float32."""
    theta, t = angle - scan.fan_angles(), scan.distances()
    cosine, sine = np.cos(theta), np.sin(theta)
    centres, (dy, dx) = grid.coordinates(), grid.spacing
    y, x = _Axis(centres[0], dy, grid.shape[1]), _Axis(centres[1], dx, 1)
    steep = np.abs(cosine) * dx >= np.abs(sine) * dy  # advances faster along y, in pixels
    if steep.all():
        return _crossings(t, sine, cosine, y, x)
    if not steep.any():
        return _crossings(t, cosine, sine, x, y)
    both = sparse.vstack(
        [
            _crossings(t[steep], sine[steep], cosine[steep], y, x),
            _crossings(t[~steep], cosine[~steep], sine[~steep], x, y),
        ],
        format="csr",
    )
    order = np.concatenate([np.flatnonzero(steep), np.flatnonzero(~steep)])
    return both[np.argsort(order)]


def _crossings(t: NDArray, a: NDArray, b: NDArray, along: _Axis, across: _Axis) -> sparse.csr_array:
    """Rays `a along + b across = t` followed along one axis: two pixels at each of its steps."""
    place = (t[:, None] - a[:, None] * along.centres) / (b[:, None] * across.side)
    place += (across.centres.size - 1) / 2  # in pixels across
    first = np.floor(place).astype(np.int32)
    pair = first[..., None] + np.array([0, 1], dtype=np.int32)  # (rays, steps, 2)
    inside = (pair >= 0) & (pair < across.centres.size)
    share = place - first
    length = (along.side / np.abs(b))[:, None]  # of the ray within one step
    weights = np.stack([length * (1 - share), length * share], axis=-1)
    steps = np.arange(along.centres.size, dtype=np.int32)[:, None] * np.int32(along.stride)
    pixels = pair * np.int32(across.stride) + steps
    ends = np.cumsum(inside.sum(axis=(1, 2)))
    return sparse.csr_array(
        (
            weights[inside].astype(np.float32),
            pixels[inside],
            np.concatenate([[0], ends]).astype(np.int32),
        ),
        shape=(t.size, along.centres.size * across.centres.size),
    )
