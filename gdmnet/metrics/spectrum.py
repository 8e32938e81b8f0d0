"""Texture and resolution by frequency: radial power spectra inside a mask, and their distance.

Arrays are (z, y, x) on one grid, in any unit; frequencies are in 1/mm.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from gdmnet.geometry import Shape, Spacing

WINDOW = 32  # voxels along the finest axis; the other axes reach equally far in mm
N_BINS = WINDOW // 2  # from 1 / window length to the finest axis' Nyquist frequency
FEWEST_VOXELS = 4  # an axis on which a window would have fewer is cut into single slices
MOST_WINDOWS = 1024  # half a second
_BATCH = 64


def radial_power(
    image: NDArray, mask: NDArray, spacing: Spacing, *, n_windows: int = MOST_WINDOWS
) -> NDArray:
    """Mean power of the image at N_BINS spatial frequencies, by Welch's method (Welch 1967).

    The image is cut into half-overlapping windows, those with at least half as much mask as the
    fullest one count, each is freed of its weighted mean m and weighted by a Hann window w:
    P(k) = mean over windows |F(w (x - m))(k)|^2 / sum w^2, so that white noise of standard
    deviation s has the power s^2 everywhere. P is then averaged over the shells
    round(|k| L) = 1 ... N_BINS, where L = WINDOW times the finest spacing.

    Args:
        image: (z, y, x); what lies outside the mask enters only at windows on the mask's border.
        mask: (z, y, x), bool, not empty.
        spacing: mm (z, y, x).
        n_windows: at most so many, spread evenly over all that count.

    Returns:
        float64 (N_BINS,), in squared units of the image; nan where a shell has no frequency.
    """
    size = window_shape(image.shape, spacing)
    starts = _starts(mask, size, n_windows)
    weights = _hann(size)
    total = np.zeros((*size[:2], size[2] // 2 + 1))
    for first in range(0, len(starts), _BATCH):
        parts = np.stack([image[_window(s, size)] for s in starts[first : first + _BATCH]])
        parts = parts.astype(np.float32, copy=False)
        means = (parts * weights).sum(axis=(1, 2, 3), keepdims=True, dtype=np.float64)
        parts -= (means / weights.sum(dtype=np.float64)).astype(np.float32)
        spectra = fft.rfftn(parts * weights, axes=(1, 2, 3))
        total += (spectra.real**2 + spectra.imag**2).sum(axis=0, dtype=np.float64)
    power = total / (len(starts) * float(np.square(weights, dtype=np.float64).sum()))
    shell, count = _shells(size, spacing, WINDOW * finest_spacing(image.shape, spacing))
    chosen = (shell >= 1) & (shell <= N_BINS)
    sums = np.bincount(shell[chosen], (count * power)[chosen], N_BINS + 1)[1:]
    counts = np.bincount(shell[chosen], count[chosen], N_BINS + 1)[1:]
    return np.divide(sums, counts, out=np.full(N_BINS, np.nan), where=counts > 0)


def log_distance(power: NDArray, reference: NDArray, floor: float) -> float | None:
    """Log-spectral distance in dB (Gray & Markel 1976): root mean square over the frequencies.

    d = sqrt(mean_k (10 log10((P_k + floor) / (R_k + floor)))^2) of two results of `radial_power`
    with one mask and spacing; power below the floor is too small to matter, so that rounding is no
    texture. A Gaussian blur of sigma mm lowers frequency f by 10 log10(e) (2 pi f sigma)^2 dB.
    None where no frequency is defined (an image of one voxel).
    """
    defined = np.isfinite(power) & np.isfinite(reference)
    if not defined.any():
        return None
    ratio = 10 * np.log10((power[defined] + floor) / (reference[defined] + floor))
    return float(np.sqrt(np.square(ratio).mean()))


def window_shape(shape: tuple[int, ...], spacing: Spacing) -> Shape:
    """Voxels (z, y, x) of a window: equally long in mm on all axes as far as the image reaches."""
    length = WINDOW * finest_spacing(shape, spacing)
    wanted = (min(n, round(length / mm)) for n, mm in zip(shape, spacing, strict=True))
    z, y, x = (n if n >= FEWEST_VOXELS else 1 for n in wanted)
    return z, y, x


def finest_spacing(shape: tuple[int, ...], spacing: Spacing) -> float:
    """The finest spacing of the axes that are long enough for a window."""
    along = [mm for n, mm in zip(shape, spacing, strict=True) if n >= FEWEST_VOXELS]
    return min(along or spacing)


def _starts(mask: NDArray, size: Shape, most: int) -> list[Shape]:
    """First voxels of the windows that count, in raster order."""
    axes = []
    for n, length in zip(mask.shape, size, strict=True):
        regular = range(0, n - length + 1, max(1, length // 2))
        axes.append(sorted({*regular, n - length}))
    starts = [(z, y, x) for z in axes[0] for y in axes[1] for x in axes[2]]
    filled = np.array([np.count_nonzero(mask[_window(start, size)]) for start in starts])
    chosen = np.flatnonzero(filled >= 0.5 * filled.max())
    if len(chosen) > most:
        chosen = chosen[np.linspace(0, len(chosen) - 1, most).astype(int)]
    return [starts[i] for i in chosen]


def _window(start: Shape, size: Shape) -> tuple[slice, slice, slice]:
    z, y, x = (slice(first, first + n) for first, n in zip(start, size, strict=True))
    return z, y, x


def _hann(size: Shape) -> NDArray:
    """float32 (z, y, x): sin^2 on every axis, nowhere zero; 1 along axes of one voxel."""
    z, y, x = (np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in size)
    return (z[:, None, None] * y[:, None] * x).astype(np.float32)


def _shells(size: Shape, spacing: Spacing, length: float) -> tuple[NDArray, NDArray]:
    """Of each real-FFT frequency: its shell round(|k| length), and how often it counts (1, 2)."""
    z, y = (fft.fftfreq(n, mm) for n, mm in zip(size[:2], spacing[:2], strict=True))
    x = fft.rfftfreq(size[2], spacing[2])
    radius = np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2)
    shell = np.rint(radius * length).astype(int)
    mirrored = np.full(len(x), 2.0)
    mirrored[0] = 1
    if size[2] % 2 == 0:
        mirrored[-1] = 1
    return shell, np.broadcast_to(mirrored, shell.shape)
