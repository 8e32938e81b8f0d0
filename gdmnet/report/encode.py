"""Volumes as short text: a coarser grid, wavelet coefficients in steps, zlib, base64.

The page decodes them when they are looked at (decode.js).
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gdmnet.geometry import Shape, Spacing
from gdmnet.report.wavelet import bands, forward, inverse

MOST_VOXELS = 7_000_000  # 256 x 256 x 100; a tablet holds four such volumes
FINEST_STEP = 0.005  # of a volume's scale: what is finer than this no window shows
_DEAD_ZONE = 0.4  # rounds from 0.6 upwards: lone small coefficients cost more than they show
_LEVEL = 6  # of zlib; 9 is five times slower and saves 2 %
_ROUNDS = 10
_FULL = 0.92  # full enough


@dataclass(frozen=True)
class Packed:
    """One volume as the page holds it.

    Attributes:
        text: base64 of zlib of the coefficients.
        step: of the coefficients, in the volume's units.
        rms: root of the mean squared difference to the volume that was packed, in its units.
    """

    text: str
    step: float
    rms: float


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
    """Pack volumes as finely as fits into `n_bytes` of text together.

    Args:
        volumes: (z, y, x) each.
        scales: what counts as equally visible in each, for example the width of its window.
        n_bytes: for all of them together.
    """
    parts = [forward(volume) for volume in volumes]
    share = _share(parts, scales, n_bytes)
    packed = []
    for part, volume, scale in zip(parts, volumes, scales, strict=True):
        step = share * scale
        stream = _compressed(part, step)
        shown = inverse(_levels(part, step) * np.float32(step))
        rms = float(np.sqrt(np.mean(np.square(shown - volume), dtype=np.float64)))
        packed.append(Packed(base64.b64encode(stream).decode("ascii"), step, rms))
    return packed


def _share(parts: Sequence[NDArray], scales: Sequence[float], n_bytes: int) -> float:
    """The finest step, as a share of each scale, that fits; found by secants in logarithms.

    Raises:
        ValueError: none fits.
    """
    share, slope = FINEST_STEP, -0.6  # how log size falls with log step, until it is measured
    tried: list[tuple[float, int]] = []
    for _ in range(_ROUNDS):
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
        raise ValueError(f"{n_bytes} bytes are too few for {len(parts)} volumes")
    return min(fitting)


def pack_mask(mask: NDArray) -> str:
    """A mask (z, y, x) as base64 of zlib of its bits, x fastest, the first in the highest bit."""
    return base64.b64encode(zlib.compress(np.packbits(mask != 0).tobytes(), 9)).decode("ascii")


def unpack(text: str, step: float, shape: Shape) -> NDArray:
    """The volume (z, y, x), float32, that the page shows."""
    numbers = _from_varints(zlib.decompress(base64.b64decode(text)))
    coefficients = np.empty(shape, np.float32)
    first = 0
    for box in bands(shape):
        band = coefficients[box]
        band[...] = numbers[first : first + band.size].reshape(band.shape)
        first += band.size
    return inverse(coefficients * np.float32(step))


def _levels(coefficients: NDArray, step: float) -> NDArray:
    """Coefficients in whole steps, int32."""
    magnitude = np.floor(np.abs(coefficients) / np.float32(step) + np.float32(_DEAD_ZONE))
    return np.copysign(magnitude, coefficients).astype(np.int32)


def _compressed(coefficients: NDArray, step: float) -> bytes:
    levels = _levels(coefficients, step)
    stream = b"".join(_varints(levels[box].ravel()) for box in bands(levels.shape))
    packer = zlib.compressobj(_LEVEL, strategy=zlib.Z_FILTERED)
    return packer.compress(stream) + packer.flush()


def _varints(numbers: NDArray) -> bytes:
    """Whole numbers as 0, -1, 1, -2, 2, ... in groups of 7 bits, the lowest first.

    The highest bit of a byte says that another follows. Small numbers, nearly all, take one byte.
    """
    folded = np.where(numbers < 0, -2 * numbers - 1, 2 * numbers).astype(np.uint32)
    if folded.size == 0 or folded.max() < 128:
        return folded.astype(np.uint8).tobytes()
    lengths = np.ones(folded.shape, np.int64)
    for bits in (7, 14, 21, 28):
        lengths += folded >= 1 << bits
    starts = np.cumsum(lengths) - lengths
    stream = np.zeros(int(lengths.sum()), np.uint8)
    for i in range(int(lengths.max())):
        has = lengths > i
        follows = np.where(lengths[has] > i + 1, 128, 0)
        stream[starts[has] + i] = (folded[has] >> (7 * i) & 127) | follows
    return stream.tobytes()


def _from_varints(stream: bytes) -> NDArray:
    values = np.frombuffer(stream, np.uint8).astype(np.int64)
    ends = np.flatnonzero(values < 128)
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(len(values)) - np.repeat(starts, ends - starts + 1)
    folded = np.add.reduceat((values & 127) << (7 * place), starts)
    return np.where(folded % 2 == 1, -(folded + 1) // 2, folded // 2)
