"""The CDF 9/7 wavelet on volumes: detail apart from overview, so that little has to be stored.

The wavelet of JPEG 2000, by lifting (Daubechies and Sweldens, "Factoring wavelet transforms into
lifting steps", 1998): odd samples are predicted from their neighbours, even ones smoothed with what
is left, twice over, and both scaled so that the transform is nearly orthonormal. An error in a
coefficient is then about as large an error in the picture. decode.js holds the same inverse.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gdmnet.geometry import Shape

N_LEVELS, SHORTEST = 4, 8  # an axis is halved at most so often, and only while it is longer
LIFTS = (-1.586134342059924, -0.052980118572961, 0.882911075530934, 0.443506852043971)
SCALE = 1.230174104914001
Box = tuple[slice, slice, slice]


def forward(volume: NDArray) -> NDArray:
    """Coefficients of a volume (z, y, x), float32, same shape: the overview in the first corner."""
    coefficients = volume.astype(np.float32)
    for box, axes in _levels(volume.shape):
        part = coefficients[box]
        for axis in axes:
            part = _split(part, axis)
        coefficients[box] = part
    return coefficients


def inverse(coefficients: NDArray) -> NDArray:
    """The volume (z, y, x), float32, of its coefficients."""
    volume = coefficients.astype(np.float32)
    for box, axes in reversed(_levels(volume.shape)):
        part = volume[box]
        for axis in reversed(axes):
            part = _join(part, axis)
        volume[box] = part
    return volume


def bands(shape: tuple[int, ...]) -> list[Box]:
    """Where each band of coefficients lies, the overview first, then from coarse to fine.

    Within a level bands are counted in binary: bit 0 says that z holds detail, bit 1 y, bit 2 x.
    """
    found: list[Box] = []
    lows = [slice(0, n) for n in shape]
    for box, axes in _levels(shape):
        parts = [[side] for side in box]
        for axis in axes:
            n = box[axis].stop
            parts[axis] = [slice(0, (n + 1) // 2), slice(n - n // 2, n)]
        level = [(z, y, x) for x in parts[2] for y in parts[1] for z in parts[0]]
        lows = list(level[0])
        found = level[1:] + found
    return [(lows[0], lows[1], lows[2]), *found]


def _levels(shape: tuple[int, ...]) -> list[tuple[Box, list[int]]]:
    """The corner that each level splits, finest first, and along which axes."""
    size: Shape = (shape[0], shape[1], shape[2])
    levels = []
    for _ in range(N_LEVELS):
        axes = [axis for axis in range(3) if size[axis] > SHORTEST]
        if not axes:
            break
        levels.append(((slice(0, size[0]), slice(0, size[1]), slice(0, size[2])), axes))
        z, y, x = ((n + 1) // 2 if n > SHORTEST else n for n in size)
        size = (z, y, x)
    return levels


def _split(part: NDArray, axis: int) -> NDArray:
    samples = np.moveaxis(part, axis, 0)
    even, odd = samples[0::2].copy(), samples[1::2].copy()
    for i, weight in enumerate(LIFTS):
        if i % 2 == 0:
            odd += np.float32(weight) * _around_odd(even, len(odd))
        else:
            even += np.float32(weight) * _around_even(odd, len(even))
    even *= np.float32(SCALE)
    odd /= np.float32(SCALE)
    return np.moveaxis(np.concatenate([even, odd]), 0, axis)


def _join(part: NDArray, axis: int) -> NDArray:
    halves = np.moveaxis(part, axis, 0)
    n_even = (len(halves) + 1) // 2
    even, odd = halves[:n_even] / np.float32(SCALE), halves[n_even:] * np.float32(SCALE)
    for i, weight in reversed(list(enumerate(LIFTS))):
        if i % 2 == 0:
            odd -= np.float32(weight) * _around_odd(even, len(odd))
        else:
            even -= np.float32(weight) * _around_even(odd, len(even))
    samples = np.empty_like(halves)
    samples[0::2], samples[1::2] = even, odd
    return np.moveaxis(samples, 0, axis)


def _around_odd(even: NDArray, n_odd: int) -> NDArray:
    """The sum of both even neighbours of each odd sample; beyond the end it is mirrored."""
    after = even[1:] if len(even) > n_odd else np.concatenate([even[1:], even[-1:]])
    return even[:n_odd] + after


def _around_even(odd: NDArray, n_even: int) -> NDArray:
    """The sum of both odd neighbours of each even sample; beyond the ends it is mirrored."""
    both = np.concatenate([odd[:1], odd, odd[-1:]])
    return both[:n_even] + both[1 : n_even + 1]
