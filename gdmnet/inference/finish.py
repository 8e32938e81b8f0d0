"""The spectral finish: a small filter that gives predictions the power spectrum of real images.

Between stationary Gaussians of spectra P and R the optimal transport multiplies each frequency by
g = sqrt(R / P), and a share a of the way, x + a (g x - x), costs the least error for the distance
that it covers (Freirich et al., NeurIPS 2021). g is fitted on validation cases, of which it keeps
one number a shell of `metrics.spectrum.radial_power`; the filter is a kernel of 15 voxels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from scipy import fft, signal

from gdmnet.errors import PlanError
from gdmnet.geometry import Spacing
from gdmnet.metrics.spectrum import FEWEST_VOXELS, N_BINS, WINDOW, finest_spacing, radial_power
from gdmnet.plan import SpectralFinish

STRENGTHS = (0.0, 0.06, 0.12, 0.25, 0.5)  # that a fit may choose
LEAST_GAIN, MOST_GAIN = 0.5, 8.0
SIDE = 15  # voxels of the kernel along an axis; 1 where the image has few
USUAL = 95.0  # percentile of the corrections inside validation bodies: none may be larger


def apply_finish(
    finish: SpectralFinish, image: NDArray, body: NDArray, spacing: Spacing
) -> NDArray:
    """The image as x + a (h * x - x) inside the body; float32 (z, y, x), outside as it was.

    The full change h * x - x is cut at `finish.largest`, so that an edge gets no more than the
    texture beside it and does not ring. The image x is (z, y, x), in the units that the filter h
    and its strength a were fitted in; the spacing is mm (z, y, x).
    """
    if finish.strength == 0:
        return image
    change = correction(image, body, spacing, finish.gains)
    return image + np.float32(finish.strength) * change.clip(-finish.largest, finish.largest)


def correction(image: NDArray, body: NDArray, spacing: Spacing, gains: Sequence[float]) -> NDArray:
    """The change h * x - x = sum_j k_ij m_j (x_j - x_i): float32 (z, y, x), 0 outside the body m.

    The kernel k is that of g - 1. Only differences inside the body count, so that neither its edge
    nor the volume's end is seen, and what is constant stays as it is.
    """
    kernel = kernel_of(gains, spacing, image.shape)
    inside = body.astype(np.float32)
    blended = signal.oaconvolve(inside * image, kernel, mode="same")  # sum_j k_ij m_j x_j
    weight = signal.oaconvolve(inside, kernel, mode="same")  # sum_j k_ij m_j
    return (inside * (blended - weight * image)).astype(np.float32)


def kernel_of(gains: Sequence[float], spacing: Spacing, shape: tuple[int, ...]) -> NDArray:
    """float32 (15, 15, 15) whose Fourier transform is g(|f|) - 1, linear between the shells."""
    sides = [SIDE if n >= FEWEST_VOXELS else 1 for n in shape]
    z, y, x = (fft.fftfreq(n, mm) for n, mm in zip(sides, spacing, strict=True))
    radius = np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2)  # |f| in 1/mm
    shells = np.arange(1, N_BINS + 1) / (WINDOW * finest_spacing(shape, spacing))
    response = np.interp(radius, shells, gains) - 1
    return fft.fftshift(fft.ifftn(response).real).astype(np.float32)


@dataclass(frozen=True)
class FinishCase:
    """A validation case on the prepared grid: (z, y, x) arrays in network units, spacing in mm."""

    prediction: NDArray
    target: NDArray
    body: NDArray
    spacing: Spacing


def fit_finish(cases: Iterable[FinishCase]) -> SpectralFinish:
    """The filter of the cases' mean spectra, one case at a time; its strength is still 0."""
    found = []
    for case in cases:
        images = (case.prediction, case.target)
        power, real = (radial_power(image, case.body, case.spacing) for image in images)
        own = correction(case.prediction, case.body, case.spacing, _gains(power, real))
        found.append((power, real, np.percentile(np.abs(own[case.body]), USUAL)))
    power, real, usual = (np.mean(values, axis=0) for values in zip(*found, strict=True))
    return SpectralFinish(_gains(power, real), float(usual))


def _gains(power: NDArray, real: NDArray) -> tuple[float, ...]:
    """The gains sqrt(R / P), from 0.5 to 8; 1 at frequencies that no image has."""
    ratio = np.divide(real, power, out=np.ones(N_BINS), where=power > 0)
    return tuple(np.sqrt(np.nan_to_num(ratio, nan=1.0)).clip(LEAST_GAIN, MOST_GAIN).tolist())


def mean_finish(finishes: Sequence[SpectralFinish]) -> SpectralFinish:
    """One filter for the mean of several folds' predictions.

    Raises:
        PlanError: a filter has not as many gains as there are frequencies.
    """
    for finish in finishes:
        if len(finish.gains) != N_BINS:
            raise PlanError(f"the spectral finish has {len(finish.gains)} gains, not {N_BINS}")
    gains = tuple(np.mean([finish.gains for finish in finishes], axis=0).tolist())
    largest = fmean(finish.largest for finish in finishes)
    return SpectralFinish(gains, largest, fmean(finish.strength for finish in finishes))
