"""Volumes as short text: cosine transform of small blocks, whole steps, zlib, base64.

A block of 4 x 4 x 4 voxels becomes its mean and 63 details, of which most round to 0: at the 2 MB
of a case the error is about half of what differences between neighbours would leave. The page
decodes volumes when they are looked at (decode.js).
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn, idctn

from gdmnet.errors import OutputError
from gdmnet.geometry import Shape, Spacing

MOST_VOXELS = 7_000_000  # 256 x 256 x 100; a tablet holds four such volumes
FINEST_STEP = 0.005  # of a volume's scale: what is finer than this no window shows
_SIDE = 4  # voxels of a block
_MOST_STEPS = (1 << 15) - 1  # from 0: folded numbers then take 16 bits
_DEAD_ZONE = 0.4  # rounds from 0.6 upwards: lone small details cost more than they show
_LEVEL = 6  # of zlib; 9 is ten times slower and saves 3 %
_ROUNDS = 10
_FULL = 0.92  # full enough


@dataclass(frozen=True)
class Packed:
    """One volume as the page holds it."""

    text: str  # base64 of zlib of the transform in whole steps
    step: float  # in the volume's units
    rms: float  # root of the mean squared difference to the volume, in its units


def reduction(shape: Shape, spacing: Spacing, most_voxels: int = MOST_VOXELS) -> Shape:
    """How many voxels (z, y, x) become one, so that at most `most_voxels` are left.

    The finest axis is made coarser first, so that voxels become more alike along their axes.
    """
    factors = [1, 1, 1]
    while np.prod([-(-n // f) for n, f in zip(shape, factors, strict=True)]) > most_voxels:
        sides = [
            s * f if n > f else np.inf for s, f, n in zip(spacing, factors, shape, strict=True)
        ]
        factors[int(np.argmin(sides))] += 1
    return (factors[0], factors[1], factors[2])


def reduce(volume: NDArray, factors: Shape) -> NDArray:
    """Means over blocks of `factors` voxels, float32; the last block of an axis may be smaller."""
    reduced = volume.astype(np.float32, copy=False)
    for axis, factor in enumerate(factors):
        if factor > 1:
            starts = np.arange(0, reduced.shape[axis], factor)
            counts = np.diff(np.append(starts, reduced.shape[axis])).astype(np.float32)
            reduced = np.add.reduceat(reduced, starts, axis=axis)
            reduced /= np.expand_dims(counts, tuple({0, 1, 2} - {axis}))
    return reduced


def pack(volumes: Sequence[NDArray], scales: Sequence[float], n_bytes: int) -> list[Packed]:
    """Pack volumes (z, y, x) as finely as fits into `n_bytes` of text together.

    `scales` are what counts as equally visible in each, for example the width of its window.

    Raises:
        OutputError: not even the coarsest fit.
    """
    parts = [_transform(volume) for volume in volumes]
    share = _share(parts, scales, n_bytes)
    packed = []
    for part, volume, scale in zip(parts, volumes, scales, strict=True):
        step = max(share * scale, float(np.abs(part).max()) / _MOST_STEPS)
        text = base64.b64encode(_compressed(part, step)).decode("ascii")
        shown = _invert(_levels(part, step) * np.float32(step), volume.shape)
        rms = float(np.sqrt(np.mean(np.square(shown - volume), dtype=np.float64)))
        packed.append(Packed(text, step, rms))
    return packed


def _share(parts: Sequence[NDArray], scales: Sequence[float], n_bytes: int) -> float:
    """The finest step, as a share of each scale, that fits; found by secants in logarithms."""
    share, slope = FINEST_STEP, -0.6  # how log size falls with log step, until it is measured
    tried: list[tuple[float, int]] = []
    while n_bytes > 0 and len(tried) < _ROUNDS:
        size = sum(
            4 * -(-len(_compressed(part, share * scale)) // 3)
            for part, scale in zip(parts, scales, strict=True)
        )
        tried.append((share, size))
        if _FULL * n_bytes <= size <= n_bytes or (share == FINEST_STEP and size <= n_bytes):
            break
        if len(tried) > 1:
            (before, was), (now, is_) = tried[-2:]
            slope = min(-0.2, np.log(is_ / was) / np.log(now / before))
        wanted = (1 + _FULL) / 2 * n_bytes
        share = max(FINEST_STEP, share * (wanted / size) ** (1 / slope))
    fitting = [share for share, size in tried if size <= n_bytes]
    if not fitting:
        raise OutputError(
            f"a case of {len(parts)} volumes does not fit into a page: show fewer methods at once"
        )
    return min(fitting)


def pack_mask(mask: NDArray) -> str:
    """A mask (z, y, x) as base64 of zlib of its bits, x fastest, the first in the highest bit."""
    return base64.b64encode(zlib.compress(np.packbits(mask != 0).tobytes(), 9)).decode("ascii")


def _transform(volume: NDArray) -> NDArray:
    """(4, 4, 4, blocks z, y, x): the details of each kind of all blocks side by side."""
    filled = np.pad(volume, [(0, -n % _SIDE) for n in volume.shape], mode="edge")
    z, y, x = (n // _SIDE for n in filled.shape)
    blocks = filled.astype(np.float32).reshape(z, _SIDE, y, _SIDE, x, _SIDE)
    return dctn(blocks, axes=(1, 3, 5), norm="ortho").transpose(1, 3, 5, 0, 2, 4)


def _invert(details: NDArray, shape: tuple[int, ...]) -> NDArray:
    """The volume (z, y, x), float32, of `_transform`'s result."""
    blocks = idctn(details.transpose(3, 0, 4, 1, 5, 2), axes=(1, 3, 5), norm="ortho")
    z, y, x = (_SIDE * n for n in details.shape[3:])
    return blocks.reshape(z, y, x)[: shape[0], : shape[1], : shape[2]]


def _levels(details: NDArray, step: float) -> NDArray:
    """Details in whole steps, int32."""
    magnitude = np.floor(np.abs(details) / np.float32(step) + np.float32(_DEAD_ZONE))
    return np.copysign(np.minimum(magnitude, _MOST_STEPS), details).astype(np.int32)


def _compressed(details: NDArray, step: float) -> bytes:
    """Whole steps folded to 0, -1, 1, -2, 2, ... as 16 bits: all low bytes, then all high ones."""
    levels = _levels(details, step)
    folded = np.where(levels < 0, -2 * levels - 1, 2 * levels).astype("<u2")
    return zlib.compress(folded.reshape(-1, 1).view(np.uint8).T.tobytes(), _LEVEL)
