"""Large sparse matrices in blocks of views: kept where they fit, made anew where they do not.

scipy multiplies a CSR matrix with all columns of a dense matrix at once. The columns are the
slices of a volume, so that every index that is read serves many slices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

BLOCK_BYTES = 2**27  # of one matrix: what is in work besides what is kept
KEPT_BYTES = 2**29  # of all matrices of one operator; beyond that they are made anew each time
SLAB = 16  # slices at a time: one cache line of float32 a pixel

_BYTES_PER_ENTRY = 8  # float32 and int32


class ViewBlocks:
    """The matrix of a scan as blocks of consecutive views."""

    def __init__(
        self, build: Callable[[slice], sparse.csr_array], n_views: int, entries_per_view: int
    ) -> None:
        """Nothing is built before it is asked for.

        Args:
            build: makes the matrix of a range of views.
            n_views: in all.
            entries_per_view: an estimate from above.
        """
        bytes_per_view = _BYTES_PER_ENTRY * entries_per_view
        step = max(1, BLOCK_BYTES // bytes_per_view)
        self._views = [slice(i, min(i + step, n_views)) for i in range(0, n_views, step)]
        self._build = build
        self._keeps = bytes_per_view * n_views <= KEPT_BYTES
        self._kept: dict[int, sparse.csr_array] = {}

    def __iter__(self) -> Iterator[tuple[slice, sparse.csr_array]]:
        """Each range of views with its matrix."""
        for views in self._views:
            matrix = self._kept.get(views.start)
            if matrix is None:
                matrix = self._build(views)
                if self._keeps:
                    self._kept[views.start] = matrix
            yield views, matrix


def slabs(n_slices: int) -> Iterator[slice]:
    """Ranges of slices to be worked on together."""
    for first in range(0, n_slices, SLAB):
        yield slice(first, min(first + SLAB, n_slices))


def columns(slices: NDArray) -> NDArray:
    """Slices (z, ...) as the columns (..., z) of a float32 matrix, contiguous."""
    return np.ascontiguousarray(slices.reshape(len(slices), -1).T, dtype=np.float32)


def rows(matrix: NDArray, shape: tuple[int, ...]) -> NDArray:
    """The inverse of `columns`: columns (n, z) as slices (z, *shape)."""
    return matrix.T.reshape(matrix.shape[1], *shape)
