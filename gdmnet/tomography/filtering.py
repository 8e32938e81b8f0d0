"""Ramp filters of filtered back-projection, applied along the detector."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import fft

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


def ramp(n_bins: int, pitch: float, angle: float | None = None) -> NDArray:
    """The band-limited ramp in space: Kak & Slaney 1988, eq. 3.61 (parallel) and 3.92 (fan).

    h(0) = 1 / (4 pitch^2), h(n) = -1 / (pi n pitch)^2 for odd n, else 0; on a curved detector times
    (n angle / sin(n angle))^2.

    Args:
        n_bins: to both sides of 0.
        pitch: mm at the isocentre.
        angle: radians from bin to bin of a curved detector; None of a flat one.

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


def filter_rows(
    sinogram: NDArray,
    pitch: float,
    window: str,
    *,
    angle: float | None = None,
    truncated: bool = False,
) -> NDArray:
    """Convolve each row with the windowed ramp.

    Rows are padded with zeros so that the convolution does not wrap around. Truncated rows are
    continued by a soft slope to zero instead: a step at the detector's end would become a bright
    rim about the field of view.

    Args:
        sinogram: (..., bins).
        pitch: mm at the isocentre.
        window: a name in `FILTERS`.
        angle: radians from bin to bin of a curved detector; None of a flat one.
        truncated: the object reaches beyond the detector, see `is_truncated`.

    Returns:
        float32 (..., bins), in 1/mm.
    """
    n_bins = sinogram.shape[-1]
    n_extra = _n_extra(n_bins, angle) if truncated else 0
    half = n_bins + n_extra
    size = fft.next_fast_len(2 * half - 1, real=True)
    kernel = np.zeros(size)
    kernel[: 2 * half - 1] = ramp(half, pitch, angle)
    response = pitch * fft.rfft(np.roll(kernel, 1 - half)).real
    response *= WINDOWS[window](2 * fft.rfftfreq(size))
    spectrum = fft.rfft(_continued(sinogram, n_extra), size)
    spectrum *= response.astype(np.float32)
    filtered: NDArray = fft.irfft(spectrum, size)[..., n_extra : n_extra + n_bins]
    return filtered


def is_truncated(sinogram: NDArray) -> bool:
    """Whether the object reaches beyond the detector: its outermost bins are not near zero."""
    edges = sinogram[..., [0, -1]]
    return bool(edges.mean() > _TRUNCATED * sinogram.max())


def _n_extra(n_bins: int, angle: float | None) -> int:
    """Bins by which truncated rows are continued; a curved detector must stay in front."""
    return n_bins // 2 if angle is None else max(0, min(n_bins // 2, int(3 / angle) - n_bins))


def _continued(sinogram: NDArray, n_extra: int) -> NDArray:
    if n_extra == 0:
        return sinogram
    slope = np.cos(np.pi / 2 * np.arange(1, n_extra + 1, dtype=np.float32) / (n_extra + 1)) ** 2
    return np.concatenate(
        [sinogram[..., :1] * slope[::-1], sinogram, sinogram[..., -1:] * slope], axis=-1
    )
